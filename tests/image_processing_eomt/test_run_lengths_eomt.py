import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from image_processing_eomt.run_lengths_eomt import encode_masks


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 1), (23, 41), (400, 300)])
def test_run_lengths_are_those_of_pycocotools(size, density):
    masks = torch.rand(3, *size) < density
    encoded = encode_masks(masks)
    expected = coco_mask.encode(np.asfortranarray(masks.numpy().transpose(1, 2, 0).astype(np.uint8)))
    assert [rle["counts"] for rle in encoded] == [rle["counts"].decode() for rle in expected]
    assert all(rle["size"] == list(size) for rle in encoded)
    assert np.array_equal(coco_mask.decode(json.loads(json.dumps(encoded))).transpose(2, 0, 1), masks.numpy())


def test_long_runs_need_several_characters():
    mask = torch.zeros(1, 3000, 2000, dtype=torch.bool)
    mask[0, 1500, 1000:1003] = True
    assert coco_mask.area(encode_masks(mask)).tolist() == [3]


def test_no_mask_gives_no_run_lengths():
    assert encode_masks(torch.zeros(0, 4, 5, dtype=torch.bool)) == []

import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from training_eomt.data.masks import decode_runs, encode_masks, find_values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("size", [(13, 29), (1, 40), (40, 1), (1, 1)])
def test_run_lengths_are_those_of_pycocotools(size, dtype):
    segment_map = np.random.default_rng(1).integers(0, 3, size).repeat(2, axis=0).astype(dtype)
    ids = [2, 77, 0, 1]  # 77 is nowhere
    masks = np.asfortranarray(np.stack([segment_map == segment for segment in ids], axis=-1).astype(np.uint8))
    assert encode_masks(segment_map, ids) == coco_mask.encode(masks)


def test_memory_of_masks_does_not_grow_with_the_number_of_segments():
    segment_map = np.repeat(np.arange(200, dtype=np.uint8), 10)[:, None].repeat(1000, axis=1)  # 2 million pixels
    tracemalloc.start()
    rles = encode_masks(segment_map, list(range(200)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rles) == 200 and peak < 20 * segment_map.size  # 200 masks are 200 bytes a pixel


def test_the_pixels_of_a_compressed_encoding_are_counted_as_pycocotools_wrote_it():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (20, 30), (300, 1000)):
        for share in (0.0, 0.01, 0.5, 1.0):
            mask = np.asfortranarray(rng.random((height, width)) < share, dtype=np.uint8)
            assert sum(decode_runs(coco_mask.encode(mask)["counts"].decode())) == height * width


@pytest.mark.parametrize(
    "values", [[0, 3, 3], [70_000, 5], [2**24 - 1, 0], [2**31 - 1, 2], [-4, 9], [0]], ids=lambda values: str(values[0])
)
def test_values_are_those_that_numpy_finds(values):
    label_map = np.array([values], np.int32)
    assert find_values(label_map) == set(np.unique(label_map).tolist())

import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from training_eomt.data.masks import encode_masks
from training_eomt.data.samples import Category, LabelSpace, Sample, Target


def test_masks_survive_run_length_encoding():
    segment_map = np.random.default_rng(0).integers(0, 4, (13, 29))
    rles = encode_masks(segment_map, [3, 1])
    sample = Sample(1, Image.new("RGB", (29, 13)), [Target(rle, 0) for rle in rles])
    masks = sample.masks()
    assert sample.size == (13, 29) and masks.dtype == bool
    np.testing.assert_array_equal(masks, np.stack([segment_map == 3, segment_map == 1]))


def test_a_sample_without_targets_has_zero_masks_of_its_size():
    assert Sample("empty", Image.new("RGB", (29, 13))).masks().shape == (0, 13, 29)


def test_label_ids_are_contiguous_in_listed_order():
    space = LabelSpace((Category(90, "cup", True), Category(7, "sky", False), Category(12, "dog", True)))
    assert len(space) == 3
    assert space.label_ids == {90: 0, 7: 1, 12: 2}
    assert space.id2label == {0: "cup", 1: "sky", 2: "dog"}
    assert space.stuff_classes == [1]


def test_categories_with_one_name_are_an_error():
    with pytest.raises(ValueError, match="Categories 7 and 8 are both called 'cup'"):
        LabelSpace((Category(7, "cup", True), Category(8, "cup", False)))


def test_two_categories_with_one_id_are_an_error_that_names_both():
    with pytest.raises(ValueError, match=r"id 7 .*'cup'.*'sky'"):
        LabelSpace((Category(7, "cup", True), Category(7, "sky", False)))


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


def test_a_name_is_the_same_however_its_accents_were_typed():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    with pytest.raises(ValueError, match="Categories 0 and 1 are both called"):
        LabelSpace((Category(0, composed, True), Category(1, decomposed, True)))
    space = LabelSpace((Category(5, decomposed, True),), ("tea", decomposed))
    assert space.label_ids == {5: 1} and space.names == ("tea", composed)
    assert LabelSpace((Category(5, decomposed, True),), (composed,)).label_ids == {5: 0}


def test_a_category_has_a_name():
    with pytest.raises(ValueError, match="Category 3 has no name"):
        Category(3, " ", True)

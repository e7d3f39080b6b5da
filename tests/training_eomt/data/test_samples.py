import numpy as np
import pytest
from PIL import Image

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

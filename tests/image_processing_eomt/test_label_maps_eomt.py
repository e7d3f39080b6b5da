import numpy as np
import pytest
import torch
from PIL import Image

from image_processing_eomt.label_maps_eomt import as_label_maps, masks_and_classes, resize_nearest


LABEL_MAP = torch.tensor([[0, 0, 2], [2, 255, 255]])


def test_an_id_that_the_mapping_lists_is_never_ignored():
    masks, classes = masks_and_classes(torch.tensor([[255, 7]]), {255: 3, 7: 1}, 255, False)
    assert classes.tolist() == [1, 3] and masks.tolist() == [[[False, True]], [[True, False]]]


def test_ids_are_classes_and_only_the_ignored_one_is_left_out():
    masks, classes = masks_and_classes(LABEL_MAP, None, 255, False)
    assert classes.tolist() == [0, 2]
    assert masks.dtype == torch.bool
    assert torch.equal(masks, torch.stack([LABEL_MAP == 0, LABEL_MAP == 2]))


def test_without_ignore_index_every_id_counts():
    assert masks_and_classes(LABEL_MAP, None, None, False)[1].tolist() == [0, 2, 255]


def test_reduced_labels_leave_out_0_and_lower_the_others_but_not_the_ignored_one():
    masks, classes = masks_and_classes(LABEL_MAP, None, 255, True)
    assert classes.tolist() == [1]
    assert torch.equal(masks[0], LABEL_MAP == 2)


def test_instances_take_the_class_of_their_id_and_may_share_it():
    masks, classes = masks_and_classes(torch.tensor([[7, 8, 9]]), {7: 3, 8: 3, 9: 0}, 255, False)
    assert classes.tolist() == [3, 3, 0]
    assert torch.equal(masks[:, 0], torch.eye(3, dtype=torch.bool))


def test_an_ignored_id_needs_no_class_and_an_instance_of_the_ignored_class_is_left_out():
    _, classes = masks_and_classes(torch.tensor([[255, 7, 8]]), {7: 255, 8: 1}, 255, False)
    assert classes.tolist() == [1]


def test_reduction_applies_to_the_class_of_an_instance():
    _, classes = masks_and_classes(torch.tensor([[0, 7, 8]]), {7: 3, 8: 0}, 255, True)
    assert classes.tolist() == [2]


def test_a_map_of_nothing_gives_no_targets():
    masks, classes = masks_and_classes(torch.full((2, 3), 255), None, 255, False)
    assert masks.shape == (0, 2, 3)
    assert masks.dtype == torch.bool
    assert classes.shape == (0,)
    assert classes.dtype == torch.int64


def test_cityscapes_train_ids_are_what_they_say():
    label_map = torch.tensor([[0, 7, 18, 255]])
    masks, classes = masks_and_classes(label_map, None, 255, False)
    assert classes.tolist() == [0, 7, 18]
    assert masks[:, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_a_stack_of_masks_may_overlap_and_takes_classes_by_index():
    stack = torch.tensor([[[1, 1, 0]], [[0, 1, 1]], [[0, 0, 0]], [[1, 0, 0]]]).bool()
    masks, classes = masks_and_classes(stack, {0: 4, 1: 2, 2: 1, 3: 255}, 255, False)
    assert classes.tolist() == [4, 2]  # the third has no pixel, the fourth is of the ignored class
    assert torch.equal(masks, stack[:2])
    assert masks_and_classes(stack, {0: 4, 1: 0, 2: 1, 3: 1}, 255, True)[1].tolist() == [3, 0]
    # An id is only an index here: 1 is no class, and so not the ignored one.
    assert masks_and_classes(stack, {0: 4, 1: 2, 2: 3, 3: 3}, 1, False)[1].tolist() == [4, 2, 3]


def test_a_list_may_hold_stacks_of_masks():
    stack = np.ones((2, 4, 4), bool)
    label_map, masks = as_label_maps([np.zeros((4, 4), np.uint8), stack])
    assert label_map.dtype == torch.int64 and torch.equal(masks, torch.from_numpy(stack))


@pytest.mark.parametrize("size", [(3, 5), (20, 31), (7, 9), (14, 4)])
def test_nearest_resize_matches_pil(size):
    label_map = np.random.default_rng(0).integers(0, 2**24, (7, 9), dtype=np.int32)
    expected = Image.fromarray(label_map).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(resize_nearest(torch.from_numpy(label_map), size), np.array(expected))


def test_one_map_a_stack_and_a_list_of_any_kind_are_read():
    array = LABEL_MAP.numpy().astype(np.uint8)
    for given in (array, Image.fromarray(array), LABEL_MAP, [array], array[None], (LABEL_MAP.int(),)):
        (label_map,) = as_label_maps(given)
        assert torch.equal(label_map, LABEL_MAP)


@pytest.mark.parametrize("label_map", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), torch.zeros(4, 4)])
def test_colours_and_floats_are_not_label_maps(label_map):
    with pytest.raises(ValueError, match="Segmentation map 1 must be"):
        as_label_maps([np.zeros((4, 4), np.uint8), label_map])


def test_a_map_of_complex_numbers_is_an_error():
    with pytest.raises(ValueError, match="Segmentation map 0 must be"):
        as_label_maps(torch.zeros(4, 5, dtype=torch.complex64))


def test_more_ids_than_a_segmentation_has_are_an_error():
    with pytest.raises(ValueError, match="10201 different ids, at most 10000"):
        masks_and_classes(torch.arange(101 * 101).view(101, 101), None, None, False)


@pytest.mark.parametrize("label", ["1", 1.5, None])
def test_a_class_that_is_no_whole_number_is_an_error(label):
    with pytest.raises(ValueError, match="class of id 7 must be a whole number"):
        masks_and_classes(torch.full((2, 2), 7), {7: label}, 255, False)

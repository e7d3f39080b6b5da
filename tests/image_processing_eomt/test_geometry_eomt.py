"""Sizes, windows, resampling, label maps and run lengths."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask

from image_processing_eomt import geometry_eomt
from image_processing_eomt.geometry_eomt import (
    View,
    as_label_maps,
    compute_view,
    cover_size,
    encode_masks,
    fit_size,
    interpolate_rows,
    masks_and_classes,
    parse_size,
    place_windows,
    resize_nearest,
    upsample_masks,
)


@pytest.mark.parametrize(
    "size",
    [
        {"shortest_edge": 48, "longest_edge": 64},
        {"height": 48, "width": 64},
        (48, 64),
        [48, 64],
    ],
)
def test_every_way_to_give_a_size_means_height_and_width(size):
    assert parse_size(size) == (48, 64)


@pytest.mark.parametrize("size", [64, {"shortest_edge": 64}, {"shortest_edge": 64, "longest_edge": None}])
def test_one_edge_means_a_square(size):
    assert parse_size(size) == (64, 64)


@pytest.mark.parametrize(
    "size", [{"longest_edge": 64}, {"height": 64}, (1, 2, 3), None, 0, -1, True, "ab", b"ab", (1, 0), (1, "2"), 20_000]
)
def test_other_sizes_are_errors(size):
    with pytest.raises(ValueError, match="size must be"):
        parse_size(size)


@pytest.mark.parametrize(
    ("image_size", "target_size", "expected"),
    [
        ((97, 131), (128, 128), (95, 128)),  # 94.78 is rounded up, not truncated
        ((170, 112), (128, 128), (128, 84)),  # 84.33 is rounded down
        ((100, 100), (64, 128), (64, 64)),
        ((50, 100), (128, 128), (64, 128)),  # small images grow
        ((1, 1000), (64, 64), (1, 64)),  # nothing vanishes
    ],
)
def test_images_fit_in_the_target_with_rounded_edges(image_size, target_size, expected):
    assert fit_size(image_size, target_size) == expected


@pytest.mark.parametrize(
    ("image_size", "target_size", "expected"),
    [
        ((97, 131), (128, 128), (128, 173)),  # 172.87 is rounded up, not truncated
        ((170, 112), (128, 128), (194, 128)),  # 194.29 is rounded down
        ((100, 100), (64, 128), (128, 128)),
        ((1000, 1), (64, 64), (64000, 64)),
    ],
)
def test_images_cover_the_target_with_rounded_edges(image_size, target_size, expected):
    assert cover_size(image_size, target_size) == expected


def test_windows_cover_every_length_evenly_with_as_few_as_possible():
    chance = random.Random(0)
    for _ in range(2000):
        window, length = chance.randint(1, 1300), chance.randint(1, 5000)
        starts = place_windows(length, window)
        assert len(starts) == -(-length // window)
        assert starts[0] == 0
        if length > window:
            assert starts[-1] + window == length
        steps = {after - before for before, after in itertools.pairwise(starts)}
        assert all(0 < step <= window for step in steps)
        assert not steps or max(steps) - min(steps) <= 1


def test_the_last_pixel_is_seen_where_floating_point_would_lose_it():
    # int(11 * (356 - 120 / 11)) is 3795: one column would be in no window
    assert place_windows(4152, 356)[-1] == 3796


SETTINGS = {"do_resize": True, "do_pad": True, "do_split_image": False}


def test_a_split_image_has_windows_along_its_longer_side():
    wide = compute_view((100, 250), 64, **{**SETTINGS, "do_split_image": True})
    assert (wide.content_size, wide.input_size) == ((64, 160), (64, 64))
    assert wide.windows == ((0, 0), (0, 48), (0, 96))
    assert wide.spans == [(0, 64), (48, 112), (96, 160)]
    high = compute_view((250, 100), 64, **{**SETTINGS, "do_split_image": True})
    assert high.windows == ((0, 0), (48, 0), (96, 0))
    assert high.spans == wide.spans


def test_windows_have_the_shape_of_the_target():
    view = compute_view((100, 100), (32, 64), **{**SETTINGS, "do_split_image": True})
    assert (view.content_size, view.input_size, view.windows) == ((64, 64), (32, 64), ((0, 0), (32, 0)))


def test_an_image_that_is_not_split_is_one_window():
    assert compute_view((50, 100), 64, **SETTINGS) == ((32, 64), (64, 64), ((0, 0),))
    assert compute_view((50, 100), 64, **{**SETTINGS, "do_pad": False}) == ((32, 64), (32, 64), ((0, 0),))
    assert compute_view((50, 60), 64, **{**SETTINGS, "do_resize": False}) == ((50, 60), (64, 64), ((0, 0),))


@pytest.mark.parametrize(
    ("image_size", "settings", "message"),
    [
        ((50, 100), {"do_resize": False}, "does not fit"),
        ((50, 100), {"do_resize": False, "do_split_image": True, "do_pad": False}, "does not fill a window"),
        ((70, 100), {"do_resize": False, "do_split_image": True}, "both higher and wider"),
    ],
)
def test_images_that_are_not_resized_and_do_not_suit_are_errors(image_size, settings, message):
    with pytest.raises(ValueError, match=message):
        compute_view(image_size, 64, **{**SETTINGS, **settings})


def test_a_small_image_that_is_split_but_not_resized_is_padded():
    view = compute_view((50, 100), 64, do_resize=False, do_pad=True, do_split_image=True)
    assert (view.content_size, view.input_size, view.windows) == ((50, 100), (64, 64), ((0, 0), (0, 36)))


def test_an_image_that_would_become_too_many_windows_is_an_error_with_the_limit():
    split = {**SETTINGS, "do_split_image": True}
    assert len(compute_view((81, 1), 640, **split).windows) == 81
    for size in ((10_000, 1), (1, 10_000)):
        with pytest.raises(ValueError, match=r"10000 windows of \(640, 640\).*at most 33,554,432 pixels"):
            compute_view(size, 640, **split)
        assert compute_view(size, 640, **SETTINGS).windows == ((0, 0),)
    assert compute_view((6000, 6000), 8192, **split).windows == ((0, 0),)  # large, but as it was asked for


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_an_error(size):
    with pytest.raises(ValueError, match="has no pixel"):
        compute_view(size, 64, **SETTINGS)


@pytest.fixture
def small_bands(monkeypatch):
    """Bands of a few rows, so that there are many."""
    monkeypatch.setattr(geometry_eomt, "BAND_NUMEL", {"cpu": 500, "other": 500})


def interpolated(images, size):
    return F.interpolate(images[None], size=size, mode="bilinear")[0]


@pytest.mark.parametrize("size", [(31, 45), (5, 3), (1, 1), (12, 40), (30, 9), (12, 9)])
def test_rows_are_those_of_pytorchs_interpolation(size):
    images = torch.randn(3, 12, 9)
    rows = torch.arange(size[0])[::2]
    part = interpolate_rows(lambda indices: images[:, indices], 12, rows, size)
    assert torch.allclose(part, interpolated(images, size)[:, rows], atol=1e-5)


def test_only_the_rows_that_are_needed_are_asked_for():
    asked = []

    def source(indices):
        asked.extend(indices.tolist())
        return torch.randn(1, len(indices), 4)

    interpolate_rows(source, 1000, torch.tensor([0, 1, 50]), (100, 4))
    assert asked == [4, 5, 14, 15, 504, 505]


@pytest.mark.parametrize("output_size", [(100, 77), (10, 200), (7, 5), (1, 1)])
def test_masks_are_upsampled_twice_without_their_padding(output_size, small_bands):
    logits, view = torch.randn(5, 8, 10), View((24, 40), (32, 40))
    expected = interpolated(interpolated(logits, (32, 40))[:, :24, :40], output_size)
    result = torch.full((5, *output_size), torch.nan)
    num_bands = 0
    for rows, band in upsample_masks(logits, view, output_size):
        result[:, rows] = band
        num_bands += 1
    assert torch.allclose(result, expected, atol=1e-5)
    assert num_bands > 1 or output_size[0] < 8


def test_half_precision_becomes_single():
    (_, band), *_ = upsample_masks(torch.randn(2, 4, 4).bfloat16(), View((16, 16), (16, 16)), (16, 16))
    assert band.dtype == torch.float32


def test_no_mask_is_fine():
    bands = list(upsample_masks(torch.randn(0, 4, 4), View((16, 16), (16, 16)), (20, 30)))
    assert sum(band.shape[1] for _, band in bands) == 20
    assert all(band.shape[::2] == (0, 30) for _, band in bands)


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

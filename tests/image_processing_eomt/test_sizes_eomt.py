import itertools
import random

import pytest

from image_processing_eomt.sizes_eomt import covering_size, fitting_size, padded_size, view_of, window_starts


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
    assert padded_size(size) == (48, 64)


@pytest.mark.parametrize("size", [64, {"shortest_edge": 64}, {"shortest_edge": 64, "longest_edge": None}])
def test_one_edge_means_a_square(size):
    assert padded_size(size) == (64, 64)


@pytest.mark.parametrize(
    "size", [{"longest_edge": 64}, {"height": 64}, (1, 2, 3), None, 0, -1, True, "ab", b"ab", (1, 0), (1, "2"), 20_000]
)
def test_other_sizes_are_errors(size):
    with pytest.raises(ValueError, match="size must be"):
        padded_size(size)


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
    assert fitting_size(image_size, target_size) == expected


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
    assert covering_size(image_size, target_size) == expected


def test_windows_cover_every_length_evenly_with_as_few_as_possible():
    chance = random.Random(0)
    for _ in range(2000):
        window, length = chance.randint(1, 1300), chance.randint(1, 5000)
        starts = window_starts(length, window)
        assert len(starts) == -(-length // window)
        assert starts[0] == 0
        if length > window:
            assert starts[-1] + window == length
        steps = {after - before for before, after in itertools.pairwise(starts)}
        assert all(0 < step <= window for step in steps)
        assert not steps or max(steps) - min(steps) <= 1


def test_the_last_pixel_is_seen_where_floating_point_would_lose_it():
    # int(11 * (356 - 120 / 11)) is 3795: one column would be in no window
    assert window_starts(4152, 356)[-1] == 3796


SETTINGS = {"do_resize": True, "do_pad": True, "do_split_image": False}


def test_a_split_image_has_windows_along_its_longer_side():
    wide = view_of((100, 250), 64, **{**SETTINGS, "do_split_image": True})
    assert (wide.content_size, wide.input_size) == ((64, 160), (64, 64))
    assert wide.windows == ((0, 0), (0, 48), (0, 96))
    assert wide.spans() == [(0, 64), (48, 112), (96, 160)]
    high = view_of((250, 100), 64, **{**SETTINGS, "do_split_image": True})
    assert high.windows == ((0, 0), (48, 0), (96, 0))
    assert high.spans() == wide.spans()


def test_windows_have_the_shape_of_the_target():
    view = view_of((100, 100), (32, 64), **{**SETTINGS, "do_split_image": True})
    assert (view.content_size, view.input_size, view.windows) == ((64, 64), (32, 64), ((0, 0), (32, 0)))


def test_an_image_that_is_not_split_is_one_window():
    assert view_of((50, 100), 64, **SETTINGS) == ((32, 64), (64, 64), ((0, 0),))
    assert view_of((50, 100), 64, **{**SETTINGS, "do_pad": False}) == ((32, 64), (32, 64), ((0, 0),))
    assert view_of((50, 60), 64, **{**SETTINGS, "do_resize": False}) == ((50, 60), (64, 64), ((0, 0),))


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
        view_of(image_size, 64, **{**SETTINGS, **settings})


def test_a_small_image_that_is_split_but_not_resized_is_padded():
    view = view_of((50, 100), 64, do_resize=False, do_pad=True, do_split_image=True)
    assert (view.content_size, view.input_size, view.windows) == ((50, 100), (64, 64), ((0, 0), (0, 36)))


def test_an_image_that_would_become_too_many_windows_is_an_error_with_the_limit():
    split = {**SETTINGS, "do_split_image": True}
    assert len(view_of((81, 1), 640, **split).windows) == 81
    for size in ((10_000, 1), (1, 10_000)):
        with pytest.raises(ValueError, match=r"10000 windows of \(640, 640\).*at most 33,554,432 pixels"):
            view_of(size, 640, **split)
        assert view_of(size, 640, **SETTINGS).windows == ((0, 0),)
    assert view_of((6000, 6000), 8192, **split).windows == ((0, 0),)  # large, but as it was asked for


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_an_error(size):
    with pytest.raises(ValueError, match="has no pixel"):
        view_of(size, 64, **SETTINGS)

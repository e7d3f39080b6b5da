import pytest

from image_processing_eomt.sizes_eomt import padded_size, resized_size


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


@pytest.mark.parametrize("size", [{"longest_edge": 64}, {"height": 64}, (1, 2, 3), None])
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
    assert resized_size(image_size, target_size) == expected

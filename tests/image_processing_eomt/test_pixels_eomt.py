import numpy as np
import pytest
import torch
from PIL import Image

from image_processing_eomt.pixels_eomt import as_grey_levels, as_pixels


RGB = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
GREY = RGB[..., 0]
EXPECTED = torch.from_numpy(RGB).permute(2, 0, 1)
EXPECTED_GREY = torch.from_numpy(GREY).expand(3, -1, -1)


def test_colours_come_from_every_kind_of_array():
    first = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    for image in (Image.fromarray(RGB), RGB, first, torch.from_numpy(RGB), torch.from_numpy(first)):
        assert torch.equal(as_pixels(image, True), EXPECTED)


@pytest.mark.parametrize("image", [Image.fromarray(GREY), GREY, torch.from_numpy(GREY), GREY[None], GREY[..., None]])
def test_grey_becomes_three_equal_channels(image):
    assert torch.equal(as_pixels(image, True), EXPECTED_GREY)


def test_transparency_is_dropped():
    rgba = np.dstack([RGB, np.full((5, 6), 7, np.uint8)])
    for image in (Image.fromarray(rgba), rgba, torch.from_numpy(rgba).permute(2, 0, 1)):
        assert torch.equal(as_pixels(image, True), EXPECTED)
    assert torch.equal(as_pixels(Image.fromarray(GREY).convert("LA"), True), EXPECTED_GREY)


@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "L", "YCbCr", "HSV"])
def test_other_modes_are_converted_as_pil_does(mode):
    image = Image.fromarray(RGB).convert(mode)
    assert np.array_equal(as_pixels(image, True).permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))


def test_sixteen_bits_become_eight_and_are_not_clipped():
    deep = GREY.astype(np.uint16) * 257
    in_32_bits = Image.fromarray(deep.astype(np.int32))  # as PIL opens some formats
    for image in (Image.fromarray(deep), deep, torch.from_numpy(deep), deep.astype(">u2"), in_32_bits):
        pixels = as_pixels(image, True)
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, EXPECTED_GREY)
    assert torch.equal(as_pixels(RGB.astype(np.uint16) * 257, True), EXPECTED)
    assert as_pixels(np.array([[0, 65535, 32768]], np.uint16), True)[0].tolist() == [[0, 255, 128]]


def test_binary_pictures_are_black_and_white():
    assert as_pixels(np.array([[True, False]]), True)[0].tolist() == [[255, 0]]


def test_floats_stay_what_they_are():
    floats = torch.rand(3, 4, 6)
    assert torch.equal(as_pixels(floats, True), floats)
    for given in (floats.double(), floats.clone().requires_grad_(), floats.bfloat16()):
        pixels = as_pixels(given, True)
        assert pixels.dtype == torch.float32 and not pixels.requires_grad


def test_channels_stay_without_conversion():
    assert as_pixels(np.zeros((5, 6, 4), np.uint8), False).shape == (4, 5, 6)
    assert as_pixels(Image.fromarray(GREY), False).shape == (1, 5, 6)


def test_where_channels_are_can_be_said():
    ambiguous = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    assert as_pixels(ambiguous, True, "channels_first").shape == (3, 4, 3)
    assert as_pixels(ambiguous, True, "channels_last").shape == (3, 3, 4)


def test_what_is_no_picture_is_an_error():
    with pytest.raises(TypeError, match="must be a PIL image, a NumPy array or a tensor, got dict"):
        as_pixels({}, True)
    with pytest.raises(ValueError, match="channel"):
        as_pixels(np.zeros((5, 6, 7), np.uint8), True)


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 6, 3), (1, 6, 3), (4, 1, 3)])
def test_a_side_of_three_is_the_channels_however_small_the_picture(shape):
    assert as_pixels(np.zeros(shape, np.uint8), True).shape == (3, *shape[:2])
    assert as_pixels(np.zeros((3, 4, 1), np.uint8), True).shape == (3, 4, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_errors(value):
    for image in (np.full((3, 4, 5), value), torch.full((4, 5), value), Image.fromarray(np.full((4, 5), value, "f4"))):
        with pytest.raises(ValueError, match="not finite"):
            as_pixels(image, True)
    with pytest.raises(ValueError, match="not finite"):
        as_pixels(np.full((4, 5), 1e300), True)


@pytest.mark.parametrize("dtype", ["complex64", "object", "U1", "datetime64[s]"])
def test_arrays_of_no_numbers_are_errors(dtype):
    with pytest.raises(ValueError, match="An image holds"):
        as_pixels(np.zeros((4, 5, 3)).astype("int64").astype(dtype), True)


def test_complex_and_sparse_tensors_are_errors():
    for image in (torch.zeros(4, 5, dtype=torch.complex64), torch.zeros(3, 4, 5).to_sparse()):
        with pytest.raises(ValueError, match="An image holds"):
            as_pixels(image, True)


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint32", "uint64", ">i4"])
def test_wider_integers_are_what_their_values_are(dtype):
    assert torch.equal(as_pixels(RGB.astype(dtype), True), EXPECTED)
    if dtype != "int16":
        assert torch.equal(as_pixels(RGB.astype(dtype) * 257, True), EXPECTED)
    with pytest.raises(ValueError, match="holds integers from"):
        as_pixels(RGB.astype(dtype) - 300, True)


def test_a_dark_image_of_sixteen_bits_is_dark():
    dark = np.full((4, 5), 200, np.uint16)
    for image in (dark, Image.fromarray(dark), torch.from_numpy(dark)):
        assert as_pixels(image, True).unique().tolist() == [1]  # 200 / 257, rounded


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 5, 3), (3, 0, 5)])
def test_an_image_without_pixels_is_an_error(shape):
    for image in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        with pytest.raises(ValueError, match="nothing in it"):
            as_pixels(image, True)
    if len(shape) == 2:
        with pytest.raises(ValueError, match="nothing in it"):
            as_pixels(Image.new("L", shape), True)


def test_channels_that_cannot_become_rgb_are_an_error():
    for data_format in ("channels_first", "channels_last"):
        with pytest.raises(ValueError, match="1, 3 or 4 channels"):
            as_pixels(np.zeros((5, 6, 7), np.uint8), True, data_format)
    assert as_pixels(np.zeros((5, 6, 7), np.uint8), False, "channels_last").shape == (7, 5, 6)


def test_floating_point_becomes_the_grey_levels_it_stands_for():
    levels = torch.arange(256.0)
    assert torch.equal(as_grey_levels(levels / 255), levels.byte())
    assert torch.equal(as_grey_levels(levels), levels.byte())
    assert torch.equal(as_grey_levels(levels.byte()), levels.byte())
    assert as_grey_levels(torch.tensor([-0.0004, 0.4, 1.0004])).tolist() == [0, 102, 255]


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 256.0], [0.0, 1.2]])
def test_floating_point_that_stands_for_none_is_an_error(values):
    with pytest.raises(ValueError, match=r"from 0 to 1 or from 0 to 255.*do_rescale"):
        as_grey_levels(torch.tensor(values))

import numpy as np
import pytest
import torch
from PIL import Image

from image_processing_eomt.pixels_eomt import as_pixels


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

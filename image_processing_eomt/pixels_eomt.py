"""Images of every kind as arrays of colours."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import ChannelDimension

from .reading_eomt import as_8_bit, as_rgb


SLACK = 1e-3  # by which interpolation may leave the range of 0 to 1


class NotAnImageError(ValueError, TypeError):
    """What was given as an image has a type that no image has; a `TypeError` too, as Transformers raises."""


def as_pixels(image: Any, do_convert_rgb: bool, input_data_format: Any = None) -> Tensor:
    """
    An image as a tensor.

    Transparency is dropped, as where images are read for training. 16-bit values become 8-bit ones, divided by 257;
    so do wider integers that go beyond 255. Pixels stay as they are stored: `PIL.ImageOps.exif_transpose` turns a
    photograph upright.

    Args:
        image: a PIL image of any mode, or a NumPy array or tensor of `(height, width)` or with 1, 3 or 4 channels,
            which come first or last.
        do_convert_rgb: whether to make three channels of any other number.
        input_data_format: "channels_first" or "channels_last"; by default whichever side has 3, else 4, else 1, and
            first if both have.

    Returns:
        `(channels, height, width)`: uint8 from PIL images, integers and binary arrays, float32 from floating point.

    Raises:
        NotAnImageError: the image is none of these; a `ValueError` and a `TypeError`.
        ValueError: the image has no pixel, no side of the array can be the channels, or its values are no brightness:
            not finite, complex, below 0, beyond 16 bits.
    """
    if isinstance(image, Image.Image):
        check_has_pixels(image.height, image.width)
        input_data_format = ChannelDimension.LAST
        image = np.array(as_rgb(image) if do_convert_rgb else as_8_bit(image))
    if isinstance(image, np.ndarray):
        image = _as_tensor(image)
    if not isinstance(image, Tensor):
        raise NotAnImageError(f"An image must be a PIL image, a NumPy array or a tensor, got {type(image).__name__}.")
    if image.is_complex() or image.is_quantized or image.layout != torch.strided:
        raise ValueError(f"An image holds dense integers or floating point, got {image.layout} of {image.dtype}.")
    if image.ndim == 2:
        image = image[None]
    else:
        if input_data_format is None or image.ndim != 3:
            input_data_format = _channels_of(tuple(image.shape))
        if ChannelDimension(input_data_format) == ChannelDimension.LAST:
            image = image.permute(2, 0, 1)
    check_has_pixels(*image.shape[1:])
    if do_convert_rgb and len(image) not in (1, 3, 4):
        raise ValueError(f"An image has 1, 3 or 4 channels to become RGB, got {len(image)} in {tuple(image.shape)}.")
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.is_floating_point():
        image = image.detach().float()
        if not image.isfinite().all():
            raise ValueError("An image holds values that are not finite (NaN or infinite): replace them.")
    elif image.dtype != torch.uint8:
        image = _as_8_bit(image)
    if do_convert_rgb:
        image = image.expand(3, -1, -1) if len(image) == 1 else image[:3]
    return image


def as_grey_levels(pixels: Tensor) -> Tensor:
    """
    Pixels as 0 to 255, uint8.

    Args:
        pixels: uint8, which is returned as it is, or floating point: from 0 to 1, or else from 0 to 255.

    Raises:
        ValueError: values in neither range. Those of which the largest is a little above 1 would be nearly black in
            the second, and are none either.
    """
    if not pixels.is_floating_point():
        return pixels
    lowest, highest = (limit.item() for limit in pixels.aminmax())
    if lowest < -SLACK or highest > 255 or 1 + SLACK < highest < 2:
        raise ValueError(
            "An image of floating point has values from 0 to 1 or from 0 to 255 where do_rescale is set, got "
            f"{lowest:g} to {highest:g}: scale them, or set do_rescale=False if they are scaled as the model wants."
        )
    return (pixels * 255 if highest <= 1 + SLACK else pixels).round().clamp(0, 255).to(torch.uint8)


def check_has_pixels(height: int, width: int) -> None:
    """Raises a `ValueError` for an image of no height or width."""
    if height < 1 or width < 1:
        raise ValueError(f"An image of {height}x{width} pixels (height x width) has nothing in it.")


def _as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"An image holds integers, floating point or True and False, got an array of {array.dtype}.")
    dtype = np.dtype(np.float64) if array.dtype.kind == "f" and array.itemsize > 8 else array.dtype
    return torch.from_numpy(np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False)))


def _channels_of(shape: tuple[int, ...]) -> ChannelDimension:
    """Where the channels are in an array of three dimensions."""
    for num_channels in (3, 4, 1):
        if len(shape) == 3 and shape[0] == num_channels:
            return ChannelDimension.FIRST
        if len(shape) == 3 and shape[2] == num_channels:
            return ChannelDimension.LAST
    raise ValueError(
        f"An image of shape {shape} has no channel dimension: it must be (height, width), or have 1, 3 or 4 channels "
        "first or last."
    )


def _as_8_bit(pixels: Tensor) -> Tensor:
    """Integers of 16 bits, or of more where they stay in 8 or 16, as uint8."""
    if pixels.dtype == torch.uint16:
        return (pixels.float() / 257).round().to(torch.uint8)
    values = pixels.to(torch.int64)
    lowest, highest = (int(limit) for limit in values.aminmax())
    if lowest < 0 or highest > 2**16 - 1:
        raise ValueError(
            f"An image holds integers from {lowest} to {highest}, and only 0 to 255 and, of 16 bits, 0 to 65535 can "
            "be read as brightness."
        )
    return (values if highest <= 255 else (values.float() / 257).round()).to(torch.uint8)

"""Pictures of every kind as arrays of colours."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import ChannelDimension

from .reading_eomt import as_8_bit, as_rgb


def as_pixels(image: Any, do_convert_rgb: bool, input_data_format: Any = None) -> Tensor:
    """
    A picture as a tensor.

    Transparency is dropped, as where pictures are read for training. 16-bit values become 8-bit ones. Pixels stay as
    they are stored: `PIL.ImageOps.exif_transpose` turns a photograph upright.

    Args:
        image: a PIL image of any mode, or a NumPy array or tensor of `(height, width)` or with 1, 3 or 4 channels,
            which come first or last.
        do_convert_rgb: whether to make three channels of any other number.
        input_data_format: "channels_first" or "channels_last"; by default whichever side has 3, else 4, else 1, and
            first if both have.

    Returns:
        `(channels, height, width)`: uint8 from 8-bit, 16-bit and binary pictures, float32 from floating point.

    Raises:
        TypeError: the image is none of these.
        ValueError: no side of the array can be the channels.
    """
    if isinstance(image, Image.Image):
        input_data_format = ChannelDimension.LAST
        image = np.array(as_rgb(image) if do_convert_rgb else as_8_bit(image))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image.astype(image.dtype.newbyteorder("="), copy=False)))
    if not isinstance(image, Tensor):
        raise TypeError(f"An image must be a PIL image, a NumPy array or a tensor, got {type(image).__name__}.")
    if image.ndim == 2:
        image = image[None]
    else:
        if input_data_format is None:
            input_data_format = _channels_of(tuple(image.shape))
        if ChannelDimension(input_data_format) == ChannelDimension.LAST:
            image = image.permute(2, 0, 1)
    if image.dtype == torch.uint16:
        image = _as_8_bit(image)
    elif image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.is_floating_point():
        image = image.detach().float()
    if do_convert_rgb:
        image = image.expand(3, -1, -1) if len(image) == 1 else image[:3]
    return image


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
    """0 to 65535 as 0 to 255."""
    return (pixels.float() / 257).round().to(torch.uint8)

"""Numbers as colours, in COCO's code: red + 256 green + 65536 blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from .images import check_lossless


def encode_rgb(red: Any, green: Any, blue: Any) -> Any:
    """Encodes colours as numbers: three integers from 0 to 255, or three integer arrays of more than 24 bits."""
    return red + 256 * green + 65536 * blue


def decode_rgb(ids: Any) -> np.ndarray:
    """Decodes numbers `(...)` to their colours `(..., 3)` uint8."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536 % 256], axis=-1).astype(np.uint8)


def encode_image(image: Image.Image) -> np.ndarray:
    """Encodes the colours of an image of any mode as numbers, `(height, width)` int32."""
    return encode_rgb(*(np.asarray(channel, dtype=np.int32) for channel in image.convert("RGB").split()))


def format_colour(value: int) -> str:
    """Formats the colour of a number for messages."""
    red, green, blue = decode_rgb(value).tolist()
    return f"{red},{green},{blue} (#{red:02x}{green:02x}{blue:02x})"


def extract_ids(image: Image.Image, where: str, meaning: str) -> np.ndarray:
    """
    Extracts the numbers of an image's colours, `(height, width)` int32.

    Args:
        image: a decoded annotation.
        where: the file for messages.
        meaning: of the colours, for messages.

    Raises:
        ValueError: the image has no colours, or was compressed with losses.
    """
    check_lossless(image, where)
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"{where} has mode {image.mode}, expected RGB: {meaning}.")
    return encode_image(image)

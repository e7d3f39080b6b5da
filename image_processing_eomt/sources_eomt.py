"""Where images come from: files, addresses, base64, PIL images, arrays and tensors, alone and in lists."""

import base64
import binascii
import io
import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from transformers.image_utils import load_image

from .pixels_eomt import NotAnImageError, as_grey_levels, as_pixels, check_has_pixels
from .reading_eomt import read_stored, upright


ALLOW_MORE = "Open it with PIL.Image.open and give that, if there is memory for it, or make the image smaller."
MIN_IMAGE_BYTES = 20  # no format is shorter
MAX_SHOWN = 100  # characters of a text that names no image


def listed_images(images: Any) -> list[Any]:
    """
    The images of a list, of a list of lists, of an array or tensor of several, or the one that was given.

    Texts are read as `upright_image` does, PIL images are decoded, and all else is left as it is.

    Raises:
        ValueError: there is none, or one cannot be decoded.
        OSError: a file or an address cannot be read.
    """
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, list | tuple):
        images = [images]
    flat: list[Any] = []
    for image in images:
        is_several = isinstance(image, list | tuple) or (isinstance(image, np.ndarray | Tensor) and image.ndim == 4)
        flat.extend(image if is_several else [image])
    if not flat:
        raise ValueError("There is no image to process.")
    return [
        upright_image(image)
        if isinstance(image, str | os.PathLike)
        else decoded(image)
        if isinstance(image, Image.Image)
        else image
        for image in flat
    ]


def numbered_error(error: ValueError | OSError, index: int | None) -> ValueError | OSError:
    """An error that says which of several images it is about; None where there is one."""
    kinds: tuple[Any, ...] = (NotAnImageError, ValueError, FileNotFoundError, OSError)
    kind = next(kind for kind in kinds if isinstance(error, kind))
    numbered: ValueError | OSError = error if index is None else kind(f"Image {index}: {error}")
    return numbered


def decoded(image: Image.Image) -> Image.Image:
    """A PIL image, whose pixels may still have been in its file. Raises a `ValueError` if they cannot be read."""
    check_has_pixels(image.height, image.width)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise errors of any kind
        name = getattr(image, "filename", "") or "The image"
        raise ValueError(f"{name} cannot be decoded: {error or type(error).__name__}") from error
    return image


def upright_image(source: Any, timeout: float | None = None) -> Image.Image:
    """
    An image of any kind as a PIL image, decoded and turned upright.

    Args:
        source: a path, an address (`http://`, `https://`), base64 with or without `data:image/`, a PIL image, or an
            array or tensor as for `as_pixels`, which becomes RGB. 16-bit images of addresses lose their low values.
        timeout: the longest to wait for an answer from an address, in seconds.

    Raises:
        NotAnImageError: it is none of these; a `ValueError` and a `TypeError`.
        ValueError: the image cannot be decoded, has no pixel, or its values are no brightness.
        OSError: there is no such file, it cannot be read, or the address does not answer.
    """
    if isinstance(source, np.ndarray | Tensor):
        pixels = as_grey_levels(as_pixels(source, do_convert_rgb=True))
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(decoded(source))
    if not isinstance(source, str | os.PathLike):
        raise NotAnImageError(
            "An image must be a path, an address, base64, a PIL image, a NumPy array or a tensor, got "
            f"{type(source).__name__}."
        )
    text = os.fspath(source)
    if isinstance(text, str) and text.startswith(("http://", "https://")):
        try:
            return load_image(text, timeout=timeout)
        except Exception as error:  # of the network, of which there are many kinds, and of Pillow
            raise OSError(f"{text} cannot be read: {error or type(error).__name__}") from error
    if os.path.lexists(text):
        return _of_file(text)
    return _of_base64(text)


def _of_file(path: Any) -> Image.Image:
    if not os.path.isfile(path):  # a FIFO would be waited for
        kind = "a folder" if os.path.isdir(path) else "no regular file"
        raise OSError(f"{path} is {kind}, and an image must be a file.")
    if not os.path.getsize(path):
        raise OSError(f"{path} is empty.")
    with open(path, "rb") as file:
        return upright(read_stored(file, str(path), advice=ALLOW_MORE))


def _of_base64(text: Any) -> Image.Image:
    shown = f"{text[:MAX_SHOWN]!r}..." if len(text) > MAX_SHOWN else repr(text)
    header, _, data = text.partition(",") if str(text).startswith("data:") else ("", "", text)
    try:
        decoded = base64.b64decode("".join(data.split()), validate=True) if isinstance(data, str) else b""
    except (binascii.Error, ValueError):
        decoded = b""
    # What decodes by chance, as names of files may, is too short for an image.
    if len(decoded) < MIN_IMAGE_BYTES:
        raise FileNotFoundError(f"There is no file {shown}, and it is neither an address nor an image in base64.")
    where = header or f"{shown} (no file, read as base64)"
    return upright(read_stored(io.BytesIO(decoded), where, advice=ALLOW_MORE))

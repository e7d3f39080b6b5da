"""Images of every kind and source as 8-bit colours: one way for training, evaluation, prediction and pipelines."""

import base64
import binascii
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers.image_utils import ChannelDimension, load_image


MAX_IMAGE_PIXELS = 100_000_000
MIN_IMAGE_BYTES = 20  # no format is shorter
MAX_SHOWN = 100  # characters of a text that names no image
SLACK = 1e-3  # by which interpolation may leave the range of 0 to 1

# What turns an image upright, by its EXIF orientation, and what undoes it.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_BACK = {**TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_SWAPS_SIDES = (5, 6, 7, 8)

_STRETCHED = {"L;2": 85, "L;4": 17}  # factors by which Pillow stretches grey values of 2 and 4 bits to 0 to 255
_EIGHT_BITS_OF_SIXTEEN = ((np.arange(2**16) + 128) // 257).astype(np.uint8)
_pillow_limit = threading.Lock()


class NotAnImageError(ValueError, TypeError):
    """An input has a type that no image has; a `TypeError` too, as Transformers raises."""


class StoredImage(NamedTuple):
    """An image as it lies in its file.

    Args:
        image: not turned, in its own mode. Its pixels may not be decoded yet.
        orientation: EXIF's, 1 (upright) to 8.
        stretch: factor by which the values in the file were multiplied, 1 but for grey values of 2 and 4 bits.
    """

    image: Image.Image
    orientation: int
    stretch: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return self.image.height, self.image.width

    @property
    def upright_size(self) -> tuple[int, int]:
        """`(height, width)` in pixels, once it is turned upright."""
        return self.size[::-1] if self.orientation in _SWAPS_SIDES else self.size


def read_stored(file: BinaryIO, where: str, max_pixels: int = MAX_IMAGE_PIXELS) -> StoredImage:
    """
    Decodes an image, the first one where a file holds several.

    Args:
        file: the file, opened.
        where: the name of the image in messages.
        max_pixels: the most pixels that it may have, in place of Pillow's own limit. An image of more is not decoded.

    Raises:
        ValueError: the file cannot be decoded, or has more pixels.
    """
    with _open(file, where, max_pixels) as image:
        try:
            # Some decoders ask for Pillow's limit again.
            is_large = image.width * image.height > (Image.MAX_IMAGE_PIXELS or max_pixels)
            with _set_pillow_limit(max_pixels) if is_large else nullcontext():
                stretch = _STRETCHED.get(_read_raw_mode(image), 1)
                orientation = _read_orientation(image.getexif())
                image.load()
        except Exception as error:  # Pillow's decoders raise errors of any kind
            raise _undecodable(where, error) from error
        # Pillow turns TIFFs upright itself.
        stored = image.transpose(_TURNS_BACK[orientation]) if image.format == "TIFF" and orientation > 1 else image
        return StoredImage(stored, orientation, stretch)


def read_size(file: BinaryIO, where: str, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[tuple[int, int], int]:
    """
    Returns the stored `(height, width)` of an image in pixels and its EXIF orientation, without decoding it.

    Raises what [`read_stored`] raises, as far as it can be told.
    """
    with _open(file, where, max_pixels) as image:
        try:
            orientation = _read_orientation(Image.Image.getexif(image))  # a PNG's own would decode it
        except Exception as error:
            raise _undecodable(where, error) from error
        stored = StoredImage(image, orientation)
        return (stored.upright_size if image.format == "TIFF" else stored.size), orientation


def turn_upright(stored: StoredImage) -> Image.Image:
    """Turns an image as its EXIF orientation says; the result no longer says it, so that nobody turns it again."""
    if stored.orientation == 1:
        return stored.image
    image = stored.image.transpose(TURNS[stored.orientation])
    for metadata in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):  # where Pillow looks for it
        image.info.pop(metadata, None)
    return image


@contextmanager
def _set_pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Sets Pillow's limit, which is a global, for a while; one thread at a time."""
    with _pillow_limit:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def _open(file: BinaryIO, where: str, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image and reads its header."""
    try:
        with _set_pillow_limit(None):  # for as long as it takes to read the header
            image = Image.open(file)
    except Exception as error:
        raise _undecodable(where, error) from error
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(
                f"{where} has {image.height}x{image.width} pixels (height x width), {image.width * image.height:,} "
                f"in all, and no more than {max_pixels:,} are read. Make the image smaller or, if there is memory for "
                "it, allow more: with --max_image_pixels, or open it with PIL.Image.open and pass that."
            )
        check_has_pixels(image.height, image.width, where)
        yield image


def _read_orientation(exif: Image.Exif) -> int:
    stated = exif.get(ExifTags.Base.Orientation, 1)
    return int(stated) if stated in TURNS else 1


def _read_raw_mode(image: Image.Image) -> str:
    """Returns Pillow's name for how values lie in the file of an image whose header is read."""
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _undecodable(where: str, error: Exception) -> ValueError:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # whose words are of the file object
        reason = "it is in no format of images that Pillow reads"
    return ValueError(f"{where} cannot be decoded: {reason}. Replace the file.")


def check_has_pixels(height: int, width: int, where: str = "The image") -> None:
    """Raises a `ValueError` for an image of no height or width."""
    if height < 1 or width < 1:
        raise ValueError(f"{where} is {height}x{width} pixels (height x width): there is nothing in it.")


def as_8_bit(image: Image.Image, where: str = "The image") -> Image.Image:
    """
    Returns an image of 16 bits or of floating point as one of 8 bits (mode "L"), any other as it is.

    16-bit values are divided by 257, floating point from 0 to 1 is multiplied by 255, and both rounded. 32-bit
    integers count as 8 bits where none is above 255, else as 16 bits.

    Args:
        image: the image.
        where: the name of the image in messages.

    Raises:
        ValueError: floating point that is not from 0 to 1 or not finite, integers that do not fit into 16 bits.
    """
    if image.mode == "F":
        values = np.array(image)
        if not np.isfinite(values).all():
            raise ValueError(f"{where} holds values that are not finite (NaN or infinite). Replace them.")
        lowest, highest = float(values.min(initial=0)), float(values.max(initial=0))
        if lowest < 0 or highest > 1:
            raise ValueError(
                f"{where} is of floating point with values from {lowest:g} to {highest:g}, and only those from 0 to 1 "
                "can be read as brightness. Scale them, or save the image with 8 or 16 bits."
            )
        values *= 255
        return Image.fromarray(np.rint(values, out=values).astype(np.uint8))
    return Image.fromarray(_to_8_bit(np.asarray(image), where)) if image.mode.startswith("I") else image


def _to_8_bit(values: np.ndarray, where: str) -> np.ndarray:
    """Converts integers of 16 bits, or of more where they stay in 8 or 16, to uint8."""
    if values.dtype.newbyteorder("=") != np.uint16:
        lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
        if lowest < 0 or highest > 2**16 - 1:
            raise ValueError(
                f"{where} holds integers from {lowest} to {highest}, and only 0 to 255 and, of 16 bits, 0 to 65535 "
                "can be read as brightness. Save the image with 8 or 16 bits."
            )
        if highest <= 255:
            return values.astype(np.uint8)
    return np.take(_EIGHT_BITS_OF_SIXTEEN, values.astype(np.uint16, copy=False))


def as_rgb(image: Image.Image, where: str = "The image") -> Image.Image:
    """
    Returns an image of any mode as 8-bit RGB; transparency is dropped.

    Raises what [`as_8_bit`] raises.
    """
    image = as_8_bit(image, where)
    if image.mode == "RGB":
        return image
    if image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # or Pillow warns that transparency is lost
    return image.convert("RGB")


def as_pixels(image: Any, do_convert_rgb: bool, input_data_format: Any = None) -> Tensor:
    """
    Returns an image as a tensor.

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
        if image.dtype.kind not in "biuf":
            raise ValueError(f"The image holds {image.dtype}, not integers, floating point or True and False.")
        dtype = np.dtype(np.float64) if image.dtype.kind == "f" and image.itemsize > 8 else image.dtype
        image = torch.from_numpy(np.ascontiguousarray(image.astype(dtype.newbyteorder("="), copy=False)))
    if not isinstance(image, Tensor):
        raise NotAnImageError(f"An image must be a PIL image, a NumPy array or a tensor, got {type(image).__name__}.")
    if image.is_complex() or image.is_quantized or image.layout != torch.strided:
        raise ValueError(f"The image holds {image.dtype} ({image.layout}), not dense integers or floating point.")
    if image.ndim == 2:
        image = image[None]
    else:
        if input_data_format is None or image.ndim != 3:
            input_data_format = _find_channels(tuple(image.shape))
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
            raise ValueError("The image holds values that are not finite (NaN or infinite). Replace them.")
    elif image.dtype != torch.uint8:
        image = torch.from_numpy(_to_8_bit(image.cpu().numpy(), "The image")).to(image.device)
    if do_convert_rgb:
        image = image.expand(3, -1, -1) if len(image) == 1 else image[:3]
    return image


def _find_channels(shape: tuple[int, ...]) -> ChannelDimension:
    """Returns where the channels are in an array of three dimensions."""
    for num_channels in (3, 4, 1) if len(shape) == 3 else ():
        if shape[0] == num_channels:
            return ChannelDimension.FIRST
        if shape[2] == num_channels:
            return ChannelDimension.LAST
    raise ValueError(
        f"An image of shape {shape} has no channel dimension: it must be (height, width), or have 1, 3 or 4 channels "
        "first or last."
    )


def as_grey_levels(pixels: Tensor) -> Tensor:
    """
    Returns pixels as 0 to 255, uint8.

    Args:
        pixels: uint8, which is returned as it is, or floating point: from 0 to 1, or else from 0 to 255.

    Raises:
        ValueError: values in neither range. An image whose largest value is a little above 1 would be nearly black in
            the second, and is an error too.
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


def load_upright(source: Any, timeout: float | None = None) -> Image.Image:
    """
    Returns an image of any kind as a PIL image, decoded and turned upright.

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
        return ImageOps.exif_transpose(decode(source))
    if not isinstance(source, str | os.PathLike):
        raise NotAnImageError(
            "An image must be a path, an address, base64, a PIL image, a NumPy array or a tensor, got "
            f"{type(source).__name__}."
        )
    text: Any = os.fspath(source)
    if isinstance(text, str) and text.startswith(("http://", "https://")):
        try:
            return load_image(text, timeout=timeout)
        except Exception as error:  # many kinds from the network, and Pillow's
            raise OSError(f"{text} cannot be read: {str(error) or type(error).__name__}") from error
    if not os.path.lexists(text):
        return _load_base64(text)
    if not os.path.isfile(text):  # a FIFO would be waited for
        kind = "a folder" if os.path.isdir(text) else "no regular file"
        raise OSError(f"{text} is {kind}, and an image must be a file.")
    if not os.path.getsize(text):
        raise OSError(f"{text} is empty.")
    with open(text, "rb") as file:
        return turn_upright(read_stored(file, str(text)))


def _load_base64(text: Any) -> Image.Image:
    shown = f"{text[:MAX_SHOWN]!r}..." if len(text) > MAX_SHOWN else repr(text)
    header, _, data = text.partition(",") if str(text).startswith("data:") else ("", "", text)
    try:
        content = base64.b64decode("".join(data.split()), validate=True) if isinstance(data, str) else b""
    except (binascii.Error, ValueError):
        content = b""
    # What decodes by chance, as names of files may, is too short for an image.
    if len(content) < MIN_IMAGE_BYTES:
        raise FileNotFoundError(f"There is no file {shown}, and it is neither an address nor an image in base64.")
    return turn_upright(read_stored(io.BytesIO(content), header or f"{shown} (no file, read as base64)"))


def decode(image: Image.Image) -> Image.Image:
    """Reads the pixels of a PIL image, which may still be in its file. Raises a `ValueError` if that fails."""
    check_has_pixels(image.height, image.width)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise errors of any kind
        raise _undecodable(getattr(image, "filename", "") or "The image", error) from error
    return image


def list_images(images: Any) -> list[Any]:
    """
    Returns the images in a list, a list of lists, an array or tensor of several, or the single one that was given.

    Texts are read as `load_upright` does, PIL images are decoded, and all else is left as it is.

    Raises:
        ValueError: there is none, or one cannot be decoded.
        OSError: a file or an address cannot be read.
    """

    def flatten(images: Any, depth: int) -> Iterator[Any]:
        is_batch = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
        if depth and (is_batch or isinstance(images, list | tuple)):
            for image in images:
                yield from flatten(image, depth - 1)
        elif isinstance(images, str | os.PathLike):
            yield load_upright(images)
        else:
            yield decode(images) if isinstance(images, Image.Image) else images

    listed = list(flatten(images, depth=2))
    if not listed:
        raise ValueError("There is no image to process.")
    return listed


def number_error(error: ValueError | OSError, index: int | None) -> ValueError | OSError:
    """Returns an error that says which of several images it is about; None where there is only one."""
    kinds: tuple[Any, ...] = (NotAnImageError, ValueError, FileNotFoundError, OSError)
    kind = next(kind for kind in kinds if isinstance(error, kind))
    numbered: ValueError | OSError = error if index is None else kind(f"Image {index}: {error}")
    return numbered

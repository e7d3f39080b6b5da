"""Image files as 8-bit colours: one way for training, evaluation, prediction and pipelines."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image


MAX_IMAGE_PIXELS = 100_000_000
ALLOW_MORE = "Allow more with --max_image_pixels if there is memory for it, or make the image smaller."

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

# Pillow stretches grey values of 2 and 4 bits to 0 to 255, by these factors.
_STRETCHED = {"L;2": 85, "L;4": 17}

_EIGHT_BITS_OF_SIXTEEN = [(value + 128) // 257 for value in range(2**16)]
_pillow_limit = threading.Lock()


class StoredImage(NamedTuple):
    """An image as it lies in its file.

    Args:
        image: not turned, in its own mode. Its pixels may not be decoded yet.
        orientation: EXIF's, 1 (upright) to 8.
        stretch: what the values in the file were multiplied by, 1 but for grey values of 2 and 4 bits.
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


def read_stored(
    file: BinaryIO, where: str, max_pixels: int = MAX_IMAGE_PIXELS, advice: str = ALLOW_MORE
) -> StoredImage:
    """
    Decodes an image, the first one where a file holds several.

    Args:
        file: the file, opened.
        where: what messages call it.
        max_pixels: the most pixels that it may have, in place of Pillow's own limit. An image of more is not decoded.
        advice: what the message then says can be done.

    Raises:
        ValueError: the file cannot be decoded, or has more pixels.
    """
    with _opened(file, where, max_pixels, advice) as image:
        try:
            # Some decoders ask for Pillow's limit again.
            is_large = image.width * image.height > (Image.MAX_IMAGE_PIXELS or max_pixels)
            with _limit_of_pillow(max_pixels) if is_large else nullcontext():
                stretch = _STRETCHED.get(_raw_mode(image), 1)
                orientation = _orientation(image.getexif())
                image.load()
        except Exception as error:  # Pillow's decoders raise errors of any kind
            raise _undecodable(where, error) from error
        # Pillow turns TIFFs upright itself.
        stored = image.transpose(_TURNS_BACK[orientation]) if image.format == "TIFF" and orientation > 1 else image
        return StoredImage(stored, orientation, stretch)


def size_and_orientation(
    file: BinaryIO, where: str, max_pixels: int = MAX_IMAGE_PIXELS
) -> tuple[tuple[int, int], int]:
    """
    `(height, width)` of an image in pixels as it is stored, and its EXIF orientation, without decoding it.

    Raises what [`read_stored`] raises, as far as it can be told.
    """
    with _opened(file, where, max_pixels) as image:
        try:
            orientation = _orientation(Image.Image.getexif(image))  # a PNG's own would decode it
        except Exception as error:
            raise _undecodable(where, error) from error
        stored = StoredImage(image, orientation)
        return (stored.upright_size if image.format == "TIFF" else stored.size), orientation


def upright(stored: StoredImage) -> Image.Image:
    """The image, turned as its EXIF orientation says."""
    return stored.image if stored.orientation == 1 else stored.image.transpose(TURNS[stored.orientation])


def as_8_bit(image: Image.Image, where: str = "The image") -> Image.Image:
    """
    An image of 16 bits or of floating point as one of 8 bits (mode "L"), any other as it is.

    16-bit values are divided by 257, floating point from 0 to 1 is multiplied by 255, and both rounded. 32-bit
    integers are what their values are: 8 bits up to 255, else 16 bits.

    Args:
        image: the image.
        where: what messages call it.

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
    if not image.mode.startswith("I"):
        return image
    in_32_bits = image.convert("I")
    extrema: Any = in_32_bits.getextrema()
    if extrema[0] < 0 or extrema[1] > 2**16 - 1:
        raise ValueError(
            f"{where} holds integers from {extrema[0]} to {extrema[1]}, and only 0 to 65535 can be read as "
            "brightness. Save the image with 8 or 16 bits."
        )
    if image.mode == "I" and extrema[1] <= 255:
        return in_32_bits.convert("L")
    return in_32_bits.point(_EIGHT_BITS_OF_SIXTEEN, "L")


def as_rgb(image: Image.Image, where: str = "The image") -> Image.Image:
    """
    An image of any mode as 8-bit RGB; transparency is dropped.

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


@contextmanager
def _limit_of_pillow(max_pixels: int | None) -> Iterator[None]:
    """Pillow's limit, which is a global, at another value; one thread at a time."""
    with _pillow_limit:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def _opened(file: BinaryIO, where: str, max_pixels: int, advice: str = ALLOW_MORE) -> Iterator[Image.Image]:
    """An image whose header is read."""
    try:
        with _limit_of_pillow(None):  # for as long as it takes to read the header
            image = Image.open(file)
    except Exception as error:
        raise _undecodable(where, error) from error
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(
                f"{where} has {image.height}x{image.width} pixels (height x width), {image.width * image.height:,} "
                f"in all, and no more than {max_pixels:,} are read. {advice}"
            )
        if not image.width * image.height:
            raise ValueError(f"{where} is {image.height}x{image.width} pixels: there is nothing in it.")
        yield image


def _orientation(exif: Image.Exif) -> int:
    stated = exif.get(ExifTags.Base.Orientation, 1)
    return int(stated) if stated in TURNS else 1


def _raw_mode(image: Image.Image) -> str:
    """How values lie in the file of an image whose header is read, as Pillow calls it."""
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _undecodable(where: str, error: Exception) -> ValueError:
    return ValueError(f"{where} cannot be decoded: {error or type(error).__name__}. Replace the file.")

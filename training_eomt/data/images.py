"""How the images of a dataset are read: which way up, and up to which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from image_processing_eomt.reading_eomt import (
    MAX_IMAGE_PIXELS,
    StoredImage,
    as_rgb,
    read_size,
    read_stored,
    turn_upright,
)


EXIF = ("auto", "upright", "stored")
LOSSY_FORMATS = ("JPEG", "MPO")
BOTH_FIT = "both orientations fit the annotation"  # in an image's info


@dataclass(frozen=True)
class ImageReading:
    """How images are read.

    Args:
        exif: "upright" turns an image as its EXIF orientation says, as annotation tools show it; "stored" leaves it as
            it lies in the file; "auto" does whichever fits the annotation's size, and turns it where both do or the
            annotation has no size.
        max_pixels: the most pixels of an image or a label map.

    Raises:
        ValueError: there is no such `exif`, or the limit is below 1.
    """

    exif: str = "auto"
    max_pixels: int = MAX_IMAGE_PIXELS

    def __post_init__(self) -> None:
        if self.exif not in EXIF:
            raise ValueError(f"exif is {self.exif!r}: it must be one of {', '.join(EXIF)}.")
        if self.max_pixels < 1:
            raise ValueError(f"max_image_pixels is {self.max_pixels}: it must be 1 or more.")

    def read_rgb(
        self, file: BinaryIO, where: str, size: tuple[int, ...] | None = None, annotation: str = "None"
    ) -> Image.Image:
        """
        An image as RGB. Its `info` is empty but for `BOTH_FIT`, which is set where `exif` is "auto" and the size did
        not tell which way up it belongs; so nothing turns it again.

        Args:
            file: the image, opened.
            where: what messages call it.
            size: `(height, width)` of its annotation in pixels, None where it has none.
            annotation: what messages call the annotation.

        Raises:
            ValueError: it cannot be decoded, has more than `max_pixels`, has values that are no brightness, or is not
                as large as its annotation.
        """
        stored = read_stored(file, where, self.max_pixels)
        turn = self._turns(stored, size)
        if size is not None:
            check_size(where, stored.upright_size if turn else stored.size, size, annotation, stored.orientation)
        image = as_rgb(turn_upright(stored) if turn else stored.image, where)
        image.info = {}
        if self.exif == "auto" and both_fit(stored.size, stored.orientation, size):
            image.info[BOTH_FIT] = True
        return image

    def read_annotation(self, file: BinaryIO, where: str) -> Image.Image:
        """
        An image whose values are numbers of classes or segments, as they are stored.

        Raises:
            ValueError: it cannot be decoded, or has more than `max_pixels`.
        """
        image, _, stretch = read_stored(file, where, self.max_pixels)
        return image if stretch == 1 else image.point([value // stretch for value in range(256)])

    def is_unsure(self, file: BinaryIO, where: str, size: tuple[int, int] | None) -> bool:
        """Whether `read_rgb` would set `BOTH_FIT`, found without decoding the image. Raises what it raises."""
        return self.exif == "auto" and both_fit(*read_size(file, where, self.max_pixels), size)

    def _turns(self, stored: StoredImage, size: tuple[int, ...] | None) -> bool:
        if self.exif == "auto" and size is not None:
            return stored.size != tuple(size) or stored.upright_size == tuple(size)
        return self.exif != "stored"


DEFAULT_READING = ImageReading()


def both_fit(stored_size: tuple[int, int], orientation: int, size: tuple[int, ...] | None) -> bool:
    """
    Whether an annotation fits an image as it is stored and upright, and these are not the same.

    Args:
        stored_size: `(height, width)` of the image as it is stored.
        orientation: its EXIF orientation.
        size: `(height, width)` of the annotation, None where it has none.
    """
    keeps_size = orientation <= 4 or stored_size[0] == stored_size[1]
    return orientation > 1 and (size is None or (keeps_size and stored_size == tuple(size)))


def list_image_suffixes() -> frozenset[str]:
    """Lists the suffixes of files that can be read as images, in lower case, with the dot."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def check_lossless(image: Image.Image, where: str) -> None:
    """Raises a `ValueError` if a decoded annotation is a JPEG."""
    if image.format in LOSSY_FORMATS:
        raise ValueError(
            f"{where} is a JPEG, whose compression changes values, so that they are no numbers of classes or segments "
            "any more. Save annotations as PNGs."
        )


def check_size(
    image: str, size: tuple[int, ...], annotation_size: tuple[int, ...], annotation: str, orientation: int = 1
) -> None:
    """Raises a `ValueError` where an image and its annotation differ in `(height, width)`; both are named."""
    if size != tuple(annotation_size):
        hint = (
            f" The image has the EXIF orientation {orientation}: --exif says whether it is read upright or as it is "
            "stored, by default as it fits."
        )
        raise ValueError(
            f"{image} is {format_size(size)} and its annotation {annotation} is {format_size(annotation_size)}. Image "
            "and annotation must have the same size." + (hint if orientation > 1 else "")
        )


def format_size(size: tuple[int, ...]) -> str:
    """Formats `(height, width)` for messages."""
    return f"{size[0]}x{size[1]} pixels (height x width)"

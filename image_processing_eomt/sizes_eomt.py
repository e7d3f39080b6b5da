"""Sizes of images on their way into the model and back: one arithmetic for pre- and post-processing."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple


MAX_EDGE = 16384  # pixels of a side of what the model sees
# An image that is cut into windows has at most this many pixels once it is resized. With 200 queries the masks of all
# windows then take 1.7 GB: 82 windows of 640x640 pixels, the aspect ratio 82 to 1.
MAX_SPLIT_PIXELS = 2**25


class TooManyWindowsError(ValueError):
    """An image would be cut into windows of more than `MAX_SPLIT_PIXELS` together."""


class View(NamedTuple):
    """
    What the model sees of an image; every size is `(height, width)` in pixels.

    content_size: the image after resizing.
    input_size: one input of the model, where the image is padded or of which it fills several.
    windows: `(top, left)` within the content of each input that the image becomes; `((0, 0),)` unless it is split.
    """

    content_size: tuple[int, int]
    input_size: tuple[int, int]
    windows: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def split_axis(self) -> int:
        """The axis along which windows follow each other: 0 for rows, 1 for columns."""
        return 0 if self.content_size[0] > self.input_size[0] else 1

    def spans(self) -> list[tuple[int, int]]:
        """First pixel and the one after the last of each window, along the split axis."""
        axis = self.split_axis
        return [(window[axis], window[axis] + self.input_size[axis]) for window in self.windows]


def view_of(
    image_size: tuple[int, int], size: Any, *, do_resize: bool, do_pad: bool, do_split_image: bool, **_: Any
) -> View:
    """
    How an image of `(height, width)` pixels enters the model with an image processor's settings.

    Raises:
        TooManyWindowsError: it would be cut into windows of more than `MAX_SPLIT_PIXELS` together, a `ValueError`.
        ValueError: the image has no pixel, or is not resized, and does not fit or cannot be split.
    """
    target_size = padded_size(size)
    if min(image_size) < 1:
        raise ValueError(f"An image of {image_size} (height, width) has no pixel.")
    if not do_split_image:
        content_size = fitting_size(image_size, target_size) if do_resize else image_size
        if not do_pad:
            return View(content_size, content_size)
        if content_size[0] > target_size[0] or content_size[1] > target_size[1]:
            raise ValueError(f"An image of {image_size} does not fit in {target_size} (height, width): set do_resize.")
        return View(content_size, target_size)
    content_size = covering_size(image_size, target_size) if do_resize else image_size
    too_small = content_size[0] < target_size[0] or content_size[1] < target_size[1]
    if too_small and not do_pad:
        raise ValueError(
            f"An image of {image_size} does not fill a window of {target_size} (height, width): set do_resize or "
            "do_pad."
        )
    if content_size[0] > target_size[0] and content_size[1] > target_size[1]:
        raise ValueError(
            f"An image of {image_size} is both higher and wider than a window of {target_size} (height, width), and "
            "windows follow each other along one side only: set do_resize."
        )
    num_windows = math.prod(math.ceil(length / window) for length, window in zip(content_size, target_size))
    if num_windows > 1 and content_size[0] * content_size[1] > MAX_SPLIT_PIXELS:
        raise TooManyWindowsError(
            f"An image of {image_size} (height, width) would become {content_size} pixels, {num_windows} windows of "
            f"{target_size}, and an image that is split may become at most {MAX_SPLIT_PIXELS:,} pixels: one side is "
            "too long for the other. Cut it into shorter images, or set do_split_image=False and do_pad=True."
        )
    tops, lefts = (window_starts(*lengths) for lengths in zip(content_size, target_size))
    return View(content_size, target_size, tuple((top, left) for top in tops for left in lefts))


def padded_size(size: Any) -> tuple[int, int]:
    """
    `(height, width)` in pixels of what the model sees, from an image processor's `size`.

    `{"shortest_edge": h, "longest_edge": w}` is what checkpoints store (Transformers' own EoMT processor reads the two
    as height and width); `{"height": h, "width": w}`, `(h, w)` and a single int for a square say the same.

    Raises:
        ValueError: for anything else.
    """
    edges = _edges(size)
    return edges[0], edges[-1]


def has_one_edge(size: Any) -> bool:
    """Whether an image processor's `size` names only one edge, that of a square."""
    return len(_edges(size)) == 1


def _edges(size: Any) -> tuple[int, ...]:
    """`(height, width)`, or `(edge,)` of a square."""
    edges: tuple[Any, ...] = ()
    if isinstance(size, Integral):
        edges = (size,)
    # A mapping, or Transformers' SizeDict, which iterates over its (key, value) pairs.
    elif isinstance(size, Mapping) or hasattr(size, "shortest_edge"):
        known = {key: value for key, value in dict(size).items() if value is not None}
        for names in (("height", "width"), ("shortest_edge", "longest_edge"), ("shortest_edge",)):
            if known.keys() == set(names):
                edges = tuple(known[name] for name in names)
    elif isinstance(size, Sequence) and not isinstance(size, str | bytes) and len(size) == 2:
        edges = tuple(size)
    if not edges or not all(_is_edge(edge) for edge in edges):
        raise ValueError(
            "size must be an int, (height, width), {'height', 'width'} or {'shortest_edge', 'longest_edge'} in "
            f"pixels, whole numbers from 1 to {MAX_EDGE}, got {size!r}."
        )
    return tuple(int(edge) for edge in edges)


def _is_edge(edge: Any) -> bool:
    return isinstance(edge, Integral) and not isinstance(edge, bool) and 1 <= int(edge) <= MAX_EDGE


def fitting_size(image_size: tuple[int, int], target_size: tuple[int, int]) -> tuple[int, int]:
    """
    Largest `(height, width)` with the image's aspect ratio that fits in `target_size`, rounded to whole pixels.

    The reference implementation rounds (`scale_img_size_instance_panoptic` in its `lightning_module.py`); truncating
    would be a pixel off for many image sizes.
    """
    return _scaled(image_size, min(target_size[0] / image_size[0], target_size[1] / image_size[1]))


def covering_size(image_size: tuple[int, int], target_size: tuple[int, int]) -> tuple[int, int]:
    """
    Smallest `(height, width)` with the image's aspect ratio that covers `target_size`, rounded to whole pixels.

    One side is that of the target; the other is cut into windows (`scale_img_size_semantic` in the reference
    implementation's `lightning_module.py`).
    """
    return _scaled(image_size, max(target_size[0] / image_size[0], target_size[1] / image_size[1]))


def _scaled(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(edge * scale)) for edge in image_size)
    return height, width


def window_starts(length: int, window: int) -> tuple[int, ...]:
    """
    Where windows start that cover `length` pixels: as few as possible, evenly overlapping.

    As in the reference implementation's `window_imgs_semantic`, but in whole numbers: there, rounding leaves out the
    last row or column of some lengths.
    """
    num_gaps = max(0, math.ceil(length / window) - 1)
    return (0, *(index * (length - window) // num_gaps for index in range(1, num_gaps + 1)))

"""Sizes of images on their way into the model and back: one arithmetic for pre- and post-processing."""

from collections.abc import Iterable, Mapping
from typing import Any


def padded_size(size: Any) -> tuple[int, int]:
    """
    `(height, width)` in pixels of what the model sees, from an image processor's `size`.

    `{"shortest_edge": h, "longest_edge": w}` is what checkpoints store (Transformers' own EoMT processor reads the two
    as height and width); `{"height": h, "width": w}`, `(h, w)` and a single int for a square say the same.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(size, int):
        return size, size
    # A mapping, or Transformers' SizeDict, which iterates over its (key, value) pairs.
    if isinstance(size, Mapping) or hasattr(size, "shortest_edge"):
        known = {key: value for key, value in dict(size).items() if value is not None}
        if known.keys() == {"height", "width"}:
            return known["height"], known["width"]
        if known.keys() == {"shortest_edge", "longest_edge"} or known.keys() == {"shortest_edge"}:
            return known["shortest_edge"], known.get("longest_edge", known["shortest_edge"])
    elif isinstance(size, Iterable):
        pair = tuple(size)
        if len(pair) == 2:
            return pair[0], pair[1]
    raise ValueError(
        "size must be an int, (height, width), {'height', 'width'} or {'shortest_edge', 'longest_edge'} in pixels, "
        f"got {size!r}."
    )


def resized_size(image_size: tuple[int, int], target_size: tuple[int, int]) -> tuple[int, int]:
    """
    Largest `(height, width)` with the image's aspect ratio that fits in `target_size`, rounded to whole pixels.

    The reference implementation rounds (`scale_img_size_instance_panoptic` in its `lightning_module.py`); truncating
    would be a pixel off for many image sizes.
    """
    scale = min(target_size[0] / image_size[0], target_size[1] / image_size[1])
    height, width = (max(1, round(edge * scale)) for edge in image_size)
    return height, width

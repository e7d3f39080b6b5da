"""The one in-memory sample, whatever the format on disk, and the classes its label ids stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class Category:
    """A class as a data set lists it. `id` is the data set's own number; it may leave gaps."""

    id: int
    name: str
    isthing: bool


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set, numbered without gaps in the order in which they are listed.

    Raises:
        ValueError: two categories share an id.
    """

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        names: dict[int, str] = {}
        for category in self.categories:
            if category.id in names:
                raise ValueError(
                    f"Category id {category.id} is used twice, for {names[category.id]!r} and for {category.name!r}. "
                    "Give every category its own id."
                )
            names[category.id] = category.name

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def label_ids(self) -> dict[int, int]:
        """The contiguous label id of every category id."""
        return {category.id: label_id for label_id, category in enumerate(self.categories)}

    @property
    def id2label(self) -> dict[int, str]:
        """The name of every label id, as a model configuration stores it."""
        return {label_id: category.name for label_id, category in enumerate(self.categories)}

    @property
    def stuff_classes(self) -> list[int]:
        """Label ids of the classes that are not things."""
        return [label_id for label_id, category in enumerate(self.categories) if not category.isthing]


@dataclass
class Target:
    """One segment of a picture.

    Args:
        rle: the mask, `(height, width)`, as pycocotools encodes it.
        label_id: contiguous label id.
        iscrowd: the mask covers many objects; evaluation ignores it and training leaves it out.
    """

    rle: dict[str, Any]
    label_id: int
    iscrowd: bool = False

    def mask(self) -> np.ndarray:
        """The mask, decoded: `(height, width)` bool."""
        return coco_mask.decode(self.rle).view(bool)


@dataclass
class Sample:
    """One picture with its targets. Masks stay run-length encoded until `masks` is called."""

    image_id: int | str
    image: Image.Image
    targets: list[Target] = field(default_factory=list)
    file_name: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return self.image.height, self.image.width

    def masks(self) -> np.ndarray:
        """Every target's mask: `(num_targets, height, width)` bool."""
        if not self.targets:
            return np.zeros((0, *self.size), dtype=bool)
        masks = coco_mask.decode([target.rle for target in self.targets])  # (height, width, num_targets)
        return np.ascontiguousarray(masks.transpose(2, 0, 1)).astype(bool)


def encode_masks(segment_map: np.ndarray, segment_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Run-length encodes the regions of `segment_map`, `(height, width)`, that hold each of `segment_ids`."""
    if not len(segment_ids):
        return []
    columns_first = np.ascontiguousarray(segment_map.T)
    masks = columns_first == np.asarray(segment_ids)[:, None, None]  # (num_segments, width, height)
    # pycocotools wants (height, width, num_segments) with columns first in memory, which is this view.
    return coco_mask.encode(masks.astype(np.uint8).transpose(2, 1, 0))

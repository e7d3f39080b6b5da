"""The one in-memory sample, whatever the format on disk, and the classes its label ids stand for."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class Category:
    """A class as a dataset lists it. `id` is the dataset's own number; it may leave gaps.

    However the accents of its name were typed, it is the same name: Unicode's composed form.
    """

    id: int
    name: str
    isthing: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", unicodedata.normalize("NFC", self.name))
        if not self.name.strip():
            raise ValueError(f"Category {self.id} has no name.")


@dataclass(frozen=True)
class LabelSpace:
    """A dataset's categories as classes of a model: label ids without gaps.

    Args:
        categories: the dataset's categories.
        names: the model's classes in order, to which categories are matched by name. By default the categories
            themselves, in the order in which they are listed.

    Raises:
        ValueError: two categories share an id or a name, or the model has no such class.
    """

    categories: tuple[Category, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        by_id: dict[int, Category] = {}
        by_name: dict[str, Category] = {}
        for category in self.categories:
            if (other := by_id.setdefault(category.id, category)) is not category:
                raise ValueError(
                    f"Category id {category.id} is used twice, for {other.name!r} and for {category.name!r}. "
                    "Give every category its own id."
                )
            if (other := by_name.setdefault(category.name, category)) is not category:
                raise ValueError(
                    f"Categories {other.id} and {category.id} are both called {category.name!r}. "
                    "Give every category its own name."
                )
        names = tuple(unicodedata.normalize("NFC", name) for name in self.names)
        object.__setattr__(self, "names", names or tuple(by_name))
        if unknown := [name for name in by_name if name not in self.names]:
            raise ValueError(
                f"Category {unknown[0]!r} is not a class of the model ({len(unknown)} of {len(by_name)} categories "
                f"are not). Its classes: {', '.join(self.names)}."
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def label_ids(self) -> dict[int, int]:
        """The label id of every category id."""
        return {category.id: self.names.index(category.name) for category in self.categories}

    @property
    def id2label(self) -> dict[int, str]:
        """The name of every label id, as a model configuration stores it."""
        return dict(enumerate(self.names))

    @property
    def stuff_classes(self) -> list[int]:
        """Label ids of the categories that are not things, ascending."""
        return sorted(self.label_ids[category.id] for category in self.categories if not category.isthing)


@dataclass
class Target:
    """One segment of an image.

    Args:
        rle: the mask, `(height, width)`, as pycocotools encodes it.
        label_id: contiguous label id.
        iscrowd: the mask covers many objects; evaluation ignores it and training leaves it out.
        area: the object's area in pixels as the dataset states it, by which COCO tells small from large objects;
            by default that of the mask.
    """

    rle: dict[str, Any]
    label_id: int
    iscrowd: bool = False
    area: float | None = None

    def mask(self) -> np.ndarray:
        """The mask, decoded: `(height, width)` bool."""
        return coco_mask.decode(self.rle).view(bool)


@dataclass
class Sample:
    """An image with its targets. Masks stay run-length encoded until `masks` is called."""

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
        masks = np.empty((len(self.targets), *self.size), dtype=bool)
        for mask, target in zip(masks, self.targets, strict=True):
            mask[:] = target.mask()
        return masks

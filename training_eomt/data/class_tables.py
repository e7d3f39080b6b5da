"""The classes of datasets whose files do not name them."""

from __future__ import annotations

from loading_eomt.published_datasets import published_datasets

from .samples import Category


def read_published_categories(dataset: str) -> list[Category]:
    """Returns the classes of "coco", "ade20k" or "cityscapes" as the published models know them, numbered from 0."""
    classes = published_datasets()[dataset]
    return [Category(index, name, index not in classes.stuff_classes) for index, name in enumerate(classes.labels)]

"""The classes of datasets whose files do not name them."""

from __future__ import annotations

import json
from pathlib import Path

import loading_eomt

from .samples import Category


def read_published_categories(dataset: str) -> list[Category]:
    """Reads the classes of "coco", "ade20k" or "cityscapes" as EoMT's published models know them, numbered from 0."""
    path = Path(loading_eomt.__file__).with_name("published_checkpoints.json")
    table = json.loads(path.read_text(encoding="utf-8"))
    classes = table["datasets"][dataset]
    stuff = set(classes["stuff_classes"])
    return [Category(index, name, index not in stuff) for index, name in enumerate(classes["labels"])]

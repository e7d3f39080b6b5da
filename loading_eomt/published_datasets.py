"""The datasets that checkpoints are published for: their classes. Nothing here needs torch."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PublishedDataset:
    """
    A dataset that checkpoints were published for.

    Args:
        name: "coco", "ade20k" or "cityscapes".
        title: its name in texts.
        labels: names of its classes.
        stuff_classes: which of them are stuff.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    stuff_classes: tuple[int, ...]

    def split_classes(self) -> tuple[set[str], set[str]]:
        """Returns the plain names of its things and of its stuff."""
        stuff = {plain_name(self.labels[index]) for index in self.stuff_classes}
        return {plain_name(name) for name in self.labels} - stuff, stuff


def plain_name(label: str) -> str:
    """Returns the name of a class in the one spelling of "Traffic_Light" and "traffic light"."""
    return " ".join(re.split(r"[\s_-]+", label.casefold()))


@cache
def read_table() -> dict[str, Any]:
    """Reads `published_checkpoints.json` beside this file: datasets, licences and checkpoints."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("published_checkpoints.json").read_text("utf-8"))
    return table


@cache
def published_datasets() -> dict[str, PublishedDataset]:
    """Returns the datasets by name."""
    return {
        name: PublishedDataset(name, dataset["title"], tuple(dataset["labels"]), tuple(dataset["stuff_classes"]))
        for name, dataset in read_table()["datasets"].items()
    }

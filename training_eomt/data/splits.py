"""The names of the parts of a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence


SPLITS = ("train", "validation", "predict")

# What each split is called, the likeliest first. Prediction falls back to the validation data.
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval"),
    "predict": ("predict", "test", "testing", "validation", "val", "valid", "eval"),
}


def list_split_names(split: str) -> tuple[str, ...]:
    """
    Names a split, the likeliest name first.

    Raises:
        ValueError: there is no such split.
    """
    if split not in _NAMES:
        raise ValueError(f"There is no split {split!r}: {', '.join(SPLITS)}.")
    return _NAMES[split]


def find_split_names(names: Sequence[str], split: str) -> list[str]:
    """Finds the names or paths that end in one of a split's names, with or without a year, the likeliest first."""
    known = list_split_names(split)
    plain = {name: re.sub(r"[-_]?\d*$", "", name.rsplit("/", 1)[-1].lower()) for name in names}  # train2017: train
    fitting = [name for name in names if plain[name] in known]
    return sorted(fitting, key=lambda name: (known.index(plain[name]), name))


def choose_split(names: Sequence[str], split: str | None, where: str) -> str | None:
    """
    Chooses the likeliest of the names or paths for a split; None if none is any split's, or no split is asked for.

    Args:
        names: names of folders, files or parts.
        split: the split.
        where: the data for messages.

    Raises:
        FileNotFoundError: they are of other splits only.
    """
    if split is None:
        return None
    if own := find_split_names(names, split):
        return own[0]
    if others := [name for other in SPLITS for name in find_split_names(names, other)]:
        raise FileNotFoundError(f"{where} has no {split} split, only {', '.join(dict.fromkeys(others))}.")
    return None

"""Parts of a dataset: a share for validation, a random sample, the rest without bad samples."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from .base import BadSample, SampleSummary, SegmentationDataset
from .files import FileTree
from .samples import Sample


class Subset(SegmentationDataset):
    """Some samples of a dataset, with its classes and its task.

    Args:
        dataset: the dataset.
        indices: which of its samples, in this order.
        left_out: what was left out before. `bad_samples` lists it, and what reading these samples, but not others of
            the dataset, adds to it.
    """

    def __init__(
        self, dataset: SegmentationDataset, indices: Sequence[int], left_out: Iterable[BadSample] = ()
    ) -> None:
        self.dataset, self.indices = dataset, list(indices)
        super().__init__(dataset.where, skip_bad_samples=dataset.skip_bad_samples, image_reading=dataset.image_reading)
        self._bad_samples = dict.fromkeys(left_out)

    def open(self, path: str | Path | FileTree) -> None:
        self.where, self.kind, self.task = self.dataset.where, self.dataset.kind, self.dataset.task
        self.categories, self.label_space = self.dataset.categories, self.dataset.label_space

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        before = self.dataset.num_bad_samples
        try:
            return self.dataset[self.indices[index]]
        finally:
            if self.dataset.num_bad_samples > before:
                self._bad_samples |= dict.fromkeys(self.dataset.bad_samples[before:])

    def name(self, index: int) -> str:
        return self.dataset.name(self.indices[index])

    def open_image(self, index: int) -> BinaryIO:
        return self.dataset.open_image(self.indices[index])

    def summarize(self, index: int) -> SampleSummary | None:
        return self.dataset.summarize(self.indices[index])

    def knows(self, category_id: int) -> bool:
        return self.dataset.knows(category_id)


def split_dataset(dataset: SegmentationDataset, validation_share: float | int, seed: int) -> tuple[Subset, Subset]:
    """
    Splits a dataset at random into parts for training and validation.

    The parts depend on the seed and on the number of samples only, so that every process gets the same ones.

    Args:
        dataset: the dataset.
        validation_share: a fraction between 0 and 1, or a number of samples.
        seed: another seed gives other parts.

    Returns:
        The part for training and that for validation, each in the order of the dataset. What the dataset left out
        before is in neither, and listed with the part for training alone.

    Raises:
        ValueError: one of the parts would be empty.
    """
    is_number = isinstance(validation_share, int)
    number = int(validation_share) if is_number else max(1, round(validation_share * len(dataset)))
    if not 0 < number < len(dataset) or not (is_number or 0 < validation_share < 1):
        raise ValueError(
            f"{dataset.where} has {len(dataset)} samples, of which {validation_share} cannot be set apart for "
            "validation: give a fraction between 0 and 1, or a number of samples that leaves some to train on."
        )
    order = list(range(len(dataset)))
    random.Random(seed).shuffle(order)
    return Subset(dataset, sorted(order[number:]), dataset.bad_samples), Subset(dataset, sorted(order[:number]))


def draw_samples(dataset: SegmentationDataset, number: int) -> SegmentationDataset:
    """Draws samples at random, always the same ones, in the order of the dataset; all if it has no more."""
    if number >= len(dataset):
        return dataset
    return Subset(dataset, sorted(random.Random(0).sample(range(len(dataset)), number)))


def leave_out(dataset: SegmentationDataset, bad: Iterable[BadSample]) -> Subset:
    """Leaves out the samples whose names are in `bad`, and lists them under `bad_samples`."""
    bad = list(bad)
    names = {sample.name for sample in bad}
    return Subset(dataset, [index for index in range(len(dataset)) if dataset.name(index) not in names], bad)

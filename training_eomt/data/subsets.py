"""Parts of a data set: a share for validation, or what is left when bad samples are left out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from .base import BadSample, SampleSummary, SegmentationDataset
from .samples import Sample


class Subset(SegmentationDataset):
    """Some samples of a data set, with its classes and its task.

    Args:
        dataset: the data set.
        indices: which of its samples, in this order.
        left_out: what was left out before. `bad_samples` lists it, and what reading these samples, not others of the
            data set, adds to it.
    """

    def __init__(
        self, dataset: SegmentationDataset, indices: Sequence[int], left_out: Iterable[BadSample] = ()
    ) -> None:
        self.dataset, self.indices = dataset, list(indices)
        self._bad_samples = dict.fromkeys(left_out)
        self.where, self.kind, self.task = dataset.where, dataset.kind, dataset.task
        self.categories, self.label_space = dataset.categories, dataset.label_space
        self.skip_bad_samples = dataset.skip_bad_samples
        self.image_reading = dataset.image_reading

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

    def summary(self, index: int) -> SampleSummary | None:
        return self.dataset.summary(self.indices[index])

    def knows(self, category_id: int) -> bool:
        return self.dataset.knows(category_id)

    @property
    def bad_samples(self) -> list[BadSample]:
        return list(self._bad_samples)

    @property
    def num_bad_samples(self) -> int:
        return len(self._bad_samples)


def split_dataset(dataset: SegmentationDataset, validation_share: float | int, seed: int) -> tuple[Subset, Subset]:
    """
    A data set in two parts, for training and validation, by chance.

    The parts depend on the seed and on the number of samples only, so that every process gets the same ones.

    Args:
        dataset: the data set.
        validation_share: a fraction between 0 and 1, or a number of samples.
        seed: another seed gives other parts.

    Returns:
        The part for training and that for validation, each in the order of the data set. What the data set left out
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
    """So many samples of a data set, drawn by chance and always the same, in its order; all if it has no more."""
    if number >= len(dataset):
        return dataset
    return Subset(dataset, sorted(random.Random(0).sample(range(len(dataset)), number)))


def leave_out(dataset: SegmentationDataset, bad: Iterable[BadSample]) -> Subset:
    """The data set less the samples whose names are in `bad`, which are listed under `bad_samples`."""
    bad = list(bad)
    names = {sample.name for sample in bad}
    return Subset(dataset, [index for index in range(len(dataset)) if dataset.name(index) not in names], bad)

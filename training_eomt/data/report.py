"""Reports on a dataset: sizes, segments of each class, and its faults."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..text import terminal_text
from .base import BadSample, SampleSummary, SegmentationDataset
from .images import BOTH_FIT


SHOWN_BAD_SAMPLES = 10
NAME_WIDTH = 40


@dataclass(frozen=True)
class DataReport:
    """The contents of a dataset; `str(report)` is a table for people.

    Args:
        where, task: the dataset and its task.
        num_images: number of images.
        num_counted: number of images on which the rest was counted.
        sizes: `(height, width)` in pixels of the smallest, the median and the largest image, by area.
        num_segments, num_images_with: by name of the class, segments and the images that have one.
        num_crowds: number of segments that are crowds.
        num_empty: images without segments.
        images_by_segments: number of segments -> number of images that have as many.
        void_share: share of the pixels, from 0 to 1, that belongs to no segment; None where pixels were not counted.
        num_turned_on_trust: images that were turned upright as their EXIF orientation says, though their annotations
            fit them as they are stored, too.
        bad_samples: what was left out, and why.
    """

    where: str
    task: str
    num_images: int
    num_counted: int
    sizes: tuple[tuple[int, int], ...]
    num_segments: dict[str, int]
    num_images_with: dict[str, int]
    num_crowds: int
    num_empty: int
    images_by_segments: dict[int, int] = field(default_factory=dict)
    void_share: float | None = None
    num_turned_on_trust: int = 0
    bad_samples: list[BadSample] = field(default_factory=list)

    @property
    def num_to_learn(self) -> int:
        """The number of counted segments that a model can learn from: all but the crowds."""
        return sum(self.num_segments.values()) - self.num_crowds

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON and model cards."""
        names = ("smallest", "median", "largest")
        return {
            "data": self.where,
            "task": self.task,
            "pictures": self.num_images,
            "counted_on": self.num_counted,
            "sizes": {name: list(size) for name, size in zip(names, self.sizes)},
            "classes": {
                name: {"segments": number, "pictures": self.num_images_with[name]}
                for name, number in self.num_segments.items()
            },
            "crowds": self.num_crowds,
            "empty_pictures": self.num_empty,
            "pictures_by_segments": self.images_by_segments,
            "void_share": self.void_share,
            "turned_on_trust": self.num_turned_on_trust,
            "left_out": [sample._asdict() for sample in self.bad_samples],
        }

    def __str__(self) -> str:
        total = sum(self.num_segments.values())
        lines = [f"{self.where}: {self.num_images:,} images for {self.task} segmentation"]
        if self.num_counted < self.num_images:
            lines.append(f"counted on {self.num_counted} of {self.num_images} images")
        if self.sizes:
            smallest, median, largest = (f"{height}x{width}" for height, width in self.sizes)
            lines.append(f"sizes (height x width): smallest {smallest}, median {median}, largest {largest}")
        per_image = f" ({total / self.num_counted:.1f} an image)" if self.num_counted else ""
        lines.append(
            f"{total:,} segments{per_image}, {self.num_crowds:,} of them crowds; {self.num_empty:,} empty images"
        )
        if self.void_share is not None:
            lines.append(f"{self.void_share:.1%} of the pixels are void: they belong to no class")
        lines += self._warnings()
        lines += ["", *self._class_table()]
        if self.bad_samples:
            lines += ["", f"left out: {len(self.bad_samples):,}"]
            lines += list_reasons(self.bad_samples)
        return "\n".join(terminal_text(line) for line in lines)

    def explain_nothing(self) -> str:
        """Explains why there is nothing to learn or to measure, where that is so."""
        if self.num_crowds:
            return (
                f"all {self.num_crowds:,} segments are crowds ('iscrowd' is 1), which neither training nor evaluation "
                "counts: set 'iscrowd' to 0 for single objects"
            )
        if not self.num_segments:
            only_things = ": only things count there ('isthing' is 1)" if self.task == "instance" else ""
            return f"the data have no class for {self.task} segmentation{only_things}"
        left_out = f"left out ({len(self.bad_samples):,}), " if self.bad_samples else ""
        return (
            f"none of the {self.num_counted:,} images has a segment of a class: the annotations are missing, empty, "
            f"{left_out}of images that are not there, or void throughout"
        )

    def _warnings(self) -> list[str]:
        lines = []
        if not self.num_to_learn:
            lines.append(f"WARNING: there is nothing to learn or to measure, since {self.explain_nothing()}")
        if self.num_turned_on_trust:
            lines.append(
                f"{self.num_turned_on_trust:,} images have an EXIF orientation and annotations that fit them either "
                "way; they are turned upright. If they were annotated as they are stored: --exif stored"
            )
        found = [name for name, number in self.num_segments.items() if number]
        if 0 < len(found) < len(self.num_segments):
            num_absent = len(self.num_segments) - len(found)
            lines.append(f"{num_absent:,} of {len(self.num_segments):,} classes have no segment")
        if self.task == "semantic" and len(found) == 1 and self.void_share:
            lines.append(
                f"WARNING: {found[0]!r} is the only class, and everything else is void. Where a value such as 255 is "
                "a class, --label_values or --ignore_index says so"
            )
        return lines

    def _class_table(self) -> list[str]:
        """Lists all classes, those with most segments first."""
        names = sorted(self.num_segments, key=lambda name: -self.num_segments[name])
        texts = {name: terminal_text(name) for name in names}
        shown = {name: t if len(t) <= NAME_WIDTH else f"{t[: NAME_WIDTH - 1]}…" for name, t in texts.items()}
        width = max(map(len, shown.values()), default=0)
        rows = [f"{'class':{width}}  {'segments':>9}  {'images':>9}"]
        for name in names:
            rows.append(f"{shown[name]:{width}}  {self.num_segments[name]:>9,}  {self.num_images_with[name]:>9,}")
        return rows


def report(
    dataset: SegmentationDataset, max_read: int | None = None, num_workers: int = 0, show_progress: bool = True
) -> DataReport:
    """
    Counts the images and segments of a dataset.

    Args:
        dataset: the dataset.
        max_read: where samples have to be read to be counted, read at most as many, spread evenly. None: all.
        num_workers: processes that read.
        show_progress: whether to show a progress bar while samples are read.

    Raises:
        ValueError: a sample that is read cannot be used, and the dataset does not skip such samples.
    """
    indices: Sequence[int] = range(len(dataset))
    summaries = [dataset.summarize(index) for index in indices]
    known = [summary for summary in summaries if summary is not None]
    bad = dict.fromkeys(dataset.bad_samples)
    if len(known) == len(summaries):
        num_read = len(known) if max_read is None else min(max_read, len(known))
        spread = [position * len(known) // num_read for position in range(num_read)]
        num_turned = sum(dataset.is_turned_on_trust(index, known[index].size) for index in spread)
    else:
        known = []
        if max_read is not None and max_read < len(indices):
            indices = [position * len(indices) // max_read for position in range(max_read)]
        for summary, found in _read(dataset, indices, num_workers, "Counting", show_progress):
            bad.update(dict.fromkeys(found))
            if summary is not None:
                known.append(summary)
            elif not dataset.skip_bad_samples:
                raise ValueError(found[-1].reason)
        num_turned = sum(summary.is_turned_on_trust for summary in known)
    void = [summary.num_void for summary in known if summary.num_void is not None]
    num_pixels = sum(summary.size[0] * summary.size[1] for summary in known if summary.num_void is not None)
    sizes = sorted((summary.size for summary in known), key=lambda size: (size[0] * size[1], size))
    segments = Counter(label_id for summary in known for label_id in summary.label_ids)
    images = Counter(label_id for summary in known for label_id in set(summary.label_ids))
    names = dataset.label_space.id2label
    return DataReport(
        where=dataset.where,
        task=dataset.task,
        num_images=len(dataset),
        num_counted=len(known),
        sizes=(sizes[0], statistics.median_low(sizes), sizes[-1]) if sizes else (),
        num_segments={name: segments[label_id] for label_id, name in names.items()},
        num_images_with={name: images[label_id] for label_id, name in names.items()},
        num_crowds=sum(summary.num_crowds for summary in known),
        num_empty=sum(not summary.label_ids for summary in known),
        images_by_segments=dict(sorted(Counter(len(summary.label_ids) for summary in known).items())),
        void_share=sum(void) / num_pixels if num_pixels else None,
        num_turned_on_trust=num_turned,
        bad_samples=list(bad),
    )


def check_samples(dataset: SegmentationDataset, num_workers: int = 0, show_progress: bool = True) -> list[BadSample]:
    """Reads every sample in full, see [`report`]; returns what fails, to be left out with [`leave_out`]."""
    read = _read(dataset, range(len(dataset)), num_workers, "Checking", show_progress)
    return list(dict.fromkeys(bad for _, found in read for bad in found))


def has_targets(dataset: SegmentationDataset, num_workers: int = 0, show_progress: bool = True) -> bool:
    """Whether a dataset has a segment that is no crowd, if need be by reading samples until one has."""
    # Where bad parts are left out, only reading tells which they are.
    summaries = [None if dataset.skip_bad_samples else dataset.summarize(index) for index in range(len(dataset))]
    known = [summary for summary in summaries if summary is not None]
    if any(len(summary.label_ids) > summary.num_crowds for summary in known):
        return True
    unknown = [index for index, summary in enumerate(summaries) if summary is None]
    read = _read(dataset, unknown, num_workers, "Looking for segments", show_progress)
    return any(summary is not None and len(summary.label_ids) > summary.num_crowds for summary, _ in read)


def list_reasons(bad_samples: Sequence[BadSample]) -> list[str]:
    """Lists the reasons for bad samples, a line for each of the first ones, and how many more there are."""
    lines = [f"  {sample.reason}" for sample in bad_samples[:SHOWN_BAD_SAMPLES]]
    if len(bad_samples) > SHOWN_BAD_SAMPLES:
        lines.append(f"  and {len(bad_samples) - SHOWN_BAD_SAMPLES:,} more")
    return lines


class _Reading(Dataset[tuple[SampleSummary | None, list[BadSample]]]):
    """For each sample its summary once it is read, or None, and its faults."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[SampleSummary | None, list[BadSample]]:
        index = self.indices[position]
        before = self.dataset.num_bad_samples
        try:
            sample = self.dataset[index]
        except (ValueError, OSError) as error:
            return None, [BadSample(self.dataset.name(index), str(error))]
        for target in sample.targets:
            target.mask()
        num_void = None
        if "instance" not in (self.dataset.kind, self.dataset.task):  # whose segments may overlap, and cover nothing
            covered = sum(int(coco_mask.area(target.rle)) for target in sample.targets)
            num_void = sample.size[0] * sample.size[1] - covered
        label_ids = [target.label_id for target in sample.targets]
        num_crowds = sum(target.iscrowd for target in sample.targets)
        turned = sample.image.info.get(BOTH_FIT, False)
        summary = SampleSummary(sample.size, label_ids, num_crowds, num_void, turned)
        is_same = self.dataset.num_bad_samples == before
        return summary, [] if is_same else self.dataset.bad_samples[before:]


def _read(
    dataset: SegmentationDataset, indices: Sequence[int], num_workers: int, what: str, show_progress: bool
) -> Iterator[tuple[SampleSummary | None, list[BadSample]]]:
    loader: Iterable[Any] = DataLoader(
        _Reading(dataset, indices),
        num_workers=num_workers,
        collate_fn=itemgetter(0),
        generator=torch.Generator(),  # or the global one would move on
    )
    yield from tqdm(loader, desc=what, unit="image", total=len(indices), disable=not show_progress)

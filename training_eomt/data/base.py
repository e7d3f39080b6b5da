"""What all data sets have in common: from annotations in the data's own categories to targets for a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from .files import FileTree
from .images import DEFAULT_READING, ImageReading
from .samples import Category, LabelSpace, Sample, Target


# What annotations of each kind can be used for.
TASKS_OF = {
    "panoptic": ("panoptic", "instance", "semantic"),
    "instance": ("instance", "semantic"),
    "semantic": ("semantic",),
}


class Annotation(NamedTuple):
    """One segment as a data set lists it, see [`Target`]; the category is the data set's own number."""

    rle: dict[str, Any]
    category_id: int
    iscrowd: bool = False
    area: float | None = None


class BadSample(NamedTuple):
    """A sample that cannot be used, or a part of one: an annotation, an entry of a zip."""

    name: str
    reason: str


class SampleSummary(NamedTuple):
    """What can be said about a sample without decoding it."""

    size: tuple[int, int]  # (height, width) in pixels
    label_ids: Sequence[int]  # of its targets, crowds included
    num_crowds: int
    num_void: int | None = None  # pixels that belong to no target; None where they are not counted
    is_turned_on_trust: bool = False  # its image was turned upright, and would have fitted as it is stored


class SegmentationDataset(Dataset[Sample], ABC):
    """Pictures with targets; item `i` is a [`Sample`] whose label ids are those of `label_space`.

    A reader of a format finds the data set's categories and samples, calls `super().__init__`, and reads one sample
    at a time. What is wrong with one sample goes to `bad_sample`, what is wrong with all of them is raised.

    Args:
        where: the data set for messages, such as its JSON file.
        categories: the data set's categories.
        kind: what the annotations say: "panoptic", "instance" or "semantic".
        id2label: a model's classes, to which the categories are matched by name. By default the categories become the
            classes, for instance segmentation the things among them, in the order in which they are listed.
        task: what the samples are for, by default what the annotations say. For instance segmentation, stuff is left
            out; for semantic segmentation, all segments of a class are one target.
        skip_bad_samples: leave out what can be seen to be wrong when the data set is opened, and list it in
            `bad_samples`. What only decoding tells, `check_samples` finds.
        tree: where the files are; entries of its zips that it left out are listed too.
        image_reading: how images are read.

    Raises:
        ValueError: categories and `id2label` contradict each other, or the annotations do not say enough for the task.
    """

    def __init__(
        self,
        where: str,
        categories: Iterable[Category],
        kind: str,
        id2label: Mapping[int, str] | None = None,
        task: str | None = None,
        skip_bad_samples: bool = False,
        tree: FileTree | None = None,
        image_reading: ImageReading = DEFAULT_READING,
    ) -> None:
        self.where = where
        self.image_reading = image_reading
        self.kind = kind
        self.task = task or kind
        self.skip_bad_samples = skip_bad_samples
        self._bad_samples: dict[BadSample, None] = {}  # in the order in which they were found
        self._tree_of_zips = tree
        if self.task not in TASKS_OF[kind]:
            raise ValueError(
                f"{where} has {kind} annotations, from which {self.task} segmentation cannot be learnt or measured. "
                f"They are for task {' or '.join(TASKS_OF[kind])}."
            )
        self.categories = tuple(categories)
        self._all_category_ids = frozenset(category.id for category in self.categories)
        used = tuple(category for category in self.categories if category.isthing or self.task != "instance")
        names = () if id2label is None else tuple(id2label[label_id] for label_id in range(len(id2label)))
        try:
            self.label_space = LabelSpace(used, names)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Reads a sample. Raises a `ValueError` that names the file if it cannot be used."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The picture of a sample, for messages: its path, or its place where it is no file."""

    def open_image(self, index: int) -> BinaryIO:
        """Opens the file of a sample's image. Raises a `ValueError` or an `OSError` if it cannot be opened."""
        raise FileNotFoundError(f"{self.name(index)} is no file.")

    def read_image(self, index: int, size: tuple[int, ...] | None = None, annotation: str = "None") -> Image.Image:
        """
        A sample's image as RGB, the way up on which its annotation was drawn.

        Args:
            index: the sample.
            size: `(height, width)` of the annotation in pixels, None where it has none.
            annotation: what messages call the annotation.

        Raises:
            OSError: the image cannot be opened.
            ValueError: it cannot be read, or is not as large as its annotation.
        """
        with self.open_image(index) as file:
            return self.image_reading.read_rgb(file, self.name(index), size, annotation)

    def is_turned_on_trust(self, index: int, size: tuple[int, int]) -> bool:
        """Whether an image was turned upright, though its annotation of `(height, width)` fits it as stored, too."""
        try:
            with self.open_image(index) as file:
                return self.image_reading.is_unsure(file, self.name(index), size)
        except (OSError, ValueError):  # which reading the sample tells
            return False

    def summary(self, index: int) -> SampleSummary | None:
        """What is known of a sample before it is read; None if only reading it tells."""
        return None

    def summarised(self, size: tuple[int, int], segments: Iterable[tuple[int, bool]]) -> SampleSummary:
        """
        The summary of a sample for the task.

        Args:
            size: `(height, width)` in pixels.
            segments: category id and `iscrowd` of each segment.
        """
        label_ids = self.label_space.label_ids
        used = [(label_ids[category_id], iscrowd) for category_id, iscrowd in segments if category_id in label_ids]
        if self.task == "semantic":
            return SampleSummary(size, sorted({label_id for label_id, _ in used}), 0)
        return SampleSummary(size, [label_id for label_id, _ in used], sum(iscrowd for _, iscrowd in used))

    @property
    def bad_samples(self) -> list[BadSample]:
        """What was left out so far. What only reading tells is known once a sample was read, in the same process."""
        self._note_bad_entries()
        return list(self._bad_samples)

    @property
    def num_bad_samples(self) -> int:
        """How many there are: what comes later is listed behind them."""
        self._note_bad_entries()
        return len(self._bad_samples)

    def _note_bad_entries(self) -> None:
        for entry in self._tree_of_zips.bad_entries if self._tree_of_zips else ():
            self._bad_samples.setdefault(BadSample(*entry), None)

    def bad_sample(self, name: str, reason: str, error: type[Exception] = ValueError) -> None:
        """Leaves out a sample, or raises an error with the reason."""
        if not self.skip_bad_samples:
            raise error(reason)
        self._bad_samples[BadSample(name, reason)] = None

    def knows(self, category_id: int) -> bool:
        """Whether a category is in the data set's list."""
        return category_id in self._all_category_ids

    def targets(self, annotations: Iterable[Annotation]) -> list[Target]:
        """The targets for the task. Categories must be known; those that the task has no use for are left out."""
        label_ids = self.label_space.label_ids
        used = [annotation for annotation in annotations if annotation.category_id in label_ids]
        if self.task != "semantic":
            return [Target(a.rle, label_ids[a.category_id], a.iscrowd, a.area) for a in used]
        rles_of_class: dict[int, list[dict[str, Any]]] = {}
        for annotation in used:
            rles_of_class.setdefault(label_ids[annotation.category_id], []).append(annotation.rle)
        return [
            Target(rles[0] if len(rles) == 1 else coco_mask.merge(rles), label_id)
            for label_id, rles in rles_of_class.items()
        ]

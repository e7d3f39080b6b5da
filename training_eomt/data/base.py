"""The contract of all dataset readers: how a format is recognised, opened and read, and what a dataset reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple, TypedDict

from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from .files import FileTree, open_tree
from .images import DEFAULT_READING, ImageReading
from .samples import Category, LabelSpace, Sample, Target


if TYPE_CHECKING:
    from typing_extensions import Unpack


# The tasks that annotations of each kind can be used for.
TASKS_BY_KIND = {
    "panoptic": ("panoptic", "instance", "semantic"),
    "instance": ("instance", "semantic"),
    "semantic": ("semantic",),
}
IMAGES_DIR = ("images_dir",)
CLASS_SETTINGS = ("class_names", "label_values", "ignore_index", "do_reduce_labels")
COLUMN_SETTINGS = ("image_column", "annotation_column")


class Settings(TypedDict, total=False):
    """How a dataset is stored, where its files do not say so. Each format knows some of these, see its `SETTINGS`."""

    # The folder of the images where it is not the dataset's own; listed names may match by their last parts only.
    images_dir: str | Path | None
    # Names of the classes: a list, or a file, see [`read_class_names`]. By default such a file in the folder or its
    # parent (`classes.txt`, `id2label.json`...); without one, the classes are those of `id2label`, by number; without
    # that either, the values that occur, for which every label map is read.
    class_names: str | Path | Sequence[str] | None
    # A table of the classes of values or colours, in place of names: a mapping, or a file, see [`read_label_values`].
    label_values: str | Path | Mapping[int | str, str | None] | None
    # Values of pixels that belong to no class. By default 255 and 65535, unless a class has this number.
    ignore_index: Collection[int] | None
    # Whether 0 belongs to no class either, and the first class is 1.
    do_reduce_labels: bool | None
    # The columns of a table; by default found by their type and name.
    image_column: str | None
    annotation_column: str | None


class Annotation(NamedTuple):
    """One segment as a dataset lists it, see [`Target`]; the category is the dataset's own number."""

    rle: dict[str, Any]
    category_id: int
    iscrowd: bool = False
    area: float | None = None


class BadSample(NamedTuple):
    """A sample that cannot be used, or a part of one: an annotation, an entry of a zip."""

    name: str
    reason: str


class SampleSummary(NamedTuple):
    """A description of a sample that needs no decoding."""

    size: tuple[int, int]  # (height, width) in pixels
    label_ids: Sequence[int]  # of its targets, crowds included
    num_crowds: int
    num_void: int | None = None  # pixels that belong to no target; None where they are not counted
    is_turned_on_trust: bool = False  # its image was turned upright, and would have fitted as it is stored


class ImageFile(NamedTuple):
    """The image of a sample: a file of a tree."""

    tree: FileTree
    name: str

    @property
    def path(self) -> str:
        """The file for messages."""
        return self.tree.path(self.name)


class SegmentationDataset(Dataset[Sample], ABC):
    """Images with targets; item `i` is a [`Sample`] whose label ids are those of `label_space`.

    A data format is a subclass with an entry in `opening.READERS`. It defines

    - `LOOKS_FOR`: the files by which the format is known, for messages; `fits`, which looks for them in a folder or
      zip; and `SUFFIXES` of files that stand for a whole dataset, such as ".json";
    - `SETTINGS`: which of [`Settings`] it knows;
    - `open`: finds the classes, hands them to `set_categories`, and lists the samples in `images`;
    - `__getitem__`: reads a sample;
    - `summarize`, if a sample can be described before it is read.

    A fault of one sample goes to `bad_sample`, a fault of the whole dataset is raised.

    Args:
        path: a folder or zip, possibly inside a zip, or a file with one of `SUFFIXES`.
        id2label: a model's classes, to which the categories are matched by name. By default the categories become the
            classes, for instance segmentation the things among them, in the order in which they are listed.
        task: the task of the samples, by default the kind of the annotations. For instance segmentation, stuff is
            left out; for semantic segmentation, all segments of a class are one target.
        skip_bad_samples: leave out the faults that can be seen when the dataset is opened, and list them in
            `bad_samples`. Those that only decoding reveals, `check_samples` finds.
        split: "train", "validation" or "predict" where there are several; None, or where there are none, takes all.
        image_reading: how images are read.
        settings: see [`Settings`].

    Raises:
        FileNotFoundError: a file or folder is missing or empty.
        ValueError: the files contradict each other, `id2label` or the format, or do not say enough for the task.
        TypeError: the format does not know a setting.
    """

    LOOKS_FOR: ClassVar[str] = ""
    SUFFIXES: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[tuple[str, ...]] = ()

    where: str  # the dataset for messages, such as its JSON file
    kind: str  # of the annotations: "panoptic", "instance" or "semantic"
    task: str
    categories: tuple[Category, ...]
    label_space: LabelSpace
    tree: FileTree  # of the annotations

    def __init__(
        self,
        path: str | Path | FileTree,
        id2label: Mapping[int, str] | None = None,
        *,
        task: str | None = None,
        skip_bad_samples: bool = False,
        split: str | None = None,
        image_reading: ImageReading = DEFAULT_READING,
        **settings: Unpack[Settings],
    ) -> None:
        self.settings: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        if unknown := self.settings.keys() - set(self.SETTINGS):
            raise TypeError(f"{type(self).__name__} has no {min(unknown)}, only {', '.join(self.SETTINGS) or 'none'}.")
        self.id2label, self.requested_task, self.split = id2label, task, split
        self.skip_bad_samples, self.image_reading = skip_bad_samples, image_reading
        self._bad_samples: dict[BadSample, None] = {}  # in the order in which they were found
        self._trees: list[FileTree] = []
        self.images: list[ImageFile] = []
        self.open(path)

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds a dataset of this format."""
        return False

    @classmethod
    def fits_file(cls, path: Path) -> bool:
        """Whether a file stands for a dataset of this format."""
        return path.suffix in cls.SUFFIXES

    @abstractmethod
    def open(self, path: str | Path | FileTree) -> None:
        """Finds the annotations, calls `set_categories`, and fills `images`."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Reads a sample. Raises a `ValueError` that names the file if it cannot be used."""

    def open_tree(self, path: str | Path | FileTree) -> FileTree:
        """Opens the folder or zip at a path, and reports the entries of zips that are left out."""
        self._trees.append(open_tree(path, self.skip_bad_samples))
        return self._trees[-1]

    def set_categories(self, where: str, kind: str, categories: Iterable[Category]) -> None:
        """
        Sets the classes, and with them the label ids of the samples.

        Args:
            where: the dataset for messages.
            kind: of the annotations: "panoptic", "instance" or "semantic".
            categories: the dataset's categories.

        Raises:
            ValueError: categories and `id2label` contradict each other, or the annotations do not say enough for the
                task.
        """
        self.where, self.kind, self.task = where, kind, self.requested_task or kind
        if self.task not in TASKS_BY_KIND[kind]:
            raise ValueError(
                f"{where} has {kind} annotations, from which {self.task} segmentation cannot be learnt or measured. "
                f"They are for task {' or '.join(TASKS_BY_KIND[kind])}."
            )
        self.categories = tuple(categories)
        self._all_category_ids = frozenset(category.id for category in self.categories)
        used = tuple(category for category in self.categories if category.isthing or self.task != "instance")
        id2label = self.id2label or {}
        try:
            self.label_space = LabelSpace(used, tuple(id2label[label_id] for label_id in range(len(id2label))))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image of a sample for messages: its path, or its place where it is no file."""
        return self.images[index].path

    def open_image(self, index: int) -> BinaryIO:
        """Opens the file of a sample's image. Raises a `ValueError` or an `OSError` if it cannot be opened."""
        return self.images[index].tree.open(self.images[index].name)

    def read_image(self, index: int, size: tuple[int, ...] | None = None, annotation: str = "None") -> Image.Image:
        """
        Reads a sample's image as RGB, in the orientation in which it was annotated.

        Args:
            index: the sample.
            size: `(height, width)` of the annotation in pixels, None where it has none.
            annotation: the annotation for messages.

        Raises:
            OSError: the image cannot be opened.
            ValueError: it cannot be read, or is not as large as its annotation.
        """
        with self.open_image(index) as file:
            return self.image_reading.read_rgb(file, self.name(index), size, annotation)

    def read_map(self, name: str) -> tuple[Image.Image, str]:
        """Reads a file of `tree` whose pixels are annotations, as they are stored. Returns also its path."""
        path = self.tree.path(name)
        with self.tree.open(name) as file:
            return self.image_reading.read_annotation(file, path), path

    def is_turned_on_trust(self, index: int, size: tuple[int, int]) -> bool:
        """Whether an image is turned upright, though its annotation of `(height, width)` fits it as stored, too."""
        try:
            with self.open_image(index) as file:
                return self.image_reading.is_unsure(file, self.name(index), size)
        except (OSError, ValueError):  # which reading the sample reports
            return False

    def summarize(self, index: int) -> SampleSummary | None:
        """Describes a sample before it is read; None if only reading it tells."""
        return None

    def summarize_segments(
        self, size: tuple[int, int] | None, segments: Iterable[tuple[Any, Any]]
    ) -> SampleSummary | None:
        """
        Describes a sample for the task.

        Args:
            size: `(height, width)` in pixels; None if it is not known, and neither is the summary then.
            segments: category id and `iscrowd` of each segment.
        """
        if size is None:
            return None
        label_ids = self.label_space.label_ids
        used = [(label_ids[category_id], iscrowd) for category_id, iscrowd in segments if category_id in label_ids]
        if self.task == "semantic":
            return SampleSummary(size, sorted({label_id for label_id, _ in used}), 0)
        return SampleSummary(size, [label_id for label_id, _ in used], sum(iscrowd for _, iscrowd in used))

    @property
    def bad_samples(self) -> list[BadSample]:
        """Everything left out so far; a fault found by reading a sample is known in the process that read it."""
        self._note_bad_entries()
        return list(self._bad_samples)

    @property
    def num_bad_samples(self) -> int:
        """The length of `bad_samples`, which only grows at its end."""
        self._note_bad_entries()
        return len(self._bad_samples)

    def _note_bad_entries(self) -> None:
        for tree in self._trees:
            self._bad_samples |= dict.fromkeys(BadSample(*entry) for entry in tree.bad_entries)

    def bad_sample(self, name: str, reason: str, error: type[Exception] = ValueError) -> None:
        """Leaves out a sample or a part of one, or raises an error with the reason."""
        if not self.skip_bad_samples:
            raise error(reason)
        self._bad_samples[BadSample(name, reason)] = None

    def knows(self, category_id: int) -> bool:
        """Whether the dataset lists a category."""
        return category_id in self._all_category_ids

    def make_targets(self, annotations: Iterable[Annotation]) -> list[Target]:
        """Makes the targets for the task. Categories must be known; those that the task does not use are left out."""
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

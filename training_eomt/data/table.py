"""Tables with one column of pictures and one of annotations, as the `datasets` library keeps them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from huggingface_hub import hf_hub_download
from PIL import Image

from .base import Annotation, BadSample, SegmentationDataset
from .class_names import by_value, find_class_names, numbered, read_class_names
from .files import FileTree
from .images import DEFAULT_READING, ImageReading
from .label_coding import USUAL_VOID, check_lossless, given_class_names, given_label_values, label_coding, values_in
from .label_maps import open_tree
from .report import list_reasons
from .samples import Category, Sample, encode_masks
from .table_sources import METADATA_FILES, MetadataTable, open_table, table_in


IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values")
ANNOTATION_COLUMNS = ("label", "annotation", "mask", "label_map", "segmentation", "labels", "annotations", "masks")
COLOUR_MODES = ("RGB", "RGBA")
MAX_OBJECTS = 256 * 256  # of a class in a picture: green and blue


class TableDataset(SegmentationDataset):
    """Reads a table of the `datasets` library; item `i` is its `i`-th row that can be used.

    An annotation is a picture. With one channel, or grey, its values are numbers of classes, for semantic
    segmentation, as in [`LabelMapDataset`]. With colours it is panoptic: red is the number of the class, green + 256
    blue the number of the object. Object 0 means that objects are not told apart: a class that has objects anywhere in
    the data is a thing, and its pixels of object 0 are void; a class that has none is stuff. To find this out, every
    annotation is read once. Transformers' own examples for instance segmentation use the same colours without blue.
    With a table of colours in `label_values`, colours are classes.

    Args:
        path: a folder with pictures and `metadata.jsonl` (whose `image_file_name` and `label_file_name` make the
            columns `image` and `label`), one that `save_to_disk` wrote, one of parquet files, or a name on the Hub.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`].
        split: which part to take where there are several.
        class_names, label_values, ignore_index, do_reduce_labels: see [`LabelMapDataset`]; names are looked for in
            `id2label.json` and the like beside the data, too.
        image_column, annotation_column: names of the columns; by default found by their type and name.

    Raises:
        FileNotFoundError: there is no table, or a file that `metadata.jsonl` names is missing.
        ValueError: the columns are not clear, a picture is listed twice, or what [`SegmentationDataset`] raises.
            Reading a sample: what [`LabelMapDataset`] raises.
    """

    LOOKS_FOR = "metadata.jsonl, dataset_dict.json, state.json or *.parquet (datasets)"

    def __init__(
        self,
        path: str | Path | FileTree,
        id2label: Mapping[int, str] | None = None,
        *,
        task: str | None = None,
        skip_bad_samples: bool = False,
        split: str | None = None,
        image_reading: ImageReading = DEFAULT_READING,
        class_names: str | Path | Sequence[str] | None = None,
        label_values: str | Path | Mapping[int | str, str | None] | None = None,
        ignore_index: Collection[int] | None = None,
        do_reduce_labels: bool = False,
        image_column: str | None = None,
        annotation_column: str | None = None,
    ) -> None:
        tree = _local(path, skip_bad_samples)
        self.table = open_table(str(path) if tree is None else tree, split)
        where, columns = self.table.where, self.table.columns
        self.image_column = _column(where, columns, image_column, IMAGE_COLUMNS, "image_column", annotation_column)
        self.annotation_column = _column(
            where, columns, annotation_column, ANNOTATION_COLUMNS, "annotation_column", self.image_column
        )
        left_out: list[tuple[str, str]] = []
        if isinstance(self.table, MetadataTable):

            def leave_out(name: str, reason: str, error: type[Exception] = ValueError) -> None:
                if not skip_bad_samples:
                    raise error(reason)
                left_out.append((name, reason))

            self.table.check(self.image_column, self.annotation_column, leave_out)
        if not len(self.table):
            reasons = list_reasons([BadSample(*entry) for entry in left_out])
            raise ValueError("\n".join([f"{where} has no rows that can be used: there is no picture.", *reasons]))
        names, table = given_class_names(class_names), given_label_values(label_values)
        if names is None and table is None:
            names = _names_on_hub(str(path)) if tree is None else find_class_names(tree)
        self.image_reading = image_reading
        self.is_panoptic = table is None and self._has_colours()
        if self.is_panoptic:
            self.ignored = (USUAL_VOID if ignore_index is None else frozenset(ignore_index)) | (
                {0} if do_reduce_labels else set()
            )
            categories = self._panoptic_categories(names, id2label, int(do_reduce_labels))
        else:
            maps = [partial(self._read_annotation, index) for index in range(len(self.table))]
            self.coding = label_coding(names, table, id2label, ignore_index, do_reduce_labels, maps, skip_bad_samples)
            categories = [Category(number, name, False) for number, name in self.coding.names.items()]
        kind = "panoptic" if self.is_panoptic else "semantic"
        super().__init__(where, categories, kind, id2label, task, skip_bad_samples, tree, image_reading)
        for name, reason in left_out:
            self.bad_sample(name, reason)
        self._things = {category.id for category in categories if category.isthing}

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        return table_in(tree) is not None

    def __len__(self) -> int:
        return len(self.table)

    def name(self, index: int) -> str:
        return self.table.name(index, self.image_column)

    def open_image(self, index: int) -> BinaryIO:
        return self.table.open(index, self.image_column)

    def __getitem__(self, index: int) -> Sample:
        annotation, where = self._read_annotation(index)
        image = self.read_image(index, (annotation.height, annotation.width), where)
        if self.is_panoptic:
            annotations = self._segments(panoptic_map_of(annotation, where), where)
        else:
            annotations = self.coding.annotations(annotation, where)
        return Sample(self.name(index), image, self.targets(annotations), os.path.basename(self.name(index)))

    def _segments(self, segments: np.ndarray, where: str) -> list[Annotation]:
        found = []
        for value in sorted(values_in(segments)):
            class_id, number = divmod(value, MAX_OBJECTS)
            if class_id in self.ignored or (class_id in self._things and not number):
                continue
            if not self.knows(class_id):
                raise ValueError(
                    f"{where}: {int((segments == value).sum())} pixels are of class {class_id} (red), which does not "
                    "exist. Values that belong to no class are given as --ignore_index, and colours that stand for "
                    "classes as --label_values."
                )
            found.append(value)
        rles = encode_masks(segments, found)
        return [Annotation(rle, value // MAX_OBJECTS) for rle, value in zip(rles, found, strict=True)]

    def _has_colours(self) -> bool:
        """
        Whether annotations are coloured, by the first one that can be read and is not all black.

        Raises:
            ValueError: none of them can be read.
        """
        is_rgb, faults = None, []
        for index in range(len(self)):
            try:
                annotation, _ = self._read_annotation(index)
            except (ValueError, OSError) as error:  # which reading the sample tells, too
                faults.append(str(error))
                continue
            if annotation.mode not in COLOUR_MODES:
                return False
            is_rgb = True
            red, green, blue = (np.asarray(channel) for channel in annotation.convert("RGB").split())
            if red.any() or green.any() or blue.any():
                return not (np.array_equal(red, green) and np.array_equal(red, blue))
        if is_rgb is None:
            raise ValueError(
                f"{self.table.where}: none of its {len(self.table)} annotations can be read. The first: {faults[0]}"
            )
        return is_rgb

    def _panoptic_categories(
        self, names: Sequence[str] | None, id2label: Mapping[int, str] | None, first_class: int
    ) -> list[Category]:
        with ThreadPoolExecutor() as threads:
            values = set().union(*threads.map(self._panoptic_values, range(len(self.table))))
        things = {value // MAX_OBJECTS for value in values if value % MAX_OBJECTS}
        if names is None and id2label is not None:
            names = [id2label[label_id] for label_id in range(len(id2label))]
        found = {value // MAX_OBJECTS for value in values} - self.ignored
        by_number = numbered(found, first_class) if names is None else by_value(names, first_class)
        return [Category(number, name, number in things) for number, name in by_number.items()]

    def _panoptic_values(self, index: int) -> set[int]:
        """The values of an annotation; none where it cannot be read, which reading the sample tells."""
        try:
            return values_in(panoptic_map_of(*self._read_annotation(index)))
        except (ValueError, OSError):
            return set()

    def _read_annotation(self, index: int) -> tuple[Image.Image, str]:
        """An annotation, decoded, and what messages call it."""
        where = self.table.name(index, self.annotation_column)
        with self.table.open(index, self.annotation_column) as file:
            return self.image_reading.read_annotation(file, where), where


def panoptic_map_of(image: Image.Image, where: str) -> np.ndarray:
    """`(height, width)` int64: 65536 times the class, which is red, plus the object, green + 256 blue."""
    if image.mode not in COLOUR_MODES:
        raise ValueError(f"{where} has mode {image.mode}, but other annotations of the data are RGB.")
    check_lossless(image, where)
    red, green, blue = np.asarray(image.convert("RGB")).astype(np.int64).transpose(2, 0, 1)
    return MAX_OBJECTS * red + green + 256 * blue


def _local(path: str | Path | FileTree, skip_bad_samples: bool) -> FileTree | None:
    """The folder of a table; None for a name on the Hub."""
    if isinstance(path, FileTree):
        return path
    path = Path(path)
    if path.name in METADATA_FILES:
        path = path.parent
    try:
        return open_tree(path, skip_bad_samples)
    except FileNotFoundError:
        return None


def _column(
    where: str, columns: Sequence[str], given: str | None, usual: Sequence[str], argument: str, other: str | None
) -> str:
    """The column that was given, or the one that is clear by its name or because it is the only one left."""
    if given is not None:
        if given not in columns:
            raise ValueError(f"{where} has no column of pictures {given!r} ({argument}), only {', '.join(columns)}.")
        return given
    left = [column for column in columns if column != other]
    named = [column for column in usual if column in left] or (left if len(left) == 1 else [])
    if not named:
        found = ", ".join(columns) or "none"
        raise ValueError(f"{where}: its columns of pictures are {found}. Name one as {argument}.")
    return named[0]


def _names_on_hub(name: str) -> list[str] | None:
    try:
        return read_class_names(Path(hf_hub_download(name, "id2label.json", repo_type="dataset")))
    except OSError:  # there is none, or no network
        return None

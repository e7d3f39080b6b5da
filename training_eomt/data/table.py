"""Tables with one column of images and one of annotations, as the `datasets` library keeps them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from huggingface_hub import hf_hub_download
from PIL import Image

from .base import CLASS_SETTINGS, COLUMN_SETTINGS, Annotation, SegmentationDataset
from .class_names import find_class_names, name_by_number, name_by_value, read_class_names
from .colours import extract_ids
from .files import FileTree
from .label_coding import USUAL_VOID, find_label_coding
from .label_values import read_class_settings
from .masks import encode_masks, find_values
from .report import list_reasons
from .samples import Category, Sample
from .table_sources import METADATA_FILES, MetadataTable, find_table, open_table


IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values")
ANNOTATION_COLUMNS = ("label", "annotation", "mask", "label_map", "segmentation", "labels", "annotations", "masks")
COLOUR_MODES = ("RGB", "RGBA")


class TableDataset(SegmentationDataset):
    """Reads a table of the `datasets` library; item `i` is its `i`-th row that can be used.

    An annotation is an image. With one channel, or grey, its values are numbers of classes, for semantic segmentation,
    as in [`LabelMapDataset`]. With colours it is panoptic: red is the number of the class, green + 256 blue the number
    of the object. Object 0 means that objects are not told apart: a class that has objects anywhere in the data is a
    thing, and its pixels of object 0 are void; a class that has none is stuff. To find this out, every annotation is
    read once. Transformers' own examples for instance segmentation use the same colours without blue. With a table of
    colours in `label_values`, colours are classes.

    The dataset is a folder with images and `metadata.jsonl` (whose `image_file_name` and `label_file_name` make the
    columns `image` and `label`), one that `save_to_disk` wrote, one of parquet files, or a name on the Hub. Names of
    classes are looked for in `id2label.json` and the like beside the data, too.
    """

    LOOKS_FOR = "metadata.jsonl, dataset_dict.json, state.json or *.parquet (datasets)"
    SUFFIXES = (".jsonl", ".csv")
    SETTINGS = CLASS_SETTINGS + COLUMN_SETTINGS

    def open(self, path: str | Path | FileTree) -> None:
        if not isinstance(path, FileTree) and Path(path).name in METADATA_FILES:
            path = Path(path).parent
        try:
            tree: FileTree | None = self.open_tree(path)
        except FileNotFoundError:  # perhaps a name on the Hub
            tree = None
        self.table = open_table(str(path) if tree is None else tree, self.split)
        where = self.table.where
        given = self.settings.get("annotation_column")
        self.image_column = self._choose_column("image_column", IMAGE_COLUMNS, given)
        self.annotation_column = self._choose_column("annotation_column", ANNOTATION_COLUMNS, self.image_column)
        if isinstance(self.table, MetadataTable):
            self.table.check(self.image_column, self.annotation_column, self.bad_sample)
        if not len(self.table):
            reasons = list_reasons(self.bad_samples)
            raise ValueError("\n".join([f"{where} has no rows that can be used: there is no image.", *reasons]))
        names, table = read_class_settings(self.settings)
        if names is None and table is None:
            names = _read_names_on_hub(str(path)) if tree is None else find_class_names(tree)
        ignore_index = self.settings.get("ignore_index")
        do_reduce_labels = self.settings.get("do_reduce_labels", False)
        self.is_panoptic = table is None and self._has_colours()
        if self.is_panoptic:
            self.ignored = USUAL_VOID if ignore_index is None else frozenset(ignore_index)
            self.ignored |= {0} if do_reduce_labels else set()
            categories = self._find_panoptic_categories(names, int(do_reduce_labels))
        else:
            maps = [partial(self._read_annotation, index) for index in range(len(self.table))]
            self.coding = find_label_coding(
                names, table, self.id2label, ignore_index, do_reduce_labels, maps, self.skip_bad_samples
            )
            categories = [Category(number, name, False) for number, name in self.coding.names.items()]
        self.set_categories(where, "panoptic" if self.is_panoptic else "semantic", categories)
        self._things = {category.id for category in categories if category.isthing}

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        return find_table(tree) is not None

    def __len__(self) -> int:
        return len(self.table)

    def name(self, index: int) -> str:
        return self.table.name(index, self.image_column)

    def open_image(self, index: int) -> BinaryIO:
        return self.table.open(index, self.image_column)

    def __getitem__(self, index: int) -> Sample:
        annotation, where = self._read_annotation(index)
        image = self.read_image(index, (annotation.height, annotation.width), where)
        annotate = self._annotate if self.is_panoptic else self.coding.annotate
        targets = self.make_targets(annotate(annotation, where))
        return Sample(self.name(index), image, targets, os.path.basename(self.name(index)))

    def _annotate(self, image: Image.Image, where: str) -> list[Annotation]:
        """Makes a segment of every object, and of every class without objects, in a panoptic annotation."""
        segments = _extract_segments(image, where)
        found = []
        for value in sorted(find_values(segments), key=_split_segment):
            class_id, number = _split_segment(value)
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
        return [Annotation(rle, _split_segment(value)[0]) for rle, value in zip(rles, found, strict=True)]

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
            except (ValueError, OSError) as error:  # which reading the sample reports, too
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

    def _find_panoptic_categories(self, names: Sequence[str] | None, first_class: int) -> list[Category]:
        with ThreadPoolExecutor() as threads:
            values = set().union(*threads.map(self._find_segments, range(len(self.table))))
        segments = [_split_segment(value) for value in values]
        things = {class_id for class_id, number in segments if number}
        if names is None and self.id2label is not None:
            names = [self.id2label[label_id] for label_id in range(len(self.id2label))]
        found = {class_id for class_id, _ in segments} - self.ignored
        by_number = name_by_number(found, first_class) if names is None else name_by_value(names, first_class)
        return [Category(number, name, number in things) for number, name in by_number.items()]

    def _find_segments(self, index: int) -> set[int]:
        """Finds the values of an annotation; none where it cannot be read, which reading the sample reports."""
        try:
            return find_values(_extract_segments(*self._read_annotation(index)))
        except (ValueError, OSError):
            return set()

    def _read_annotation(self, index: int) -> tuple[Image.Image, str]:
        where = self.table.name(index, self.annotation_column)
        with self.table.open(index, self.annotation_column) as file:
            return self.image_reading.read_annotation(file, where), where

    def _choose_column(self, setting: str, usual: Sequence[str], other: str | None) -> str:
        """The column of a setting, or the one that is clear by its name or because it is the only one left."""
        where, columns = self.table.where, self.table.columns
        if (given := self.settings.get(setting)) is not None:
            if given not in columns:
                raise ValueError(f"{where} has no column of images {given!r} ({setting}), only {', '.join(columns)}.")
            return given
        left = [column for column in columns if column != other]
        named = [column for column in usual if column in left] or (left if len(left) == 1 else [])
        if not named:
            found = ", ".join(columns) or "none"
            raise ValueError(f"{where}: its columns of images are {found}. Name one as {setting}.")
        return named[0]


def _extract_segments(image: Image.Image, where: str) -> np.ndarray:
    return extract_ids(image, where, "as other annotations of the data, red the class, green + 256 blue the object")


def _split_segment(value: int) -> tuple[int, int]:
    """The class, which is red, and the object, which is green + 256 blue."""
    return value % 256, value // 256


def _read_names_on_hub(name: str) -> list[str] | None:
    try:
        return read_class_names(Path(hf_hub_download(name, "id2label.json", repo_type="dataset")))
    except OSError:  # there is none, or no network
        return None

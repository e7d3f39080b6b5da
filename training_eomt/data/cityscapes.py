"""Cityscapes as it unpacks: leftImg8bit/ and gtFine/.

The format: https://github.com/mcordts/cityscapesScripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .base import Annotation, SegmentationDataset
from .class_tables import published_categories
from .files import FileTree
from .images import DEFAULT_READING, ImageReading
from .label_coding import read_label_map, segments_of, values_in
from .label_maps import open_tree, paired
from .samples import Category, Sample, encode_masks


PICTURE, LABELS, INSTANCES = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
PARTS = {"train": "train", "validation": "val", "predict": "val"}  # the annotations of "test" are secret

# The numbers of the 19 classes that are evaluated, in the order of the published models' classes.
CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
ALL_IDS = range(-1, 34)
LICENCE_PLATES = (255, 65535)  # -1, as an unsigned number
OBJECTS_PER_CLASS = 1000


class CityscapesDataset(SegmentationDataset):
    """Reads Cityscapes: for panoptic segmentation where there are `instanceIds`, otherwise for semantic segmentation.

    Pixels of classes that are not among the 19 that are evaluated are void. An `instanceIds` PNG holds the number of
    the class for stuff and for groups of things that are not told apart, which are crowds; other things have 1000
    times the class plus the number of the object. For semantic segmentation the `labelIds` alone are read.

    Args:
        path: the folder with `leftImg8bit/` and `gtFine/`.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`]. The class names are those of the
            published models.
        split: which part to take. "predict" takes the validation data, since the test data's annotations are secret.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: a picture lacks its annotation or the other way round, or what [`SegmentationDataset`] raises.
            Reading a sample: a file that cannot be decoded, or is of another size or kind than it should be.
    """

    LOOKS_FOR = "leftImg8bit/train/ with gtFine/train/ (Cityscapes)"

    def __init__(
        self,
        path: str | Path | FileTree,
        id2label: Mapping[int, str] | None = None,
        *,
        task: str | None = None,
        skip_bad_samples: bool = False,
        split: str | None = None,
        image_reading: ImageReading = DEFAULT_READING,
    ) -> None:
        self.tree = open_tree(path, skip_bad_samples)
        part = PARTS[split or "train"]
        picture_folder, map_folder = f"leftImg8bit/{part}", f"gtFine/{part}"
        for folder in (picture_folder, map_folder):
            if not self.tree.has_folder(folder):
                raise FileNotFoundError(f"{self.tree.path(folder)} is missing or empty. Looked for: {self.LOOKS_FOR}.")
        annotation_files = self.tree.below(map_folder)
        instances = _by_place(annotation_files, map_folder, INSTANCES)
        categories = [
            Category(number, category.name, category.isthing)
            for number, category in zip(CLASS_IDS, published_categories("cityscapes"), strict=True)
        ]
        kind = "panoptic" if instances else "semantic"
        super().__init__(
            self.tree.path(picture_folder),
            categories,
            kind,
            id2label,
            task,
            skip_bad_samples,
            self.tree,
            image_reading,
        )
        self.has_objects = self.task != "semantic"
        maps = instances if self.has_objects else _by_place(annotation_files, map_folder, LABELS)
        pictures = _by_place(self.tree.below(picture_folder), picture_folder, PICTURE)
        if not pictures:
            raise FileNotFoundError(f"{self.tree.path(picture_folder)} holds no pictures CITY/*{PICTURE}.")
        self.files = paired(self, self.tree, (picture_folder, pictures), (map_folder, maps))
        self._things = [category.id for category in categories if category.isthing]

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        part = PARTS[split or "train"]
        return tree.has_folder(f"leftImg8bit/{part}") and tree.has_folder(f"gtFine/{part}")

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.tree.path(self.files[index][0])

    def open_image(self, index: int) -> BinaryIO:
        return self.tree.open(self.files[index][0])

    def __getitem__(self, index: int) -> Sample:
        picture, map_name = self.files[index]
        numbers = read_label_map(self.tree, map_name, self.image_reading)
        image = self.read_image(index, numbers.shape, self.tree.path(map_name))
        if self.has_objects:
            annotations = self._segments(numbers, self.tree.path(map_name))
        else:
            void = {*ALL_IDS, *LICENCE_PLATES} - set(CLASS_IDS)
            class_ids = {class_id: class_id for class_id in CLASS_IDS}
            annotations = segments_of(numbers, class_ids, void, self.tree.path(map_name))
        return Sample(picture, image, self.targets(annotations), picture)

    def _segments(self, numbers: np.ndarray, where: str) -> list[Annotation]:
        found = []
        for number in sorted(values_in(numbers) - set(LICENCE_PLATES)):
            is_object = number >= OBJECTS_PER_CLASS
            class_id = number // OBJECTS_PER_CLASS if is_object else number
            if class_id not in ALL_IDS:
                raise ValueError(f"{where}: the value {number} is of class {class_id}, there are 0 to {ALL_IDS[-1]}.")
            if self.knows(class_id):
                found.append((number, class_id, class_id in self._things and not is_object))
        rles = encode_masks(numbers, [number for number, _, _ in found])
        return [Annotation(rle, class_id, iscrowd) for rle, (_, class_id, iscrowd) in zip(rles, found, strict=True)]


def _by_place(names: list[str], folder: str, ending: str) -> dict[str, str]:
    """Files of one kind by what a picture and its annotations have in common: CITY/CITY_SEQUENCE_FRAME."""
    return {name[len(folder) + 1 : -len(ending)]: name for name in names if name.endswith(ending)}

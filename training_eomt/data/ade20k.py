"""ADE20K's scene parsing data as they unpack: 150 classes as label maps, and objects where they are at hand.

The format: https://github.com/CSAILVision/sceneparsing and https://github.com/CSAILVision/placeschallenge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .base import Annotation, SegmentationDataset
from .class_tables import published_categories
from .files import FileTree
from .images import DEFAULT_READING, ImageReading, check_same_size, list_image_suffixes
from .label_coding import check_lossless, read_label_map, segments_of, values_in
from .label_maps import MAP_SUFFIXES, files_by_stem, open_tree, paired
from .samples import Sample, encode_masks
from .splits import choose_split


VOID = -1
ROOT = "ADEChallengeData2016"


class Ade20kDataset(SegmentationDataset):
    """Reads ADE20K: for panoptic segmentation where there are objects, otherwise for semantic segmentation.

    The label maps of `annotations/` hold the number of the class plus 1, and 0 for void. The PNGs of
    `annotations_instance/` hold objects: red is the number of the thing class, from 1 to 100 in the order in which
    things come among the 150 classes, and green tells objects of a picture apart. Stuff is taken from the label map,
    things from the objects, which lie on top; a pixel of a thing class without an object is void. For semantic
    segmentation the label map alone is read.

    Args:
        path: a folder with `images/training/`, `annotations/training/` and so on, or the one around it, or one with
            pictures and label maps directly in `images/` and `annotations/`.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`]. The class names are those of the
            published models.
        split: which part to take.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: a picture lacks its annotation or the other way round, or what [`SegmentationDataset`] raises.
            Reading a sample: a file that cannot be decoded, or is of another size or kind than it should be.
    """

    LOOKS_FOR = "images/training/ with annotations/training/ and pictures ADE_*.jpg (ADE20K)"

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
        self.tree = _own_folder(open_tree(path, skip_bad_samples))
        part = _part(self.tree, split)
        folders = [f"{kind}{part}" for kind in ("images", "annotations", "annotations_instance")]
        for folder in folders[:2]:
            if not self.tree.has_folder(folder):
                raise FileNotFoundError(f"{self.tree.path(folder)} is missing or empty. Looked for: {self.LOOKS_FOR}.")
        has_objects = self.tree.has_folder(folders[2])
        categories = published_categories("ade20k")
        kind = "panoptic" if has_objects else "semantic"
        super().__init__(
            str(self.tree.path(folders[0])),
            categories,
            kind,
            id2label,
            task,
            skip_bad_samples,
            self.tree,
            image_reading,
        )
        self.thing_classes = np.array([category.id for category in categories if category.isthing])
        pictures = files_by_stem(self.tree, folders[0], list_image_suffixes())
        maps = files_by_stem(self.tree, folders[1], MAP_SUFFIXES)
        self.files = paired(self, self.tree, (folders[0], pictures), (folders[1], maps))
        self.object_files: dict[str, str] | None = None  # by picture; None where they are not used
        if has_objects and self.task != "semantic":
            objects = files_by_stem(self.tree, folders[2], MAP_SUFFIXES)
            both = {stem: name for stem, name in pictures.items() if stem in maps}
            self.object_files = dict(paired(self, self.tree, (folders[0], both), (folders[2], objects)))
            self.files = [pair for pair in self.files if pair[0] in self.object_files]

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        tree = _own_folder(tree)
        try:
            folder = f"images{_part(tree, split)}"
        except FileNotFoundError:
            return False
        if not (tree.has_folder(folder) and tree.has_folder("annotations")):
            return False
        names = tree.files(folder)
        return "objectInfo150.txt" in tree or any(
            re.search(r"/ADE_(train|val)_\d+\.jpg$", name) for name in names[:20]
        )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.tree.path(self.files[index][0])

    def open_image(self, index: int) -> BinaryIO:
        return self.tree.open(self.files[index][0])

    def __getitem__(self, index: int) -> Sample:
        picture, map_name = self.files[index]
        label_map = read_label_map(self.tree, map_name, self.image_reading).astype(np.int32) - 1
        image = self.read_image(index, label_map.shape, self.tree.path(map_name))
        annotations: list[Annotation] = []
        if self.object_files is not None:
            object_name = self.object_files[picture]
            objects, class_ids = self._read_objects(object_name)
            check_same_size(image, self.tree.path(picture), objects.shape, self.tree.path(object_name))
            annotations = [
                Annotation(rle, class_id)
                for rle, class_id in zip(encode_masks(objects, list(class_ids)), class_ids.values(), strict=True)
            ]
            label_map[np.isin(label_map, self.thing_classes) | (objects > 0)] = VOID
        numbers = {category.id: category.id for category in self.categories}
        stuff = segments_of(label_map, numbers, {VOID}, f"{self.tree.path(map_name)} (values less 1)")
        return Sample(picture, image, self.targets(annotations + stuff), picture)

    def _read_objects(self, name: str) -> tuple[np.ndarray, dict[int, int]]:
        """Numbers of the objects `(height, width)`, 0 where there is none, and the class of each."""
        with self.tree.open(name) as file:
            png = self.image_reading.read_annotation(file, self.tree.path(name))
        check_lossless(png, self.tree.path(name))
        if png.mode not in ("RGB", "RGBA"):
            raise ValueError(
                f"{self.tree.path(name)} has mode {png.mode}, expected RGB: red is the class of an object, green its "
                "number."
            )
        channels = np.asarray(png).astype(np.int64)
        thing, number = channels[..., 0], channels[..., 1]
        objects = np.where((thing > 0) & (number > 0), 256 * thing + number, 0)
        found = sorted(values_in(objects) - {0})
        if found and found[-1] // 256 > len(self.thing_classes):
            raise ValueError(
                f"{self.tree.path(name)}: an object has the class {found[-1] // 256} (red), there are 1 to "
                f"{len(self.thing_classes)}."
            )
        return objects, {value: int(self.thing_classes[value // 256 - 1]) for value in found}


def _own_folder(tree: FileTree) -> FileTree:
    """`ADEChallengeData2016/`, if it lies in the folder."""
    return tree.subtree(ROOT) if tree.has_folder(ROOT) else tree


def _part(tree: FileTree, split: str | None) -> str:
    """What comes after `images`: the folder of the split, or nothing."""
    part = choose_split(tree.folders("images"), split or "train", tree.path("images"))
    return part.removeprefix("images") if part else ""

"""ADE20K's scene parsing data as they unpack: 150 classes as label maps, and objects where they are at hand.

The format: https://github.com/CSAILVision/sceneparsing and https://github.com/CSAILVision/placeschallenge.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from .base import Annotation
from .class_tables import read_published_categories
from .colours import extract_ids
from .files import FileTree
from .images import check_size, list_image_suffixes
from .label_coding import extract_values, segment_map
from .masks import encode_masks, find_values
from .pairing import MAP_SUFFIXES, PairedDataset, list_by_stem
from .splits import choose_split


ROOT = "ADEChallengeData2016"
UNLABELLED = 0


class Ade20kDataset(PairedDataset):
    """Reads ADE20K: for panoptic segmentation where there are objects, otherwise for semantic segmentation.

    Label maps in `annotations/` hold the class plus 1, and 0 for void. The PNGs of `annotations_instance/` hold
    objects: red is the number of the thing class, from 1 to 100 in the order of the things among the 150 classes, and
    green distinguishes the objects of an image. Stuff is taken from the label map, things from the objects, which lie
    on top; a pixel of a thing class without an object is void. For semantic segmentation the label map alone is read.

    The dataset is a folder with `images/training/`, `annotations/training/` and so on, or its parent, or a folder with
    images and label maps directly in `images/` and `annotations/`. Class names are those of the published models.
    """

    LOOKS_FOR = "images/training/ with annotations/training/ and images ADE_*.jpg (ADE20K)"

    def open(self, path: str | Path | FileTree) -> None:
        self.tree = _enter_root(self.open_tree(path))
        part = _find_part(self.tree, self.split)
        folders = [f"{kind}{part}" for kind in ("images", "annotations", "annotations_instance")]
        self.require_folders(*folders[:2])
        has_objects = self.tree.has_folder(folders[2])
        categories = read_published_categories("ade20k")
        self.set_categories(self.tree.path(folders[0]), "panoptic" if has_objects else "semantic", categories)
        self.thing_classes = np.array([category.id for category in categories if category.isthing])
        self.category_ids = {category.id + 1: category.id for category in categories}
        self.reads_objects = has_objects and self.task != "semantic"
        used = folders if self.reads_objects else folders[:2]
        files = [list_by_stem(self.tree, name, MAP_SUFFIXES) for name in used[1:]]
        self.pair((folders[0], list_by_stem(self.tree, folders[0], list_image_suffixes())), *zip(used[1:], files))

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        tree = _enter_root(tree)
        try:
            folder = f"images{_find_part(tree, split)}"
        except FileNotFoundError:
            return False
        if not (tree.has_folder(folder) and tree.has_folder("annotations")):
            return False
        first = tree.files(folder)[:20]
        return "objectInfo150.txt" in tree or any(re.search(r"/ADE_(train|val)_\d+\.jpg$", name) for name in first)

    def annotate(self, index: int, label_map: Image.Image, where: str) -> list[Annotation]:
        values = extract_values(label_map, where)
        annotations: list[Annotation] = []
        if self.reads_objects:
            objects, class_ids, objects_path = self._read_objects(self.maps[index][1])
            check_size(self.name(index), values.shape, objects.shape, objects_path)
            rles = encode_masks(objects, list(class_ids))
            annotations = [Annotation(*pair) for pair in zip(rles, class_ids.values(), strict=True)]
            values = np.where(np.isin(values, self.thing_classes + 1) | (objects > 0), UNLABELLED, values)
        return annotations + segment_map(values, self.category_ids, {UNLABELLED}, where)

    def _read_objects(self, name: str) -> tuple[np.ndarray, dict[int, int], str]:
        """Reads the numbers of the objects `(height, width)`, 0 for none. Returns also their classes, and the path."""
        png, where = self.read_map(name)
        ids = extract_ids(png, where, "red is the class of an object, green its number")
        thing, number = ids % 256, ids // 256 % 256
        objects = np.where((thing > 0) & (number > 0), 256 * thing + number, 0)
        found = sorted(find_values(objects) - {0})
        if found and found[-1] // 256 > len(self.thing_classes):
            raise ValueError(
                f"{where}: an object has the class {found[-1] // 256} (red), there are 1 to {len(self.thing_classes)}."
            )
        return objects, {value: int(self.thing_classes[value // 256 - 1]) for value in found}, where


def _enter_root(tree: FileTree) -> FileTree:
    """`ADEChallengeData2016/`, if it lies in the folder."""
    return tree.subtree(ROOT) if tree.has_folder(ROOT) else tree


def _find_part(tree: FileTree, split: str | None) -> str:
    """Finds the suffix of `images` for a split: its folder, or nothing."""
    part = choose_split(tree.folders("images"), split or "train", tree.path("images"))
    return part.removeprefix("images") if part else ""

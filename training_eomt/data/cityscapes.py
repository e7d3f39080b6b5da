"""Cityscapes as it unpacks: leftImg8bit/ and gtFine/.

The format: https://github.com/mcordts/cityscapesScripts.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .base import Annotation
from .class_tables import read_published_categories
from .files import FileTree
from .label_coding import extract_values, segment_map
from .masks import encode_masks, find_values
from .pairing import PairedDataset
from .samples import Category


IMAGE, LABELS, INSTANCES = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
PARTS = {"train": "train", "validation": "val", "predict": "val"}  # the annotations of "test" are secret

# The numbers of the 19 classes that are evaluated, in the order of the published models' classes.
CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
ALL_IDS = range(-1, 34)
LICENCE_PLATES = (255, 65535)  # -1, as an unsigned number
OBJECTS_PER_CLASS = 1000


class CityscapesDataset(PairedDataset):
    """Reads Cityscapes: for panoptic segmentation where there are `instanceIds`, otherwise for semantic segmentation.

    Pixels of classes that are not among the 19 that are evaluated are void. An `instanceIds` PNG holds the number of
    the class for stuff and for groups of things, which are crowds; other things have 1000 times the class plus the
    number of the object. For semantic segmentation the `labelIds` alone are read.

    The dataset is the folder with `leftImg8bit/` and `gtFine/`. Class names are those of the published models. The
    split "predict" takes the validation data, since the test data's annotations are secret.
    """

    LOOKS_FOR = "leftImg8bit/train/ with gtFine/train/ (Cityscapes)"

    def open(self, path: str | Path | FileTree) -> None:
        self.tree = self.open_tree(path)
        image_folder, map_folder = folders = _name_folders(self.split)
        self.require_folders(*folders)
        annotation_files = self.tree.below(map_folder)
        instances = _key_by_frame(annotation_files, map_folder, INSTANCES)
        published = read_published_categories("cityscapes")
        categories = [Category(number, c.name, c.isthing) for number, c in zip(CLASS_IDS, published, strict=True)]
        self.set_categories(self.tree.path(image_folder), "panoptic" if instances else "semantic", categories)
        self.has_objects = self.task != "semantic"
        maps = instances if self.has_objects else _key_by_frame(annotation_files, map_folder, LABELS)
        images = _key_by_frame(self.tree.below(image_folder), image_folder, IMAGE)
        if not images:
            raise FileNotFoundError(f"{self.tree.path(image_folder)} holds no images CITY/*{IMAGE}.")
        self.pair((image_folder, images), (map_folder, maps))
        self._things = [category.id for category in categories if category.isthing]

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        return all(map(tree.has_folder, _name_folders(split)))

    def annotate(self, index: int, label_map: Image.Image, where: str) -> list[Annotation]:
        numbers = extract_values(label_map, where)
        if not self.has_objects:
            void = {*ALL_IDS, *LICENCE_PLATES} - set(CLASS_IDS)
            return segment_map(numbers, {class_id: class_id for class_id in CLASS_IDS}, void, where)
        found = []
        for number in sorted(find_values(numbers) - set(LICENCE_PLATES)):
            is_object = number >= OBJECTS_PER_CLASS
            class_id = number // OBJECTS_PER_CLASS if is_object else number
            if class_id not in ALL_IDS:
                raise ValueError(f"{where}: the value {number} is of class {class_id}, there are 0 to {ALL_IDS[-1]}.")
            if self.knows(class_id):
                found.append((number, class_id, class_id in self._things and not is_object))
        rles = encode_masks(numbers, [number for number, _, _ in found])
        return [Annotation(rle, class_id, iscrowd) for rle, (_, class_id, iscrowd) in zip(rles, found, strict=True)]


def _name_folders(split: str | None) -> tuple[str, str]:
    """Names the folders of a split's images and annotations."""
    part = PARTS[split or "train"]
    return f"leftImg8bit/{part}", f"gtFine/{part}"


def _key_by_frame(names: list[str], folder: str, ending: str) -> dict[str, str]:
    """Files of one kind by the part of the name that an image and its annotations share: CITY/CITY_SEQUENCE_FRAME."""
    return {name[len(folder) + 1 : -len(ending)]: name for name in names if name.endswith(ending)}

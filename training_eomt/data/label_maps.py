"""Folders of images and label maps: PNGs whose pixels are numbers of classes."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from .base import CLASS_SETTINGS, Annotation
from .class_names import find_class_names
from .files import FileTree
from .images import list_image_suffixes
from .label_coding import COLOUR_MODES, find_label_coding
from .label_values import LabelValues, find_label_map_file, read_class_settings
from .pairing import MAP_SUFFIXES, PairedDataset, list_by_stem
from .samples import Category
from .splits import choose_split


IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "pictures")
MAP_FOLDERS = ("masks", "mask", "annotations", "labels", "label_maps", "segmentation", "SegmentationClass")
LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
LISTS = "ImageSets/Segmentation"  # Pascal VOC's lists of what each split holds


class LabelMapDataset(PairedDataset):
    """Reads a folder that holds a folder of images and one of label maps, for semantic segmentation.

    A label map is a PNG of one channel (grey, 16-bit or palette) whose values are numbers of classes, or, with a table
    of colours, a PNG of colours. It has the name of its image, or that name with an ending that is the same for all,
    as in `x.jpg` and `x_mask.png`.

    The dataset is a folder such as `camvid/train` with `images/` and `masks/` in it; or one with `images/train/` and
    `masks/train/`; or Pascal VOC's, whose lists in `ImageSets/Segmentation/` say what belongs to a split. A table of
    colours is CVAT's `labelmap.txt` by default, where it lies beside maps of colours.
    """

    LOOKS_FOR = "images/ and masks/ or annotations/ (label maps)"
    SETTINGS = CLASS_SETTINGS

    def open(self, path: str | Path | FileTree) -> None:
        self.tree = self.open_tree(path)
        image_folder, map_folder = _find_folders(self.tree, self.split)
        images = list_by_stem(self.tree, image_folder, list_image_suffixes())
        if not images:
            raise FileNotFoundError(f"{self.tree.path(image_folder)} holds no images.")
        maps = _strip_common_ending(list_by_stem(self.tree, map_folder, MAP_SUFFIXES), images)
        lossy = _strip_common_ending(list_by_stem(self.tree, map_folder, LOSSY_SUFFIXES), images)
        lossy = {stem: name for stem, name in lossy.items() if stem not in maps}
        listed = _read_lists(self.tree, self.split)
        if listed is not None:
            images, maps, lossy = (
                {stem: name for stem, name in files.items() if stem in listed} for files in (images, maps, lossy)
            )
        names, table = read_class_settings(self.settings)
        if names is None and table is None:
            names, table = self._find_classes(list(maps.values()))
        self.coding = find_label_coding(
            names,
            table,
            self.id2label,
            self.settings.get("ignore_index"),
            self.settings.get("do_reduce_labels", False),
            [partial(self.read_map, name) for name in maps.values()],
            self.skip_bad_samples,
        )
        categories = [Category(number, name, isthing=False) for number, name in self.coding.names.items()]
        self.set_categories(str(self.tree.root), "semantic", categories)
        for stem, name in sorted(lossy.items()):
            self.bad_sample(
                self.tree.path(name),
                f"{self.tree.path(name)} is a JPEG, whose compression changes values, so that they are no numbers of "
                f"classes any more ({len(lossy)} of the label maps are JPEGs). Save label maps as PNGs.",
            )
            images.pop(stem, None)
        for stem in sorted((listed or set()) - images.keys() - maps.keys() - lossy.keys()):
            list_path = self.tree.path(LISTS)
            self.bad_sample(
                f"{list_path}: {stem}",
                f"{stem}, which a list in {list_path} names, is neither in {self.tree.path(image_folder)} nor in "
                f"{self.tree.path(map_folder)}. Add its files, or delete its line.",
            )
        self.pair((image_folder, images), (map_folder, maps))
        if not self.images and not self.skip_bad_samples:
            raise FileNotFoundError(f"{self.where} has no image with a label map for the {self.split} split.")

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        try:
            _, map_folder = _find_folders(tree, split)
        except FileNotFoundError:
            return False
        suffixes = {PurePosixPath(name).suffix.lower() for name in tree.below(map_folder)}
        return not suffixes.isdisjoint(MAP_SUFFIXES | LOSSY_SUFFIXES)

    def annotate(self, index: int, label_map: Image.Image, where: str) -> list[Annotation]:
        return self.coding.annotate(label_map, where)

    def _find_classes(self, maps: Sequence[str]) -> tuple[Sequence[str] | None, LabelValues | None]:
        """Finds names of classes or a table of colours beside the maps."""
        table = find_label_map_file(self.tree)
        if table is not None and self._have_colours(maps):
            return None, table
        names = find_class_names(self.tree)
        return (list(table.names.values()) if names is None and table is not None else names), None

    def _have_colours(self, maps: Sequence[str]) -> bool:
        """Whether the first of the maps that can be read has colours, directly or in a palette."""
        for name in maps:
            try:
                return self.read_map(name)[0].mode in COLOUR_MODES
            except (ValueError, OSError):  # which reading the sample reports
                continue
        return False


def _read_lists(tree: FileTree, split: str | None) -> set[str] | None:
    """Reads which images belong to a split: Pascal VOC's lists of it, or all of them if they have other names."""
    lists = {PurePosixPath(name).stem: name for name in tree.files(LISTS) if name.endswith(".txt")}
    if not lists:
        return None
    own = choose_split(list(lists), split, tree.path(LISTS))
    chosen = list(lists.values()) if own is None else [lists[own]]
    lines = (line.strip().strip('"') for name in chosen for line in tree.read_text(name).splitlines())
    return {unicodedata.normalize("NFC", line) for line in lines if line}


def _find_folders(tree: FileTree, split: str | None) -> tuple[str, str]:
    found = []
    for what, candidates in (("images", IMAGE_FOLDERS), ("label maps", MAP_FOLDERS)):
        present = [name for name in candidates if tree.has_folder(name)]
        if not present:
            raise FileNotFoundError(
                f"{tree.root} has no folder of {what} with a file in it ({', '.join(candidates)})."
            )
        part = choose_split(tree.folders(present[0]), split, tree.path(present[0]))
        found.append(part or present[0])
    image_folder, map_folder = found
    if "/" in image_folder and not map_folder.endswith(posixpath.basename(image_folder)):
        raise FileNotFoundError(f"{tree.path(image_folder)} has no label maps in a folder of its name.")
    return image_folder, map_folder


def _strip_common_ending(maps: dict[str, str], images: Collection[str]) -> dict[str, str]:
    """Keys the maps by the names of their images, where all have one ending more, as in `x_mask`."""
    if not maps or not images or maps.keys() & images:
        return maps
    stem = min(maps)
    for length in range(1, len(stem)):
        ending = stem[-length:]
        if stem[:-length] in images and all(name.endswith(ending) for name in maps):
            return {name[:-length]: path for name, path in maps.items()}
    return maps

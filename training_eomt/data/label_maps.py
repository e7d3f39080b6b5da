"""Folders of pictures and label maps: for every picture an image whose pixels are numbers of classes."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from PIL import Image

from .base import SegmentationDataset
from .class_names import find_class_names
from .files import FileTree, find_tree
from .images import DEFAULT_READING, ImageReading, list_image_suffixes
from .label_coding import COLOUR_MODES, given_class_names, given_label_values, label_coding
from .label_values import LabelValues, find_label_map_file
from .samples import Category, Sample
from .splits import choose_split


PICTURE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "pictures")
MAP_FOLDERS = ("masks", "mask", "annotations", "labels", "label_maps", "segmentation", "SegmentationClass")
MAP_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif"})
LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
LISTS = "ImageSets/Segmentation"  # Pascal VOC's lists of what each split holds


class LabelMapDataset(SegmentationDataset):
    """Reads a folder that holds a folder of pictures and one of label maps, for semantic segmentation.

    A label map is a PNG of one channel (grey, 16-bit or palette) whose values are numbers of classes, or, with a table
    of colours, a PNG of colours. It has the name of its picture, or that name with something behind it which is the
    same for all, as in `x.jpg` and `x_mask.png`.

    Args:
        path: the folder, such as `camvid/train` with `images/` and `masks/` in it; or one with `images/train/` and
            `masks/train/`; or Pascal VOC's, whose lists in `ImageSets/Segmentation/` say what belongs to a split.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`].
        split: which of the folders in `images/` to take where they are split, or which of Pascal VOC's lists.
        class_names: names of the classes: a list, or a file, see [`read_class_names`]. By default such a file in the
            folder or in the one around it (`classes.txt`, `id2label.json`...); without one, the classes are those of
            `id2label`, by number; without that either, the values that occur, for which every map is read.
        label_values: a table of what values or colours stand for, in place of names: an object, or a file, see
            [`read_label_values`]. By default CVAT's `labelmap.txt` where it lies beside maps of colours.
        ignore_index: values of pixels that belong to no class. By default 255, and 65535 in maps of 16 bits, unless
            the names or the table have a class of this number.
        do_reduce_labels: whether 0 belongs to no class either, and the first class is 1.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: a picture without map or a map without picture, or what [`SegmentationDataset`] raises. Reading a
            sample: a file that cannot be decoded, a map of the wrong size or kind, a value past the classes.
    """

    LOOKS_FOR = "images/ and masks/ or annotations/ (label maps)"

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
    ) -> None:
        self.tree = open_tree(path, skip_bad_samples)
        self.image_reading = image_reading
        picture_folder, map_folder = _find_folders(self.tree, split)
        pictures = files_by_stem(self.tree, picture_folder, list_image_suffixes())
        if not pictures:
            raise FileNotFoundError(f"{self.tree.path(picture_folder)} holds no pictures.")
        maps = _without_common_ending(files_by_stem(self.tree, map_folder, MAP_SUFFIXES), pictures)
        lossy = _without_common_ending(files_by_stem(self.tree, map_folder, LOSSY_SUFFIXES), pictures)
        lossy = {stem: name for stem, name in lossy.items() if stem not in maps}
        listed = _listed_stems(self.tree, split)
        if listed is not None:
            pictures, maps, lossy = (
                {stem: name for stem, name in files.items() if stem in listed} for files in (pictures, maps, lossy)
            )
        names, table = given_class_names(class_names), given_label_values(label_values)
        if names is None and table is None:
            names, table = self._found_classes(list(maps.values()))
        self.coding = label_coding(
            names,
            table,
            id2label,
            ignore_index,
            do_reduce_labels,
            [partial(self._read_map, name) for name in maps.values()],
            skip_bad_samples,
        )
        categories = [Category(number, name, isthing=False) for number, name in self.coding.names.items()]
        where = str(self.tree.root)
        super().__init__(where, categories, "semantic", id2label, task, skip_bad_samples, self.tree, image_reading)
        for stem, name in sorted(lossy.items()):
            self.bad_sample(
                self.tree.path(name),
                f"{self.tree.path(name)} is a JPEG, whose compression changes values, so that they are no numbers of "
                f"classes any more ({len(lossy)} of the label maps are JPEGs). Save label maps as PNGs.",
            )
            pictures.pop(stem, None)
        for stem in sorted((listed or set()) - pictures.keys() - maps.keys() - lossy.keys()):
            list_path = self.tree.path(LISTS)
            self.bad_sample(
                f"{list_path}: {stem}",
                f"{stem}, which a list in {list_path} names, is neither in {self.tree.path(picture_folder)} nor in "
                f"{self.tree.path(map_folder)}. Add its files, or delete its line.",
            )
        self.files = paired(self, self.tree, (picture_folder, pictures), (map_folder, maps))
        if not self.files and not skip_bad_samples:
            raise FileNotFoundError(f"{where} has no picture with a label map for the {split} split.")

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        try:
            _, map_folder = _find_folders(tree, split)
        except FileNotFoundError:
            return False
        suffixes = {PurePosixPath(name).suffix.lower() for name in tree.below(map_folder)}
        return not suffixes.isdisjoint(MAP_SUFFIXES | LOSSY_SUFFIXES)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.tree.path(self.files[index][0])

    def open_image(self, index: int) -> BinaryIO:
        return self.tree.open(self.files[index][0])

    def __getitem__(self, index: int) -> Sample:
        picture, map_name = self.files[index]
        label_map, map_path = self._read_map(map_name)
        image = self.read_image(index, (label_map.height, label_map.width), map_path)
        return Sample(picture, image, self.targets(self.coding.annotations(label_map, map_path)), picture)

    def _read_map(self, name: str) -> tuple[Image.Image, str]:
        """A label map, decoded, and what messages call it."""
        with self.tree.open(name) as file:
            return self.image_reading.read_annotation(file, self.tree.path(name)), self.tree.path(name)

    def _found_classes(self, maps: Sequence[str]) -> tuple[Sequence[str] | None, LabelValues | None]:
        """Names of classes or a table of colours, from what lies beside the maps."""
        table = find_label_map_file(self.tree)
        if table is not None and self._have_colours(maps):
            return None, table
        names = find_class_names(self.tree)
        return (list(table.names.values()) if names is None and table is not None else names), None

    def _have_colours(self, maps: Sequence[str]) -> bool:
        """Whether the first of the maps that can be read has colours, directly or in a palette."""
        for name in maps:
            try:
                return self._read_map(name)[0].mode in COLOUR_MODES
            except (ValueError, OSError):  # which reading the sample tells
                continue
        return False


def open_tree(path: str | Path | FileTree, skip_bad_samples: bool) -> FileTree:
    """The files of a folder, which may be (in) a zip."""
    if isinstance(path, FileTree):
        return path
    tree, name = find_tree(path, skip_bad_samples)
    return tree.subtree(name) if name else tree


def files_by_stem(tree: FileTree, folder: str, suffixes: Collection[str]) -> dict[str, str]:
    """
    The files of a folder, by their name without folder and suffix, in Unicode's composed form: systems and programs
    write accents in either. Two files of one name are a `ValueError`.
    """
    files: dict[str, str] = {}
    for name in tree.below(folder):
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes:
            stem = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            if (other := files.setdefault(stem, name)) != name:
                raise ValueError(f"{tree.path(other)} and {tree.path(name)} are both called {stem}: remove one.")
    return files


def paired(
    dataset: SegmentationDataset,
    tree: FileTree,
    pictures: tuple[str, dict[str, str]],
    maps: tuple[str, dict[str, str]],
) -> list[tuple[str, str]]:
    """
    Pictures with their annotations, in the order of their names.

    Args:
        dataset: leaves out what has no counterpart.
        tree: where the files are.
        pictures, maps: a folder for messages, and its files by what a picture and its annotation have in common.
    """
    (picture_folder, picture_files), (map_folder, map_files) = pictures, maps
    for stem in sorted(picture_files.keys() ^ map_files.keys()):
        present, missing = (picture_files, map_folder) if stem in picture_files else (map_files, picture_folder)
        path = tree.path(present[stem])
        dataset.bad_sample(path, f"{path} has no counterpart in {tree.path(missing)}. Add it, or remove the file.")
    return [(picture_files[stem], map_files[stem]) for stem in sorted(picture_files.keys() & map_files.keys())]


def _listed_stems(tree: FileTree, split: str | None) -> set[str] | None:
    """What a split holds, by Pascal VOC's lists: those of the split, or all of them if they have other names."""
    lists = {PurePosixPath(name).stem: name for name in tree.files(LISTS) if name.endswith(".txt")}
    if not lists:
        return None
    own = choose_split(list(lists), split, tree.path(LISTS))
    chosen = list(lists.values()) if own is None else [lists[own]]
    lines = (line.strip().strip('"') for name in chosen for line in tree.read_text(name).splitlines())
    return {unicodedata.normalize("NFC", line) for line in lines if line}


def _find_folders(tree: FileTree, split: str | None) -> tuple[str, str]:
    found = []
    for what, candidates in (("pictures", PICTURE_FOLDERS), ("label maps", MAP_FOLDERS)):
        present = [name for name in candidates if tree.has_folder(name)]
        if not present:
            raise FileNotFoundError(
                f"{tree.root} has no folder of {what} with a file in it ({', '.join(candidates)})."
            )
        part = choose_split(tree.folders(present[0]), split, tree.path(present[0]))
        found.append(part or present[0])
    picture_folder, map_folder = found
    if "/" in picture_folder and not map_folder.endswith(posixpath.basename(picture_folder)):
        raise FileNotFoundError(f"{tree.path(picture_folder)} has no label maps in a folder of its name.")
    return picture_folder, map_folder


def _without_common_ending(maps: dict[str, str], pictures: Collection[str]) -> dict[str, str]:
    """The maps by the names of their pictures, where all have one ending more, as in `x_mask`."""
    if not maps or not pictures or maps.keys() & pictures:
        return maps
    stem = min(maps)
    for length in range(1, len(stem)):
        ending = stem[-length:]
        if stem[:-length] in pictures and all(name.endswith(ending) for name in maps):
            return {name[:-length]: path for name, path in maps.items()}
    return maps

"""Folders of pictures and label maps: for every picture an image whose pixels are numbers of classes."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import Image

from .base import Annotation, SegmentationDataset
from .class_names import find_class_names, numbered, read_class_names
from .files import FileTree, tree_of
from .images import DEFAULT_READING, ImageReading
from .samples import Category, Sample, encode_masks, picture_suffixes
from .splits import choose_split


PICTURE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "pictures")
MAP_FOLDERS = ("masks", "mask", "annotations", "labels", "label_maps", "segmentation", "SegmentationClass")
MAP_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif"})


class LabelMapDataset(SegmentationDataset):
    """Reads a folder that holds a folder of pictures and one of label maps, for semantic segmentation.

    A label map is a PNG of one channel (grey, 16-bit or palette) whose values are numbers of classes. It has the name
    of its picture, or that name with something behind it which is the same for all, as in `x.jpg` and `x_mask.png`.

    Args:
        path: the folder, such as `camvid/train` with `images/` and `masks/` in it; or one with `images/train/` and
            `masks/train/`.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`].
        split: which of the folders in `images/` to take where they are split.
        class_names: names of the classes: a list, or a text file with a line for each, or a JSON file (a list, or
            an object of numbers and names). By default such a file in the folder or in the one around it
            (`classes.txt`, `id2label.json`...); without one, the classes are those of `id2label`, by number; without
            that either, the values that occur, for which every map is read.
        ignore_index: values of pixels that belong to no class.
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
        ignore_index: Collection[int] = (255,),
        do_reduce_labels: bool = False,
    ) -> None:
        self.tree = as_tree(path, skip_bad_samples)
        self.ignored = frozenset(ignore_index) | ({0} if do_reduce_labels else set())
        picture_folder, map_folder = _find_folders(self.tree, split)
        pictures = files_by_stem(self.tree, picture_folder, picture_suffixes())
        maps = _without_common_ending(files_by_stem(self.tree, map_folder, MAP_SUFFIXES), pictures)
        if not pictures:
            raise FileNotFoundError(f"{self.tree.path(picture_folder)} holds no pictures.")
        names = self._class_names(class_names, id2label, int(do_reduce_labels), maps.values(), image_reading)
        categories = [Category(number, name, isthing=False) for number, name in names.items()]
        super().__init__(
            str(self.tree.root), categories, "semantic", id2label, task, skip_bad_samples, self.tree, image_reading
        )
        self.files = paired(self, self.tree, (picture_folder, pictures), (map_folder, maps))

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        try:
            _, map_folder = _find_folders(tree, split)
        except FileNotFoundError:
            return False
        return any(PurePosixPath(name).suffix.lower() in MAP_SUFFIXES for name in tree.below(map_folder))

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.tree.path(self.files[index][0])

    def open_image(self, index: int) -> BinaryIO:
        return self.tree.open(self.files[index][0])

    def __getitem__(self, index: int) -> Sample:
        picture, map_name = self.files[index]
        label_map = read_label_map(self.tree, map_name, self.image_reading)
        map_path = self.tree.path(map_name)
        image = self.read_image(index, label_map.shape, map_path)
        return Sample(
            picture, image, self.targets(label_map_annotations(self, label_map, self.ignored, map_path)), picture
        )

    def _class_names(
        self,
        given: str | Path | Sequence[str] | None,
        id2label: Mapping[int, str] | None,
        first_class: int,
        map_names: Iterable[str],
        image_reading: ImageReading,
    ) -> dict[int, str]:
        """Value in a map -> name of the class."""
        names = read_class_names(Path(given)) if isinstance(given, str | Path) else given
        if names is None:
            names = find_class_names(self.tree)
        if names is None and id2label is not None:
            names = [id2label[label_id] for label_id in range(len(id2label))]
        if names is not None:
            return dict(enumerate(names, start=first_class))

        def values(name: str) -> set[int]:
            try:
                return values_in(read_label_map(self.tree, name, image_reading))
            except ValueError:  # which reading the sample tells
                return set()

        with ThreadPoolExecutor() as threads:
            found = threads.map(values, map_names)
        return numbered(set().union(*found) - self.ignored, first_class)


def as_tree(path: str | Path | FileTree, skip_bad_samples: bool) -> FileTree:
    """The files of a folder, which may be (in) a zip."""
    if isinstance(path, FileTree):
        return path
    tree, name = tree_of(path, skip_bad_samples)
    return tree.subtree(name) if name else tree


def read_label_map(tree: FileTree, name: str, image_reading: ImageReading) -> np.ndarray:
    """
    The values of a label map, `(height, width)` int64; those of a palette image are indices into the palette.

    Raises:
        ValueError: the file cannot be decoded, or has colours instead of numbers.
    """
    with tree.open(name) as file:
        return label_map_of(image_reading.read_annotation(file, tree.path(name)), tree.path(name))


def label_map_of(image: Image.Image, where: str) -> np.ndarray:
    """The values of a decoded label map, see [`read_label_map`]."""
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16L", "I;16B"):
        raise ValueError(
            f"{where} is a colour picture (mode {image.mode}), not a label map: a PNG of one channel whose "
            "values are numbers of classes."
        )
    return np.asarray(image).astype(np.int64)


def values_in(label_map: np.ndarray) -> set[int]:
    """The values that occur."""
    if label_map.min(initial=0) >= 0 and label_map.max(initial=0) < 2**16:  # much faster than sorting
        return set(np.flatnonzero(np.bincount(label_map.ravel())).tolist())
    return set(np.unique(label_map).tolist())


def label_map_annotations(
    dataset: SegmentationDataset, label_map: np.ndarray, ignored: Collection[int], where: str
) -> list[Annotation]:
    """
    A segment for every class of a label map, whose values are numbers of categories.

    Raises:
        ValueError: a value is neither a category nor among `ignored`.
    """
    values = sorted(value for value in values_in(label_map) if value not in ignored)
    if unknown := [value for value in values if not dataset.knows(value)]:
        numbers = [category.id for category in dataset.categories]
        raise ValueError(
            f"{where}: {int((label_map == unknown[0]).sum())} pixels have the value "
            f"{unknown[0]}, which is no class: these are {min(numbers)} to {max(numbers)}. Values that belong to "
            "no class are given as --ignore_index."
        )
    return [Annotation(rle, value) for rle, value in zip(encode_masks(label_map, values), values, strict=True)]


def files_by_stem(tree: FileTree, folder: str, suffixes: Collection[str]) -> dict[str, str]:
    """The files of a folder, by their name without folder and suffix. Two files of one name are a `ValueError`."""
    files: dict[str, str] = {}
    for name in tree.below(folder):
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes:
            stem = path.relative_to(folder).with_suffix("").as_posix()
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

"""Folders of pictures and label maps: for every picture an image whose pixels are numbers of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from .base import Annotation, SegmentationDataset
from .files import FileTree
from .samples import Category, Sample, decoded, encode_masks, picture_suffixes, read_rgb


PICTURE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "pictures")
MAP_FOLDERS = ("masks", "mask", "annotations", "labels", "label_maps", "segmentation", "SegmentationClass")
CLASS_NAME_FILES = ("classes.txt", "class_names.txt", "names.txt", "labels.txt", "id2label.json", "objectInfo150.txt")


class LabelMapDataset(SegmentationDataset):
    """Reads a folder that holds a folder of pictures and one of label maps, for semantic segmentation.

    A label map is a PNG of one channel (grey, 16-bit or palette) with the name of its picture, whose values are
    numbers of classes.

    Args:
        path: the folder, such as `camvid/train` with `images/` and `masks/` in it.
        id2label, task, skip_bad_samples: see [`SegmentationDataset`].
        class_names: names of the classes: a list, or a text file with a line for each, or a JSON file (a list, or
            an object of numbers and names). By default such a file in the folder or in the one around it
            (`classes.txt`, `id2label.json`...); without one, the values that occur are the classes.
        ignore_index: values of pixels that belong to no class.
        do_reduce_labels: whether 0 belongs to no class either, and the first class is 1.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: a picture without map or a map without picture, or what [`SegmentationDataset`] raises. Reading a
            sample: a file that cannot be decoded, a map of the wrong size or kind, a value past the classes.
    """

    def __init__(
        self,
        path: str | Path,
        id2label: Mapping[int, str] | None = None,
        *,
        task: str | None = None,
        skip_bad_samples: bool = False,
        class_names: str | Path | Sequence[str] | None = None,
        ignore_index: Collection[int] = (255,),
        do_reduce_labels: bool = False,
    ) -> None:
        self.tree = FileTree(path)
        self.ignored = frozenset(ignore_index) | ({0} if do_reduce_labels else set())
        self.first_class = int(do_reduce_labels)
        picture_folder, map_folder = _find_folders(self.tree)
        pictures = _by_stem(self.tree, picture_folder, picture_suffixes())
        maps = _by_stem(self.tree, map_folder, {".png", ".bmp", ".tif", ".tiff", ".gif"})
        if not pictures:
            raise FileNotFoundError(f"{self.tree.path(picture_folder)} holds no pictures.")
        names = self._class_names(class_names, maps.values())
        categories = [Category(number, name, isthing=False) for number, name in names.items()]
        super().__init__(str(path), categories, "semantic", id2label, task, skip_bad_samples)
        for stem in sorted(pictures.keys() ^ maps.keys()):
            present, missing = (pictures, map_folder) if stem in pictures else (maps, picture_folder)
            self.bad_sample(
                self.tree.path(present[stem]),
                f"{self.tree.path(present[stem])} has no counterpart in {self.tree.path(missing)}. Add it, or remove "
                "the file.",
            )
        self.files = [(pictures[stem], maps[stem]) for stem in sorted(pictures.keys() & maps.keys())]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.tree.path(self.files[index][0])

    def __getitem__(self, index: int) -> Sample:
        picture, map_name = self.files[index]
        image = read_rgb(self.tree, picture)
        label_map = read_label_map(self.tree, map_name)
        if label_map.shape != (image.height, image.width):
            raise ValueError(
                f"{self.tree.path(picture)} is {image.height}x{image.width} pixels (height x width) and its label map "
                f"{self.tree.path(map_name)} {label_map.shape[0]}x{label_map.shape[1]}. They must have the same size."
            )
        values = [value for value in np.unique(label_map).tolist() if value not in self.ignored]
        if unknown := [value for value in values if not self.knows(value)]:
            numbers = [category.id for category in self.categories]
            raise ValueError(
                f"{self.tree.path(map_name)}: {int((label_map == unknown[0]).sum())} pixels have the value "
                f"{unknown[0]}, which is no class: these are {min(numbers)} to {max(numbers)}. Values that belong to "
                "no class are given as --ignore_index."
            )
        annotations = [
            Annotation(rle, value) for rle, value in zip(encode_masks(label_map, values), values, strict=True)
        ]
        return Sample(picture, image, self.targets(annotations), picture)

    def _class_names(self, given: str | Path | Sequence[str] | None, map_names: Iterable[str]) -> dict[int, str]:
        """Value in a map -> name of the class."""
        if isinstance(given, str | Path):
            given = read_class_names(Path(given))
        if given is None:
            around = [self.tree.root, self.tree.root.parent]
            files = [folder / name for folder in around for name in CLASS_NAME_FILES if (folder / name).is_file()]
            if files:
                given = read_class_names(files[0])
        if given is not None:
            return dict(enumerate(given, start=self.first_class))
        values: set[int] = set()
        for name in map_names:
            values |= set(np.unique(read_label_map(self.tree, name)).tolist())
        used = range(self.first_class, max(values - self.ignored, default=0) + 1)
        return {value: f"class {value}" for value in used}


def read_class_names(path: Path) -> list[str]:
    """
    The names of classes in order, from a file.

    Args:
        path: a text file with a name on each line; a table such as ADE20K's `objectInfo150.txt`, with tabs, a title
            line and the names last; or JSON, a list of names or an object of numbers (from 0 on) and names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or numbers are missing.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if isinstance(content, dict):
            numbered = {int(number): str(name) for number, name in content.items()}
            if sorted(numbered) != list(range(len(numbered))):
                raise ValueError(f"{path}: the numbers of the classes must be 0 to {len(numbered) - 1}.")
            content = [numbered[number] for number in range(len(numbered))]
        names = [str(name) for name in content]
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines and "\t" in lines[0]:
            lines = [line.split("\t")[-1] for line in lines[1:]]
        names = [re.sub(r"^\d+\s*[:,]\s*", "", line) for line in lines]  # "0: road"
    if not names:
        raise ValueError(f"{path} names no classes.")
    return names


def read_label_map(tree: FileTree, name: str) -> np.ndarray:
    """
    The values of a label map, `(height, width)` int64; those of a palette image are indices into the palette.

    Raises:
        ValueError: the file cannot be decoded, or has colours instead of numbers.
    """
    image: Image.Image = decoded(tree, name)
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16L", "I;16B"):
        raise ValueError(
            f"{tree.path(name)} is a colour picture (mode {image.mode}), not a label map: a PNG of one channel whose "
            "values are numbers of classes."
        )
    return np.asarray(image).astype(np.int64)


def _find_folders(tree: FileTree) -> tuple[str, str]:
    found = []
    for what, candidates in (("pictures", PICTURE_FOLDERS), ("label maps", MAP_FOLDERS)):
        present = [name for name in candidates if tree.has_folder(name)]
        if not present:
            raise FileNotFoundError(
                f"{tree.root} has no folder of {what} with a file in it ({', '.join(candidates)})."
            )
        found.append(present[0])
    return found[0], found[1]


def _by_stem(tree: FileTree, folder: str, suffixes: Collection[str]) -> dict[str, str]:
    """The files of a folder, by their name without folder and suffix. Two files of one name are a `ValueError`."""
    files: dict[str, str] = {}
    for name in tree.below(folder):
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes:
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if (other := files.setdefault(stem, name)) != name:
                raise ValueError(f"{tree.path(other)} and {tree.path(name)} are both called {stem}: remove one.")
    return files

"""Datasets in YOLO's segmentation format: images, a text file of polygons for each, and one YAML file.

The format: https://docs.ultralytics.com/datasets/segment/.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ..json_files import describe_fault, parse_id, read_json
from ..yaml_files import read_yaml
from .base import IMAGES_DIR, Annotation, ImageFile, SegmentationDataset
from .files import FileTree
from .images import list_image_suffixes
from .located import list_last_parts
from .masks import encode_segmentation
from .pairing import list_by_stem
from .samples import Category, Sample
from .splits import SPLITS, choose_split, list_split_names


YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAME_FILES = ("classes.txt", "notes.json")  # in place of a YAML file: Label Studio
BOX_NUMBERS = 4


class YoloSettings(msgspec.Struct):
    """The content of a YAML file, except for the splits."""

    names: list[str | int] | dict[int | str, str | int]
    nc: int | None = None
    path: str | None = None

    def name_classes(self) -> dict[int, str]:
        """Names the classes by number. Raises a `ValueError` if numbers are missing."""
        names = self.names.items() if isinstance(self.names, dict) else enumerate(self.names)
        by_number = {parse_id(number): str(name) for number, name in names}
        if not by_number or set(by_number) != set(range(len(by_number))):
            raise ValueError(f"the numbers of its 'names' must be 0 to {len(by_number) - 1}")
        if nameless := [number for number, name in by_number.items() if not name.strip()]:
            raise ValueError(f"class {nameless[0]} of its 'names' has no name")
        if self.nc is not None and self.nc != len(by_number):
            raise ValueError(f"'nc' is {self.nc}, but there are {len(by_number)} 'names'")
        return {number: by_number[number] for number in range(len(by_number))}


class _Class(msgspec.Struct):
    id: int
    name: str


class _Notes(msgspec.Struct):
    categories: list[_Class]


class YoloDataset(SegmentationDataset):
    """Reads YOLO segmentation data; item `i` is the `i`-th image by name.

    Each line of a text file is an object: the number of its class, then x and y of the polygon's points as fractions
    of the image's width and height. An image without a text file, or with an empty one, is a sample without targets.

    The dataset is the folder with `data.yaml`, or that file. The images are in the folders that it names, or listed
    in the text files that it names, or in `images/train/`, `train/images/`, `images/` and so on; text files in the
    folder that has `labels` for `images`. Without a YAML file, `classes.txt` or `notes.json` beside `images/` and
    `labels/` names the classes. `images_dir` is where the folders are that the YAML file names, if not below its own;
    or the one of them.
    """

    LOOKS_FOR = "data.yaml, classes.txt or notes.json with images/ and labels/ (YOLO segmentation)"
    SUFFIXES = (".yaml", ".yml")
    SETTINGS = IMAGES_DIR

    def open(self, path: str | Path | FileTree) -> None:
        candidates: tuple[str, ...] = (*YAML_NAMES, *NAME_FILES)
        if not isinstance(path, FileTree) and Path(path).suffix in self.SUFFIXES:
            path, candidates = Path(path).parent, (Path(path).name,)
        self.tree = self.open_tree(path)
        name_files = [name for name in candidates if name in self.tree]
        if not name_files:
            raise FileNotFoundError(f"{self.tree.root} has no data.yaml. Looked for: {self.LOOKS_FOR}.")
        where = self.tree.path(name_files[0])
        content, path_in_yaml, names = _read_settings(self.tree, name_files[0])
        self.set_categories(where, "instance", [Category(number, name, True) for number, name in names.items()])
        trees, split = [self.tree], self.split or "train"
        if (images_dir := self.settings.get("images_dir")) is not None:
            trees.append(self.open_tree(_find_parent(Path(images_dir))))
        places = _Places(trees, path_in_yaml, where)
        self._texts: dict[tuple[Path, str], str | None] = {}  # by image, whose text file it is where there is one
        parts = _list_parts(content, split, where)
        for name in parts:
            tree, found = places.find_part(name)
            if name.endswith(".txt"):
                self._add_list(tree, found, places)
            else:
                self._add_folder(tree, found)
        if not parts:
            has_splits = any(key in content for other in SPLITS for key in list_split_names(other))
            self._add_folder(self.tree, _find_usual_folder(self.tree, split, where, has_splits))
        if not self.images:
            raise FileNotFoundError(f"{where}: the folders of its {split} split hold no images.")

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        if any(name in tree for name in YAML_NAMES):
            return True
        return any(name in tree for name in NAME_FILES) and any(n.endswith(".txt") for n in tree.below("labels"))

    def __getitem__(self, index: int) -> Sample:
        tree, file_name = self.images[index]
        image = self.read_image(index)
        annotations = []
        text_name = self._texts[tree.root, file_name]
        lines = tree.read_text(text_name).splitlines() if text_name is not None else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                annotations.append(self._parse_line(line.split(), (image.height, image.width)))
            except ValueError as error:
                where = f"{tree.path(str(text_name))}: line {number}"
                self.bad_sample(where, f"{where} {error}. Correct or delete the line.")
        return Sample(self.name(index), image, self.make_targets(annotations), file_name)

    def _parse_line(self, words: list[str], size: tuple[int, int]) -> Annotation:
        try:
            numbers = [float(word) for word in words]
        except ValueError as error:
            raise ValueError(f"is not a row of numbers ({error})") from error
        if not all(map(math.isfinite, numbers)):
            raise ValueError("has numbers that are not finite (NaN or infinite)")
        class_id, points = int(numbers[0]), numbers[1:]
        if not self.knows(class_id) or class_id != numbers[0]:
            raise ValueError(f"has the class {words[0]}, there are 0 to {len(self.categories) - 1}")
        if len(points) == BOX_NUMBERS:
            raise ValueError(
                "has 4 numbers after the class: that is a box, as in data for detection, from which no masks can be "
                "learnt; a polygon has at least 3 points"
            )
        if len(points) < 6 or len(points) % 2:
            raise ValueError(f"has {len(points)} numbers after the class, which are no 3 or more points x y")
        if min(points) < -0.01 or max(points) > 1.01:
            raise ValueError(
                f"has coordinates from {min(points):g} to {max(points):g}; they must be fractions of the image's "
                "width and height, from 0 to 1"
            )
        polygon = [min(max(value, 0.0), 1.0) * size[1 - i % 2] for i, value in enumerate(points)]
        return Annotation(encode_segmentation([polygon], size), class_id)

    def _add(self, tree: FileTree, image: str, text: str | None) -> None:
        """Adds an image and its text file, once: folders and lists may have images in common."""
        if (tree.root, image) not in self._texts:
            self.images.append(ImageFile(tree, image))
        self._texts[tree.root, image] = text

    def _add_folder(self, tree: FileTree, folder: str) -> None:
        images = list_by_stem(tree, folder, list_image_suffixes())
        text_folder = _find_text_folder(folder)
        texts = {} if text_folder is None else list_by_stem(tree, text_folder, {".txt"})
        for stem in sorted(texts.keys() - images.keys() - {"classes"}):
            path = tree.path(texts[stem])
            self.bad_sample(path, f"{path} has no image in {tree.path(folder)}. Add it, or remove the file.")
        for stem, image in sorted(images.items()):
            self._add(tree, image, texts.get(stem))

    def _add_list(self, tree: FileTree, name: str, places: _Places) -> None:
        """Adds the images that a text file lists, a path on each line."""
        lines = list(dict.fromkeys(line.strip() for line in tree.read_text(name).splitlines() if line.strip()))
        found = {line: places.find_image(line, posixpath.dirname(name)) for line in lines}
        num_missing = sum(place is None for place in found.values())
        for line, place in found.items():
            if place is None:
                reason = f"{num_missing} of {len(lines)} images that {tree.path(name)} lists are not there"
                self.bad_sample(line, f"{line} is missing ({reason}).", FileNotFoundError)
                continue
            image_tree, image = place
            folder, file_name = posixpath.split(image)
            text = posixpath.join(_find_text_folder(folder) or "", PurePosixPath(file_name).with_suffix(".txt").name)
            self._add(image_tree, image, text if text in image_tree else None)


class _Places:
    """Finds the files that a YAML file names, mostly by paths of the machine that it was written on.

    Args:
        trees: where to look.
        path: the YAML file's `path`.
        where: the YAML file for messages.
    """

    def __init__(self, trees: list[FileTree], path: str | None, where: str) -> None:
        self.trees, self.path, self.where = trees, (path or "").replace("\\", "/"), where

    def find_part(self, name: str) -> tuple[FileTree, str]:
        """Finds a folder of images, or a list of them. Raises a `FileNotFoundError` if there is none."""
        is_list = name.endswith(".txt")
        if found := self._find(name, "", _choose_list if is_list else _choose_folder):
            return found
        raise FileNotFoundError(
            f"{self.where} names the {'list' if is_list else 'folder'} {name} (path: {self.path or 'none'}), which is "
            f"not in {' or '.join(str(tree.root) for tree in self.trees)}, or no folder 'images' beside one of text "
            "files, 'labels'. Images elsewhere are read if --images_dir names their folder."
        )

    def find_image(self, name: str, beside: str) -> tuple[FileTree, str] | None:
        """Finds an image that a list in the folder `beside` names; None if it is missing."""
        return self._find(name, beside, _choose_image)

    def _find(
        self, name: str, beside: str, choose: Callable[[FileTree, str], str | None]
    ) -> tuple[FileTree, str] | None:
        name = name.replace("\\", "/")
        whole = posixpath.join(self.path, name)
        below = re.sub(r"^(\.\./)+", "", posixpath.normpath(name))  # Roboflow counts from a folder that is not there
        readings = [posixpath.join(beside, name), whole, name, below, *list_last_parts(whole), *list_last_parts(name)]
        for tree in self.trees:
            for reading in readings:
                if (found := choose(tree, posixpath.normpath(reading))) is not None:
                    return tree, found
        return None


def _choose_folder(tree: FileTree, reading: str) -> str | None:
    candidates = (reading, posixpath.join(reading, "images"))
    return next((name for name in candidates if _find_text_folder(name) and tree.has_folder(name)), None)


def _choose_list(tree: FileTree, reading: str) -> str | None:
    return reading if reading in tree else None


def _choose_image(tree: FileTree, reading: str) -> str | None:
    return reading if _find_text_folder(posixpath.dirname(reading)) and reading in tree else None


def _find_text_folder(folder: str) -> str | None:
    """Finds the folder of text files for a folder of images: "labels" for the last "images"; None without that."""
    parts = folder.split("/")
    if "images" not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index("images")
    return "/".join([*parts[:last], "labels", *parts[last + 1 :]])


def _find_parent(folder: Path) -> Path:
    """Finds the folder that holds `images/`: the path, or one above it."""
    if "images" not in folder.parts:
        return folder
    return Path(*folder.parts[: len(folder.parts) - 1 - folder.parts[::-1].index("images")])


def _read_settings(tree: FileTree, name: str) -> tuple[dict[Any, Any], str | None, dict[int, str]]:
    """Reads a YAML file, its `path`, and the names of the classes by number; or the names from another file."""
    where = tree.path(name)
    content: Any = {}
    if name == "classes.txt":
        lines = tree.read_text(name).splitlines()
        settings = YoloSettings([line.strip() for line in lines if line.strip()])
    elif name == "notes.json":
        notes = read_json(tree.read_bytes(name), _Notes, where, "Label Studio's")
        settings = YoloSettings({category.id: category.name for category in notes.categories})
    else:
        content = read_yaml(tree.read_text(name), where)
        try:
            settings = msgspec.convert(content, YoloSettings)
        except msgspec.ValidationError as error:
            raise ValueError(f"{where} is not YOLO's: {describe_fault(error)}.") from error
    try:
        return content, settings.path, settings.name_classes()
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error


def _list_parts(content: Mapping[Any, Any], split: str, where: str) -> list[str]:
    """Lists the folders and lists of a split as the YAML file names them."""
    for key in list_split_names(split):
        if (given := content.get(key)) in (None, ""):
            continue
        try:
            named = msgspec.convert(given, str | list[str])
        except msgspec.ValidationError as error:
            raise ValueError(f"{where} is not YOLO's: {key!r}: {describe_fault(error)}.") from error
        return [named] if isinstance(named, str) else named
    return []


def _find_usual_folder(tree: FileTree, split: str, where: str, has_splits: bool) -> str:
    """Finds the folder of a split's images where the YAML file does not name it; `has_splits`: but others."""
    for name in list_split_names(split):
        for folder in (f"images/{name}", f"{name}/images"):
            if tree.has_folder(folder):
                return folder
    if has_splits or not tree.has_folder("images"):
        raise FileNotFoundError(
            f"{where} has no {split} split: it names none of {', '.join(list_split_names(split))}."
        )
    return choose_split(tree.folders("images"), split, tree.path("images")) or "images"

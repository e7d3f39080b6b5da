"""Data sets in YOLO's segmentation format: pictures, a text file of polygons for each, and one YAML file.

The format: https://docs.ultralytics.com/datasets/segment/.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import msgspec

from ..json_files import describe_fault, parse_id, read_json
from ..yaml_files import read_yaml
from .base import Annotation, SegmentationDataset
from .coco_instance import rle_of
from .files import FileTree
from .images import DEFAULT_READING, ImageReading, list_image_suffixes
from .label_maps import files_by_stem, open_tree
from .samples import Category, Sample
from .splits import SPLITS, choose_split, split_names


YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAME_FILES = ("classes.txt", "notes.json")  # in place of a YAML file: Label Studio
BOX_NUMBERS = 4


class YoloSettings(msgspec.Struct):
    """What a YAML file says, but for the splits."""

    names: list[str | int] | dict[int | str, str | int]
    nc: int | None = None
    path: str | None = None

    def class_names(self) -> dict[int, str]:
        """The names by number. Raises a `ValueError` if numbers are missing."""
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
    """Reads YOLO segmentation data; item `i` is the `i`-th picture by name.

    Each line of a text file is an object: the number of its class, then x and y of the polygon's points as fractions
    of the picture's width and height. A picture without a text file, or with an empty one, is a sample without
    targets.

    Args:
        path: the folder with `data.yaml`, or that file. The pictures are in the folders that it names, or those that
            are listed in the text files that it names, or in `images/train/`, `train/images/`, `images/` and so on;
            text files in the folder that has `labels` for `images`. Without a YAML file, `classes.txt` or `notes.json`
            beside `images/` and `labels/` names the classes.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`].
        split: which of the folders to take, "train" by default.
        images_dir: where the folders are that the YAML file names, if not below its own; or the one of them.

    Raises:
        FileNotFoundError: the YAML file, or a folder, is missing.
        ValueError: the YAML file is not one of YOLO's, or what [`SegmentationDataset`] raises. Reading a sample: the
            picture cannot be decoded, a line is a box or no polygon, or names a class that does not exist.
    """

    LOOKS_FOR = "data.yaml, classes.txt or notes.json with images/ and labels/ (YOLO segmentation)"

    def __init__(
        self,
        path: str | Path | FileTree,
        id2label: Mapping[int, str] | None = None,
        *,
        task: str | None = None,
        skip_bad_samples: bool = False,
        split: str | None = None,
        image_reading: ImageReading = DEFAULT_READING,
        images_dir: str | Path | None = None,
    ) -> None:
        candidates: tuple[str, ...]
        if not isinstance(path, FileTree) and Path(path).suffix in (".yaml", ".yml"):
            self.tree, candidates = open_tree(Path(path).parent, skip_bad_samples), (Path(path).name,)
        else:
            self.tree, candidates = open_tree(path, skip_bad_samples), (*YAML_NAMES, *NAME_FILES)
        name_files = [name for name in candidates if name in self.tree]
        if not name_files:
            raise FileNotFoundError(f"{self.tree.root} has no data.yaml. Looked for: {self.LOOKS_FOR}.")
        where = self.tree.path(name_files[0])
        content, path_in_yaml, names = _read_settings(self.tree, name_files[0])
        categories = [Category(number, name, True) for number, name in names.items()]
        super().__init__(where, categories, "instance", id2label, task, skip_bad_samples, self.tree, image_reading)
        trees = [self.tree]
        if images_dir is not None:
            trees.append(open_tree(_around_images(Path(images_dir)), skip_bad_samples))
        places = _Places(trees, path_in_yaml, where)
        self.files: list[tuple[FileTree, str, str | None]] = []  # picture, and text file where there is one
        given = _named_parts(content, split or "train", where)
        for name in given:
            if name.endswith(".txt"):
                self._add_list(*places.list_file(name), places)
            else:
                self._add_folder(*places.folder(name))
        if not given:
            has_splits = any(key in content for other in SPLITS for key in split_names(other))
            self._add_folder(self.tree, _usual_folder(self.tree, split or "train", where, has_splits))
        # Folders and lists may have pictures in common.
        self.files = list({(tree.root, picture): (tree, picture, text) for tree, picture, text in self.files}.values())
        if not self.files:
            raise FileNotFoundError(f"{where}: the folders of its {split or 'train'} split hold no pictures.")

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        if any(name in tree for name in YAML_NAMES):
            return True
        return any(name in tree for name in NAME_FILES) and any(n.endswith(".txt") for n in tree.below("labels"))

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        tree, picture, _ = self.files[index]
        return tree.path(picture)

    def open_image(self, index: int) -> BinaryIO:
        tree, picture, _ = self.files[index]
        return tree.open(picture)

    def __getitem__(self, index: int) -> Sample:
        tree, picture, text_name = self.files[index]
        image = self.read_image(index)
        annotations = []
        lines = tree.read_text(text_name).splitlines() if text_name is not None else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                annotations.append(self._annotation(line.split(), image.height, image.width))
            except ValueError as error:
                where = f"{tree.path(str(text_name))}: line {number}"
                self.bad_sample(where, f"{where} {error}. Correct or delete the line.")
        return Sample(self.name(index), image, self.targets(annotations), picture)

    def _annotation(self, words: list[str], height: int, width: int) -> Annotation:
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
                f"has coordinates from {min(points):g} to {max(points):g}; they must be fractions of the picture's "
                "width and height, from 0 to 1"
            )
        polygon = [min(max(value, 0.0), 1.0) * (height if i % 2 else width) for i, value in enumerate(points)]
        return Annotation(rle_of([polygon], height, width), class_id)

    def _add_folder(self, tree: FileTree, folder: str) -> None:
        pictures = files_by_stem(tree, folder, list_image_suffixes())
        text_folder = _text_folder(folder)
        texts = {} if text_folder is None else files_by_stem(tree, text_folder, {".txt"})
        for stem in sorted(texts.keys() - pictures.keys() - {"classes"}):
            path = tree.path(texts[stem])
            self.bad_sample(path, f"{path} has no picture in {tree.path(folder)}. Add it, or remove the file.")
        self.files += [(tree, picture, texts.get(stem)) for stem, picture in sorted(pictures.items())]

    def _add_list(self, tree: FileTree, name: str, places: _Places) -> None:
        """The pictures that a text file lists, a path on each line."""
        lines = list(dict.fromkeys(line.strip() for line in tree.read_text(name).splitlines() if line.strip()))
        found = {line: places.picture(line, posixpath.dirname(name)) for line in lines}
        num_missing = sum(place is None for place in found.values())
        for line, place in found.items():
            if place is None:
                reason = f"{num_missing} of {len(lines)} pictures that {tree.path(name)} lists are not there"
                self.bad_sample(line, f"{line} is missing ({reason}).", FileNotFoundError)
                continue
            picture_tree, picture = place
            folder, file_name = posixpath.split(picture)
            text = posixpath.join(_text_folder(folder) or "", PurePosixPath(file_name).with_suffix(".txt").name)
            self.files.append((picture_tree, picture, text if text in picture_tree else None))


class _Places:
    """Where the files are that a YAML file names, mostly by paths of the machine that it was written on.

    Args:
        trees: where to look.
        path: the YAML file's `path`.
        where: the YAML file for messages.
    """

    def __init__(self, trees: list[FileTree], path: str | None, where: str) -> None:
        self.trees, self.path, self.where = trees, (path or "").replace("\\", "/"), where

    def folder(self, name: str) -> tuple[FileTree, str]:
        """A folder of pictures. Raises a `FileNotFoundError` if there is none."""

        def fitting(tree: FileTree, reading: str) -> str | None:
            candidates = (reading, posixpath.join(reading, "images"))
            return next((c for c in candidates if _text_folder(c) is not None and tree.has_folder(c)), None)

        return self._found(name, "", fitting) or self._missing("folder", name)

    def list_file(self, name: str) -> tuple[FileTree, str]:
        """A list of pictures. Raises a `FileNotFoundError` if there is none."""
        return self._found(name, "", lambda tree, reading: reading if reading in tree else None) or self._missing(
            "list", name
        )

    def picture(self, name: str, beside: str) -> tuple[FileTree, str] | None:
        """A picture that a list in the folder `beside` names, None if it is missing."""

        def fitting(tree: FileTree, reading: str) -> str | None:
            return reading if _text_folder(posixpath.dirname(reading)) is not None and reading in tree else None

        return self._found(name, beside, fitting)

    def _found(
        self, name: str, beside: str, fitting: Callable[[FileTree, str], str | None]
    ) -> tuple[FileTree, str] | None:
        for tree in self.trees:
            for reading in self._readings(name.replace("\\", "/"), beside):
                if (found := fitting(tree, posixpath.normpath(reading))) is not None:
                    return tree, found
        return None

    def _readings(self, name: str, beside: str) -> Iterator[str]:
        yield posixpath.join(beside, name)
        whole = posixpath.join(self.path, name)
        yield whole
        yield name
        plain = re.sub(r"^(\.\./)+", "", posixpath.normpath(name))
        yield plain  # Roboflow counts from a folder that is not there
        for path in (whole, name):  # the last parts of a path of another machine
            parts = path.split("/")
            yield from ("/".join(parts[start:]) for start in range(1, len(parts)))

    def _missing(self, what: str, name: str) -> tuple[FileTree, str]:
        raise FileNotFoundError(
            f"{self.where} names the {what} {name} (path: {self.path or 'none'}), which is not in "
            f"{' or '.join(str(tree.root) for tree in self.trees)}, or no folder 'images' beside one of text files, "
            "'labels'. Pictures elsewhere are read if --images_dir names their folder."
        )


def _text_folder(folder: str) -> str | None:
    """The folder of the text files of a folder of pictures: "labels" for the last "images"; None without that."""
    parts = folder.split("/")
    if "images" not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index("images")
    return "/".join([*parts[:last], "labels", *parts[last + 1 :]])


def _around_images(folder: Path) -> Path:
    """The folder that holds `images/`, which may be where the path leads or around there."""
    if "images" not in folder.parts:
        return folder
    return Path(*folder.parts[: len(folder.parts) - 1 - folder.parts[::-1].index("images")])


def _read_settings(tree: FileTree, name: str) -> tuple[dict[Any, Any], str | None, dict[int, str]]:
    """What a YAML file says, its `path`, and the names of the classes by number; or the names from another file."""
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
        return content, settings.path, settings.class_names()
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error


def _named_parts(content: Mapping[Any, Any], split: str, where: str) -> list[str]:
    """The folders and lists of a split as the YAML file names them."""
    for key in split_names(split):
        if (given := content.get(key)) in (None, ""):
            continue
        try:
            named = msgspec.convert(given, str | list[str])
        except msgspec.ValidationError as error:
            raise ValueError(f"{where} is not YOLO's: {key!r}: {describe_fault(error)}.") from error
        return [named] if isinstance(named, str) else named
    return []


def _usual_folder(tree: FileTree, split: str, where: str, has_splits: bool) -> str:
    """The folder of a split's pictures where the YAML file does not name it; `has_splits`: but others."""
    for name in split_names(split):
        for folder in (f"images/{name}", f"{name}/images"):
            if tree.has_folder(folder):
                return folder
    if has_splits or not tree.has_folder("images"):
        raise FileNotFoundError(f"{where} has no {split} split: it names none of {', '.join(split_names(split))}.")
    return choose_split(tree.folders("images"), split, tree.path("images")) or "images"

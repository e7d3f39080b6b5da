"""Data sets in YOLO's segmentation format: pictures, a text file of polygons for each, and one YAML file.

The format: https://docs.ultralytics.com/datasets/segment/.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from .base import Annotation, SegmentationDataset
from .coco_instance import rle_of
from .files import FileTree, tree_of
from .images import DEFAULT_READING, ImageReading
from .label_maps import as_tree, files_by_stem
from .samples import Category, Sample, picture_suffixes
from .splits import split_names


YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
BOX_NUMBERS = 4


class YoloDataset(SegmentationDataset):
    """Reads YOLO segmentation data; item `i` is the `i`-th picture by name.

    Each line of a text file is an object: the number of its class, then x and y of the polygon's points as fractions
    of the picture's width and height. A picture without a text file, or with an empty one, is a sample without
    targets.

    Args:
        path: the folder with `data.yaml`, or that file. The pictures are in the folders that it names, or in
            `images/train/`, `train/images/` and so on; text files in the folder that has `labels` for `images`.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`].
        split: which of the folders to take, "train" by default.

    Raises:
        FileNotFoundError: the YAML file, or a folder, is missing.
        ValueError: the YAML file is not one of YOLO's, or what [`SegmentationDataset`] raises. Reading a sample: the
            picture cannot be decoded, a line is a box or no polygon, or names a class that does not exist.
    """

    LOOKS_FOR = "data.yaml with images/ and labels/ (YOLO segmentation)"

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
        if not isinstance(path, FileTree) and Path(path).suffix in (".yaml", ".yml"):
            self.tree, yaml_names = as_tree(Path(path).parent, skip_bad_samples), [Path(path).name]
        else:
            self.tree = as_tree(path, skip_bad_samples)
            yaml_names = [name for name in YAML_NAMES if name in self.tree]
        if not yaml_names:
            raise FileNotFoundError(f"{self.tree.root} has no data.yaml. Looked for: {self.LOOKS_FOR}.")
        where = self.tree.path(yaml_names[0])
        settings = _read_yaml(self.tree, yaml_names[0])
        categories = [Category(number, name, True) for number, name in _class_names(settings, where).items()]
        super().__init__(where, categories, "instance", id2label, task, skip_bad_samples, self.tree, image_reading)
        self.files: list[tuple[FileTree, str, str | None]] = []  # picture, and text file where there is one
        for folder_tree, folder in _picture_folders(self.tree, settings, split or "train", where, skip_bad_samples):
            self._add_folder(folder_tree, folder)
        if not self.files:
            raise FileNotFoundError(f"{where}: the folders of its {split or 'train'} split hold no pictures.")

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        return any(name in tree for name in YAML_NAMES)

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
        pictures = files_by_stem(tree, folder, picture_suffixes())
        parts = folder.split("/")
        if "images" not in parts:
            raise ValueError(
                f"{self.where}: the text files of {tree.path(folder)} cannot be found: they are in the folder that "
                "has 'labels' for 'images', and there is no 'images'."
            )
        last = len(parts) - 1 - parts[::-1].index("images")
        text_folder = "/".join([*parts[:last], "labels", *parts[last + 1 :]])
        texts = files_by_stem(tree, text_folder, {".txt"})
        for stem in sorted(texts.keys() - pictures.keys() - {"classes"}):
            path = tree.path(texts[stem])
            self.bad_sample(path, f"{path} has no picture in {tree.path(folder)}. Add it, or remove the file.")
        self.files += [(tree, picture, texts.get(stem)) for stem, picture in sorted(pictures.items())]


def _read_yaml(tree: FileTree, name: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(tree.read_text(name))
    except yaml.YAMLError as error:
        raise ValueError(f"{tree.path(name)} is not YAML: {error}") from error
    if not isinstance(settings, dict) or "names" not in settings:
        raise ValueError(f"{tree.path(name)} is not YOLO's: it has no 'names' of classes.")
    return settings


def _class_names(settings: dict[str, Any], where: str) -> dict[int, str]:
    names = settings["names"]
    by_number = dict(names) if isinstance(names, dict) else dict(enumerate(names))
    if sorted(by_number) != list(range(len(by_number))):
        raise ValueError(f"{where}: the numbers of its 'names' must be 0 to {len(by_number) - 1}.")
    if settings.get("nc", len(by_number)) != len(by_number):
        raise ValueError(f"{where}: 'nc' is {settings['nc']}, but there are {len(by_number)} 'names'.")
    return {number: str(by_number[number]) for number in sorted(by_number)}


def _picture_folders(
    tree: FileTree, settings: dict[str, Any], split: str, where: str, skip_bad_samples: bool
) -> list[tuple[FileTree, str]]:
    """The folders of a split's pictures, each with the tree that it is in."""
    for key in split_names(split):
        if (given := settings.get(key)) is None:
            continue
        folders = [given] if isinstance(given, str) else list(given)
        return [_find_folder(tree, settings.get("path"), folder, where, skip_bad_samples) for folder in folders]
    for name in split_names(split):
        for folder in (f"images/{name}", f"{name}/images"):
            if tree.has_folder(folder):
                return [(tree, folder)]
    raise FileNotFoundError(f"{where} has no {split} split: it names none of {', '.join(split_names(split))}.")


def _find_folder(
    tree: FileTree, path: str | None, folder: str, where: str, skip_bad_samples: bool
) -> tuple[FileTree, str]:
    """A folder that the YAML file names, beside it or at its `path`, which may be one of the machine it came from."""
    if folder.endswith(".txt"):
        raise ValueError(f"{where}: lists of pictures such as {folder} are not read. Name the folders instead.")
    plain = posixpath.normpath(folder)
    while plain.startswith("../"):  # Roboflow counts from a folder that is not there
        plain = plain[3:]
    beside = [posixpath.normpath(posixpath.join(path or "", folder)), posixpath.normpath(folder), plain]
    for name in beside:
        for candidate in (name, f"{name}/images"):
            if not name.startswith(("/", "../")) and "images" in candidate.split("/") and tree.has_folder(candidate):
                return tree, candidate
    root = Path(path or "", folder)
    for absolute in (root, tree.root / root):
        if absolute.is_dir():
            # From the folder around images/ and labels/ on.
            inner = absolute.as_posix().split("/")
            around = "/".join(inner[: inner.index("images")]) if "images" in inner else absolute.parent.as_posix()
            outer, name = tree_of(around or "/", skip_bad_samples)
            return outer.subtree(name) if name else outer, absolute.relative_to(around or "/").as_posix()
    raise FileNotFoundError(f"{where} names the folder {folder}, which is neither {tree.path(plain)} nor {root}.")

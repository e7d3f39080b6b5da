"""The pictures that a finished model is applied to: a folder of them, or data with targets."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..data.base import SegmentationDataset
from ..data.files import FileTree
from ..data.images import DEFAULT_READING, ImageReading, list_image_suffixes
from ..data.samples import Sample


class PictureSource(Protocol):
    """Pictures by number.

    Attributes:
        where: what they are, for messages and to tell one source from another.
        has_targets: whether samples know what is to be found in the picture.
        category_ids: label id -> number of the class in the data; None where the data have no numbers of their own.
        image_reading: how pictures are read.
    """

    where: str
    image_reading: ImageReading
    has_targets: bool
    category_ids: Mapping[int, int] | None

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """A relative path with forward slashes, which no other picture has; text, whatever bytes file names have."""

    def stamp(self, index: int) -> str | None:
        """Tells the file of a picture from another that takes its place. None where there is no file to look at."""

    def __getitem__(self, index: int) -> Sample:
        """Reads a picture. Raises a `ValueError` or an `OSError` if it cannot be read."""


class PictureFolder:
    """The pictures in a folder and below it, sorted by path; or a single picture.

    The folder is listed once, without looking at a single file. What starts with a dot is left out: thumbnails, and
    what other systems leave beside their files; and so are links to folders around them.

    Args:
        path: the folder, or a picture.
        image_reading: how images are read; by default upright.

    Raises:
        FileNotFoundError: no such folder or picture, or no picture in the folder.
        OSError: a folder in it that cannot be listed.
    """

    has_targets = False
    category_ids: Mapping[int, int] | None = None

    def __init__(self, path: str | Path, image_reading: ImageReading = DEFAULT_READING) -> None:
        path = Path(path)
        self.image_reading = image_reading
        self.where = _as_text(str(path.resolve()))
        if is_picture(path):
            self.tree, self.names = FileTree(path.parent), [path.name]
            return
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is no folder of pictures, and no data set of a known format either.")
        self.tree = FileTree(path)
        self.names = _picture_names(str(path))
        if not self.names:
            raise FileNotFoundError(f"{path} holds no pictures, and neither do the folders in it.")

    def check_not_written_into(self, directory: str | Path) -> None:
        """Raises a `ValueError` if a folder to write into is a part of this one."""
        if Path(directory).resolve().is_relative_to(self.where):
            raise ValueError(
                f"{directory} lies in {self.where}: what is written there would be taken for pictures the next time. "
                "Choose a folder outside."
            )

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return _as_text(self.names[index])

    def stamp(self, index: int) -> str | None:
        return _stamp(self.tree.root / self.names[index])

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        with self.tree.open(name) as file:
            image = self.image_reading.read_rgb(file, self.tree.path(name))
        return Sample(_as_text(name), image, file_name=name)


class AnnotatedPictures:
    """The pictures of a data set with their targets.

    A picture's name is its path from the folder on that holds all of them. One whose annotation cannot be used has
    no targets, and its name for an id.

    Args:
        dataset: the data set, its label ids those of the model.

    Raises:
        ValueError: two samples are of the same picture.
    """

    has_targets = True

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset
        self.image_reading = dataset.image_reading
        dataset.skip_bad_samples = True  # an annotation that cannot be used is no reason to leave out its picture
        self.where = os.path.abspath(dataset.where) if os.path.exists(dataset.where) else dataset.where
        self.category_ids: Mapping[int, int] | None = {
            label_id: category_id for category_id, label_id in dataset.label_space.label_ids.items()
        }
        self.names = _relative([dataset.name(index) for index in range(len(dataset))])
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise ValueError(
                    f"{dataset.where}: two samples are of the picture {name}, so that one result would replace the "
                    "other. Leave one out."
                )
            seen.add(name)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def stamp(self, index: int) -> str | None:
        return _stamp(Path(self.dataset.name(index)))

    def __getitem__(self, index: int) -> Sample:
        try:
            return self.dataset[index]
        except (ValueError, OSError) as error:
            try:
                image = self.dataset.read_image(index)  # what is wrong may be the annotation, which is not needed
            except (ValueError, OSError):
                raise error from None
            return Sample(self.names[index], image, file_name=self.names[index])


def is_picture(path: Path) -> bool:
    """Whether a path is a single picture, by its name."""
    return path.is_file() and path.suffix.lower() in list_image_suffixes()


def _as_text(name: str) -> str:
    """A file's name with escape sequences for bytes that are no text: no other program could read them in JSON."""
    return name.encode("utf-8", "backslashreplace").decode()


def _stamp(path: Path) -> str | None:
    """Size and time of a file, or of the zip that it is in."""
    for place in (path, *path.parents):
        try:
            found = place.stat()
        except OSError:
            continue
        return f"{found.st_size}-{found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else None
    return None


def _picture_names(root: str) -> list[str]:
    """The pictures in a folder and below it. Links are followed as `FileTree.below` follows them."""
    suffixes = list_image_suffixes()

    def cannot_be_listed(error: OSError) -> None:
        raise error

    names = []
    places = {root: (os.path.realpath(root), 0)}  # where each folder really is, and the links on the way
    seen = {places[root][0]}
    for folder, folders, files in os.walk(root, onerror=cannot_be_listed, followlinks=True):
        real, num_links = places.pop(folder)
        inner, folders[:] = sorted(name for name in folders if not name.startswith(".")), []
        for name in inner:
            path = os.path.join(folder, name)
            is_link = os.path.islink(path)
            target = os.path.realpath(path) if is_link else os.path.join(real, name)
            leads_back = is_link and os.path.commonpath([target, real]) == target
            if not (leads_back or (num_links + is_link > 1 and target in seen)):
                seen.add(target)
                places[path] = (target, num_links + is_link)
                folders.append(name)
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        names += [
            prefix + file
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes
        ]
    names.sort()
    return names


def _relative(names: list[str]) -> list[str]:
    """Names without the folder that all of them are in, and without anything that leads out of a folder."""
    folders = {os.path.dirname(name) for name in names}
    same_kind = len({os.path.isabs(folder) for folder in folders}) == 1
    shared = os.path.commonpath(list(folders)) if same_kind else ""
    relative = (os.path.relpath(name, shared) if shared else name for name in names)
    return [
        _as_text("/".join(part for part in PurePosixPath(name).parts if part not in ("/", ".."))) for name in relative
    ]

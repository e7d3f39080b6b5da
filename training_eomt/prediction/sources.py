"""The images that a finished model is applied to: a folder of them, or a dataset with targets."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..data.base import SegmentationDataset
from ..data.files import FileTree
from ..data.images import DEFAULT_READING, ImageReading, list_image_suffixes
from ..data.samples import Sample


class ImageSource(ABC):
    """Images by index.

    Attributes:
        where: where they come from, for messages and to tell one source from another.
        names: relative paths with forward slashes, each once; text, whatever bytes the files' names are made of.
        image_reading: how images are read.
        has_targets: whether samples come with targets.
        category_ids: label id -> number of the class in the data; None where the data have no numbers of their own.
    """

    where: str
    names: list[str]
    image_reading: ImageReading
    has_targets = False
    category_ids: Mapping[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def stamp(self, index: int) -> str | None:
        """Returns what tells the file of an image from another that takes its place; None where there is no file."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Reads an image. Raises a `ValueError` or an `OSError` if it cannot be read."""


class ImageFolder(ImageSource):
    """The images in a folder and below it, sorted by path; or a single image.

    The folder is listed once, without opening a single file. What starts with a dot is left out: thumbnails, and
    what other systems leave beside their files; and so are links to folders around them.

    Args:
        path: the folder, or an image.
        image_reading: how images are read; by default upright.

    Raises:
        FileNotFoundError: no such folder or image, or no image in the folder.
        OSError: a folder in it that cannot be listed.
    """

    def __init__(self, path: str | Path, image_reading: ImageReading = DEFAULT_READING) -> None:
        path = Path(path)
        self.image_reading = image_reading
        self.where = _escape(str(path.resolve()))
        if is_image(path):
            self.tree, self.files = FileTree(path.parent), [path.name]
        elif path.is_dir():
            self.tree, self.files = FileTree(path), _list_images(str(path))
        else:
            raise FileNotFoundError(f"{path} is no folder of images, and no dataset of a known format either.")
        if not self.files:
            raise FileNotFoundError(f"{path} holds no images, and neither do the folders in it.")
        self.names = [_escape(file) for file in self.files]

    def check_not_written_into(self, directory: str | Path) -> None:
        """Raises a `ValueError` if a folder to write into is a part of this one."""
        if Path(directory).resolve().is_relative_to(self.where):
            raise ValueError(
                f"{directory} lies in {self.where}: what is written there would be taken for images the next time. "
                "Choose a folder outside."
            )

    def stamp(self, index: int) -> str | None:
        return _stamp(self.tree.root / self.files[index])

    def __getitem__(self, index: int) -> Sample:
        file_name = self.files[index]
        with self.tree.open(file_name) as file:
            image = self.image_reading.read_rgb(file, self.tree.path(file_name))
        return Sample(self.names[index], image, file_name=file_name)


class AnnotatedImages(ImageSource):
    """The images of a dataset with their targets.

    An image's name is its path in the folder that holds all of them. An image whose annotation cannot be used has no
    targets, and its name for an id.

    Args:
        dataset: the dataset, its label ids those of the model.

    Raises:
        ValueError: two samples are of the same image.
    """

    has_targets = True

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset
        self.image_reading = dataset.image_reading
        dataset.skip_bad_samples = True  # an annotation that cannot be used is no reason to leave out its image
        self.where = os.path.abspath(dataset.where) if os.path.exists(dataset.where) else dataset.where
        self.category_ids = {label_id: category_id for category_id, label_id in dataset.label_space.label_ids.items()}
        self.names = _make_relative([dataset.name(index) for index in range(len(dataset))])
        name, times = Counter(self.names).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"{dataset.where}: {times} samples are of the image {name}, so that one result would replace another. "
                "Leave all but one out."
            )

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


def is_image(path: Path) -> bool:
    """Whether a path is a single image, by its name."""
    return path.is_file() and path.suffix.lower() in list_image_suffixes()


def _escape(name: str) -> str:
    """Replaces bytes of a file's name that are no text by escape sequences: no other program could read them in
    JSON."""
    return name.encode("utf-8", "backslashreplace").decode()


def _stamp(path: Path) -> str | None:
    """Returns size and time of a file, or of the zip that it is in."""
    for place in (path, *path.parents):
        try:
            found = place.stat()
        except OSError:
            continue
        return f"{found.st_size}-{found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else None
    return None


def _list_images(root: str) -> list[str]:
    """Returns the images in a folder and below it. Links are followed as `FileTree.below` follows them."""
    suffixes = list_image_suffixes()

    def refuse(error: OSError) -> None:
        raise error

    names = []
    places = {root: (os.path.realpath(root), 0)}  # where each folder really is, and the links on the way
    seen = {places[root][0]}
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
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
        prefix = "" if folder == root else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        names += [
            prefix + file
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes
        ]
    return sorted(names)


def _make_relative(names: list[str]) -> list[str]:
    """Returns names without the folder that all of them are in, and without anything that leads out of a folder."""
    folders = {os.path.dirname(name) for name in names}
    same_kind = len({os.path.isabs(folder) for folder in folders}) == 1
    shared = os.path.commonpath(list(folders)) if same_kind else ""
    relative = [os.path.relpath(name, shared) if shared else name for name in names]
    parts = [[part for part in PurePosixPath(name).parts if part not in ("/", "..")] for name in relative]
    return [_escape("/".join(each)) for each in parts]

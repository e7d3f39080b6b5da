"""Images and annotations in two folders, paired by their names."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Collection
from pathlib import PurePosixPath

from PIL import Image

from .base import Annotation, ImageFile, SegmentationDataset
from .files import FileTree
from .samples import Sample


MAP_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif"})  # of formats that keep every value


def list_by_stem(tree: FileTree, folder: str, suffixes: Collection[str]) -> dict[str, str]:
    """
    Lists the files of a folder by their name without folder and suffix, in Unicode's composed form: systems and
    programs write accents in either.

    Raises:
        ValueError: two files share such a name.
    """
    files: dict[str, str] = {}
    for name in tree.below(folder):
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes:
            stem = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            if (other := files.setdefault(stem, name)) != name:
                raise ValueError(f"{tree.path(other)} and {tree.path(name)} are both called {stem}: remove one.")
    return files


class PairedDataset(SegmentationDataset):
    """A format in which every image has a file of annotations, or several: `maps[i]` are the files of `images[i]`."""

    maps: list[tuple[str, ...]]

    @abstractmethod
    def annotate(self, index: int, label_map: Image.Image, where: str) -> list[Annotation]:
        """Makes the segments of a sample from its first file of annotations, decoded, that messages call `where`."""

    def __getitem__(self, index: int) -> Sample:
        label_map, where = self.read_map(self.maps[index][0])
        image = self.read_image(index, (label_map.height, label_map.width), where)
        file_name = self.images[index].name
        return Sample(file_name, image, self.make_targets(self.annotate(index, label_map, where)), file_name)

    def require_folders(self, *folders: str) -> None:
        """Raises a `FileNotFoundError` if a folder is missing or empty."""
        for folder in folders:
            if not self.tree.has_folder(folder):
                raise FileNotFoundError(f"{self.tree.path(folder)} is missing or empty. Looked for: {self.LOOKS_FOR}.")

    def pair(self, images: tuple[str, dict[str, str]], *maps: tuple[str, dict[str, str]]) -> None:
        """
        Fills `images` and `maps` in the order of names, and leaves out files without counterparts.

        Args:
            images, maps: a folder for messages, and its files by the part of their names that they have in common.
        """
        image_folder, image_files = images
        stems = set(image_files)
        for folder, files in maps:
            for stem in sorted(stems ^ files.keys()):
                present, missing = (image_files, folder) if stem in stems else (files, image_folder)
                path, missing = self.tree.path(present[stem]), self.tree.path(missing)
                self.bad_sample(path, f"{path} has no counterpart in {missing}. Add it, or remove the file.")
            stems &= files.keys()
        self.images = [ImageFile(self.tree, image_files[stem]) for stem in sorted(stems)]
        self.maps = [tuple(files[stem] for _, files in maps) for stem in sorted(stems)]

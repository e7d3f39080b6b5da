"""The files of a data set, wherever they are: in folders, in zips, in zips of zips."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from .zips import ZIP_ERRORS, ZipArchive, extracted


# Where an entry of a folder is: a folder itself, a file on the disk, or a file in a zip.
Place = Literal["folder", "disk"] | ZipArchive


class FileTree:
    """The files in a folder and below it, by name: the path from the folder on, with forward slashes.

    A zip stands for what is in it, as if it were unpacked where it lies; in `coco/`, the file `train2017.zip` stands
    for `train2017/`. Nothing is unpacked, and nothing is listed before it is asked for. A zip is not looked at where a
    folder of its name lies beside it (it has been unpacked), and a file on the disk comes before one in a zip. A zip
    in a zip stands for the folder of its name; it is extracted to a temporary file when that folder is asked for.
    Hidden files and what macOS adds to zips are not seen.

    Args:
        root: the folder, or a zip.
        skip_bad_entries: leave out entries of zips that point outside their folder, and list them in `bad_entries`.

    Raises:
        FileNotFoundError: there is no such folder or zip.
        ValueError: while listing: a zip cannot be read, or has an entry that points outside its folder.
    """

    def __init__(self, root: str | Path, skip_bad_entries: bool = False) -> None:
        self.root = Path(root)
        if not (self.root.is_dir() or _is_zip(self.root)):
            raise FileNotFoundError(f"{self.root} is no folder" + (" and no zip." if self.root.exists() else "."))
        self._prefix = ""
        self._store = _Store(self.root, skip_bad_entries)

    @property
    def bad_entries(self) -> list[tuple[str, str]]:
        """Entries of zips that were left out: where, and why."""
        return self._store.bad_entries

    def subtree(self, folder: str) -> FileTree:
        """The files below a folder, named from there on."""
        tree = object.__new__(FileTree)
        tree.root, tree._store, tree._prefix = self.root / folder, self._store, self._full(folder)
        return tree

    def __contains__(self, name: str) -> bool:
        return name not in ("", ".") and self._store.place(self._full(name)) not in (None, "folder")

    def has_folder(self, folder: str) -> bool:
        """Whether there is something in a folder of this name."""
        return bool(self._store.listing(self._full(folder)))

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders directly in a folder, sorted."""
        entries = self._store.listing(self._full(folder))
        return sorted(posixpath.join(folder, entry) for entry, place in entries.items() if place == "folder")

    def files(self, folder: str = "") -> list[str]:
        """The names of the files directly in a folder, sorted."""
        entries = self._store.listing(self._full(folder))
        prefix = f"{folder}/" if folder else ""
        return sorted(prefix + entry for entry, place in entries.items() if place != "folder")

    def below(self, folder: str = "") -> list[str]:
        """The names of all files below a folder, sorted."""
        names = self.files(folder)
        for inner in self.folders(folder):
            names += self.below(inner)
        return sorted(names)

    def path(self, name: str) -> str:
        """Where a file is, for messages."""
        place = self._store.place(self._full(name))
        return place.shown(self._full(name)) if isinstance(place, ZipArchive) else str(self.root / name)

    def open(self, name: str) -> BinaryIO:
        """
        Opens a file for reading.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is in a zip and damaged, or is no regular file, such as a pipe.
        """
        full = self._full(name)
        try:  # without a listing: what is on the disk comes first
            return open_file(self._store.root / full)
        except (FileNotFoundError, NotADirectoryError):
            place = self._store.place(full)
        if not isinstance(place, ZipArchive):
            raise FileNotFoundError(f"{self.path(name)} is missing.")
        try:
            return BytesIO(place.read(full))
        except ZIP_ERRORS as error:
            raise ValueError(f"{place.shown(full)} cannot be read: {error}. Download the zip again.") from error

    def read_text(self, name: str) -> str:
        """The content of a UTF-8 text file. Raises what `open` does, and a `ValueError` if it is something else."""
        with self.open(name) as file:
            content = file.read()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path(name)} is no UTF-8 text: {error}") from error

    def _full(self, name: str) -> str:
        """A name from the root of the store on. One that leads out of it stays as it is and is found nowhere."""
        full = posixpath.normpath(posixpath.join(self._prefix, name))
        return "" if full == "." else full


def open_file(path: Path) -> BinaryIO:
    """
    Opens a file on the disk for reading.

    Raises:
        OSError: there is none, or it cannot be opened.
        ValueError: it is no regular file: opening a pipe would wait for somebody to write into it.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{path} is no regular file, but a pipe, a socket or a device. Replace it with a file.")
    return path.open("rb")


def tree_of(path: str | Path, skip_bad_entries: bool = False) -> tuple[FileTree, str]:
    """
    The tree that holds a path, and its name in there ("" for the root itself). Paths may lead into zips.

    Raises:
        FileNotFoundError: the path does not exist.
    """
    path = Path(path)
    for root in (path, *path.parents):
        if root.is_dir() or _is_zip(root):
            tree = FileTree(root, skip_bad_entries)
            name = "" if root == path else path.relative_to(root).as_posix()
            if name and name not in tree and not tree.has_folder(name):
                break
            return tree, name
    raise FileNotFoundError(f"There is no file or folder {path}.")


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


class _Store:
    """The entries of each folder of a tree, found when they are asked for."""

    def __init__(self, root: Path, skip_bad_entries: bool) -> None:
        self.root = root
        self.skip_bad_entries = skip_bad_entries
        self.bad_entries: list[tuple[str, str]] = []
        self._extracted: dict[str, Path] = {}  # a zip in a zip, as it is shown -> its temporary file
        self._forget()

    def _forget(self) -> None:
        self._listings: dict[str, dict[str, Place]] = {}
        self._archives: list[ZipArchive] = []
        self._nested: dict[str, tuple[ZipArchive, str]] = {}  # a folder -> the zip that stands for it, in a zip
        if self.root.is_file():
            self._add(ZipArchive(self.root, str(self.root), ""))

    def __getstate__(self) -> dict:
        """What another process needs; it lists what it uses anew, and shares the temporary files."""
        return {name: getattr(self, name) for name in ("root", "skip_bad_entries", "bad_entries", "_extracted")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def place(self, name: str) -> Place | None:
        folder, _, entry = name.rpartition("/")
        return self.listing(folder).get(entry)

    def listing(self, folder: str) -> Mapping[str, Place]:
        """What is directly in a folder, by its name there."""
        if folder in self._listings:
            return self._listings[folder]
        if folder.split("/")[0] == "..":
            return {}
        if folder:  # zips in the folders around may hold more of it
            self.listing(folder.rpartition("/")[0])
        if folder in self._nested:
            self._open_nested(folder)
        on_disk = self._scan(folder)
        for entry in sorted(on_disk):
            stem, suffix = os.path.splitext(entry)
            if suffix.lower() == ".zip" and on_disk[entry] == "disk" and on_disk.get(stem) != "folder":
                path = self.root / folder / entry
                self._add(ZipArchive(path, str(path), folder))
        listing: dict[str, Place] = {}
        for archive in reversed(self._archives):  # the first one found wins
            listing.update(archive.listing(folder))
        listing.update(on_disk)
        for entry, place in list(listing.items()):
            stem, suffix = os.path.splitext(entry)
            if suffix.lower() == ".zip" and isinstance(place, ZipArchive) and stem not in listing:
                listing[stem] = "folder"
                self._nested[posixpath.join(folder, stem)] = (place, posixpath.join(folder, entry))
        self._listings[folder] = listing
        return listing

    def _scan(self, folder: str) -> dict[str, Place]:
        try:
            with os.scandir(self.root / folder) as entries:
                return {
                    entry.name: "folder" if entry.is_dir() else "disk"
                    for entry in entries
                    if not entry.name.startswith(".")
                }
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def _open_nested(self, folder: str) -> None:
        outer, name = self._nested[folder]
        shown = outer.shown(name)
        if shown not in self._extracted:
            self._extracted[shown] = extracted(outer, name, owner=self)
        around = folder.rpartition("/")[0]
        archive = ZipArchive(self._extracted[shown], shown, around)
        own_folder = folder[len(around) :].strip("/")
        if set(archive.listing(around)) != {own_folder}:  # its files lie loose in it
            archive = ZipArchive(self._extracted[shown], shown, folder)
        self._add(archive)

    def _add(self, archive: ZipArchive) -> None:
        for entry in archive.outside:
            where = f"{archive.shown_as}: entry {entry!r}"
            reason = f"{where} points outside its folder. Do not trust this zip, or remove the entry."
            if not self.skip_bad_entries:
                raise ValueError(reason)
            if (where, reason) not in self.bad_entries:
                self.bad_entries.append((where, reason))
        self._archives.append(archive)

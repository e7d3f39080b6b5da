"""The files of a dataset, wherever they are: in folders, in zips, in zips of zips."""

from __future__ import annotations

import codecs
import errno
import os
import posixpath
import stat
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from .zips import LARGE_ENTRY, MAX_NESTED_DEPTH, MAX_NESTED_RATIO, MAX_NESTED_ZIPS, ZIP_ERRORS, ZipArchive


# Where an entry of a folder is: a folder itself, a file on the disk, or a file in a zip.
Place = Literal["folder", "disk"] | ZipArchive


class FileTree:
    """The files in a folder and below it, by name: the path from the folder on, with forward slashes.

    A zip stands for its content, as if it were unpacked where it lies; in `coco/`, the file `train2017.zip` stands
    for `train2017/`. Nothing is unpacked, and nothing is listed before it is asked for. A zip is not looked at where a
    folder of its name lies beside it (it has been unpacked), and a file on the disk comes before one in a zip. A zip
    in a zip stands for the folder of its name; it is extracted to a temporary file when that folder is asked for.
    Hidden files and what macOS adds to zips are not seen, and neither are links to folders around them.

    Nothing outside the root has a name here: one that is absolute, or leads out by `..`, is found nowhere. Links are
    followed wherever they lead, since whoever can make them can read what they lead to.

    Args:
        root: the folder, or a zip.
        skip_bad_entries: leave out entries of zips that point outside their folder or come twice, and list them in
            `bad_entries`.

    Raises:
        FileNotFoundError: there is no such folder or zip.
        ValueError: while listing: a zip cannot be read, or has an entry that points outside its folder or comes twice,
            or too many zips.
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
        if (prefix := self._full(folder)) is None:
            raise FileNotFoundError(f"{folder} is no folder in {self.root}.")
        tree = object.__new__(FileTree)
        tree.root, tree._store, tree._prefix = self.root / folder, self._store, prefix
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
        """The names of all files below a folder, sorted. Folders that links in linked folders lead to count once."""
        names: list[str] = []
        real = os.path.realpath(self.root / folder)
        seen = {real}
        folders = [(folder, real, 0)]  # where each really is, and the links on the way
        while folders:
            folder, real, num_links = folders.pop()
            names += self.files(folder)
            for inner in self.folders(folder):
                is_link = (self.root / inner).is_symlink()
                target = (
                    os.path.realpath(self.root / inner) if is_link else os.path.join(real, posixpath.basename(inner))
                )
                if num_links + is_link > 1 and target in seen:
                    continue  # links among a few folders make gigantic numbers of ways
                seen.add(target)
                folders.append((inner, target, num_links + is_link))
        return sorted(names)

    def path(self, name: str) -> str:
        """The path of a file for messages."""
        full = self._full(name)
        place = self._store.place(full)
        return place.shown(full) if full and isinstance(place, ZipArchive) else str(self.root / name)

    def open(self, name: str) -> BinaryIO:
        """
        Opens a file for reading.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is in a zip and damaged, or is no regular file, such as a pipe.
        """
        full = self._full(name)
        if full is None:
            raise FileNotFoundError(f"{name} is no file in {self.root}.")
        path = self._store.root / full
        if os.path.isfile(path):  # without a listing: files on the disk come first
            return open_file(path)
        place = self._store.place(full)
        if place == "disk":
            return open_file(path)  # which reports what else it is
        if not isinstance(place, ZipArchive):
            raise FileNotFoundError(f"{self.path(name)} is missing.")
        try:
            with place.open(full) as content:
                return BytesIO(content.read())
        except ZIP_ERRORS as error:
            raise ValueError(f"{place.shown(full)} cannot be read: {error}. Download the zip again.") from error

    def read_bytes(self, name: str) -> bytes:
        """The content of a file. Raises what `open` does."""
        with self.open(name) as file:
            return file.read()

    def read_text(self, name: str) -> str:
        """The content of a text file. Raises what `open` and [`decode_text`] do."""
        return decode_text(self.read_bytes(name), self.path(name))

    def _full(self, name: str) -> str | None:
        """A name from the root of the store on; None if it leads out of it."""
        full = posixpath.normpath(posixpath.join(self._prefix, name))
        if full.startswith("/") or full.split("/", 1)[0] == "..":
            return None
        return "" if full == "." else full


def decode_text(content: bytes, where: str) -> str:
    """
    Decodes the text of a file: UTF-8, or UTF-16 with a byte order mark, as some programs for Windows write it.

    Raises:
        ValueError: it is something else.
    """
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no UTF-8 text: {error}. Save it as UTF-8.") from error


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


def open_tree(path: str | Path | FileTree, skip_bad_entries: bool = False) -> FileTree:
    """
    Opens the files of a folder or a zip, which may lie in a zip itself.

    Raises:
        FileNotFoundError: the path does not exist.
    """
    if isinstance(path, FileTree):
        return path
    path = Path(path)
    for root in (path, *path.parents):
        if root.is_dir() or _is_zip(root):
            tree = FileTree(root, skip_bad_entries)
            name = path.relative_to(root).as_posix()
            if root == path:
                return tree
            if name in tree or tree.has_folder(name):
                return tree.subtree(name)
            break
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
        """The state for another process, which lists folders again and shares the temporary files."""
        return {name: getattr(self, name) for name in ("root", "skip_bad_entries", "bad_entries", "_extracted")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def place(self, name: str | None) -> Place | None:
        if name is None:
            return None
        folder, _, entry = name.rpartition("/")
        return self.listing(folder).get(entry)

    def listing(self, folder: str | None) -> Mapping[str, Place]:
        """Lists the entries directly in a folder, by their names there."""
        if folder is None:
            return {}
        if folder in self._listings:
            return self._listings[folder]
        if folder:  # zips in the folders around may hold more of it
            self.listing(folder.rpartition("/")[0])
        if folder in self._nested:
            self._open_nested(folder)
        on_disk = self._scan(folder)
        for entry in sorted(on_disk):
            stem, suffix = os.path.splitext(entry)
            if suffix.lower() == ".zip" and on_disk[entry] == "disk" and on_disk.get(stem) != "folder":
                path = self.root / folder / entry
                if not path.is_file():  # a pipe, or a link that leads nowhere
                    continue
                self._add(ZipArchive(path, str(path), folder))
        listing: dict[str, Place] = {}
        for archive in reversed(self._archives):  # the first one found wins
            listing.update(archive.listing(folder))
        listing.update(on_disk)
        for entry, place in list(listing.items()):
            stem, suffix = os.path.splitext(entry)
            if suffix.lower() != ".zip" or stem in listing:
                continue
            if isinstance(place, ZipArchive) and place.depth < MAX_NESTED_DEPTH:
                listing[stem] = "folder"
                self._nested[posixpath.join(folder, stem)] = (place, posixpath.join(folder, entry))
        self._listings[folder] = listing
        return listing

    def _scan(self, folder: str) -> dict[str, Place]:
        places: dict[str, Place] = {}
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not _is_folder(entry):
                        places[entry.name] = "disk"
                    elif not (entry.is_symlink() and _leads_back(self.root, folder, entry.path)):
                        places[entry.name] = "folder"
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a name that no file can have
            return {}
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return {}
        return places

    def _open_nested(self, folder: str) -> None:
        outer, name = self._nested[folder]
        shown = outer.shown(name)
        if shown not in self._extracted:
            self._check_nested(shown, outer, name)
            self._extracted[shown] = outer.extract(name, owner=self)
        around = folder.rpartition("/")[0]
        archive = ZipArchive(self._extracted[shown], shown, around, outer.depth + 1)
        own_folder = folder[len(around) :].strip("/")
        if set(archive.listing(around)) != {own_folder}:  # its files lie loose in it
            archive = ZipArchive(self._extracted[shown], shown, folder, outer.depth + 1)
        self._add(archive)

    def _check_nested(self, shown: str, outer: ZipArchive, name: str) -> None:
        """Raises a `ValueError` if there are more zips in zips than data have, or larger ones."""
        try:
            needed = outer.size(name) + sum(path.stat().st_size for path in self._extracted.values())
        except ValueError as error:
            raise ValueError(f"{shown} cannot be extracted: {error}.") from error
        on_disk = sum(archive.path.stat().st_size for archive in self._archives if archive.depth == 0)
        if len(self._extracted) == MAX_NESTED_ZIPS or needed > LARGE_ENTRY + MAX_NESTED_RATIO * on_disk:
            raise ValueError(
                f"{shown} is one zip in a zip too many: {len(self._extracted) + 1} of them hold {needed:,} bytes. At "
                f"most {MAX_NESTED_ZIPS} are read, of {MAX_NESTED_RATIO} times the size of the zips that they are in. "
                "Unpack the outer zip."
            )

    def _add(self, archive: ZipArchive) -> None:
        for entry, fault in archive.bad_entries:
            where = f"{archive.shown_as}: entry {entry!r}"
            reason = f"{where} {fault}."
            if not self.skip_bad_entries:
                raise ValueError(reason)
            if (where, reason) not in self.bad_entries:
                self.bad_entries.append((where, reason))
        self._archives.append(archive)


def _leads_back(root: str | Path, folder: str, link: str) -> bool:
    """
    Whether a link leads to the folder that it is in or to one around it, by whatever links that was reached.

    Args:
        root: where the way to it begins.
        folder: the folder that it is in, from there on, with forward slashes.
        link: its path.
    """
    parts = folder.split("/") if folder else []
    around = [os.path.realpath(os.path.join(root, *parts[:number])) for number in range(len(parts) + 1)]
    target = os.path.realpath(link)
    return any(os.path.commonpath([target, path]) == target for path in around)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

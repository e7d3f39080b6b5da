"""Zip files read in place, by any number of processes."""

from __future__ import annotations

import io
import os
import posixpath
import re
import shutil
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal


# What zipfile raises for entries that are damaged, encrypted or compressed in a way it does not know.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError)


class ZipArchive:
    """What is in a zip, as if it were unpacked in the folder `mount`; names start with that folder.

    Args:
        path: the zip.
        shown_as: what messages call it.
        mount: the folder that it lies in, with forward slashes.

    Raises:
        ValueError: it is no zip.
    """

    def __init__(self, path: Path, shown_as: str, mount: str) -> None:
        self.path, self.shown_as, self.mount = path, shown_as, mount
        self.outside: list[str] = []  # entries that point outside the folder
        self._folders: dict[str, dict[str, ZipArchive | Literal["folder"]]] = {}
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            self._add(info)

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(_ProcessFile(self.path))
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{self.shown_as} cannot be read as a zip ({error}): it may be damaged or only half of it was "
                "downloaded. Replace or remove it."
            ) from error

    def listing(self, folder: str) -> Mapping[str, ZipArchive | Literal["folder"]]:
        """What is directly in a folder, by its name there."""
        return self._folders.get(folder, {})

    def shown(self, name: str) -> str:
        """A file for messages."""
        return posixpath.join(self.shown_as, posixpath.relpath(name, self.mount or "."))

    def read(self, name: str) -> bytes:
        """The content of a file. Raises one of `ZIP_ERRORS` if it is damaged."""
        return self._zip.read(self._infos[name])

    def copy(self, name: str, file: BinaryIO) -> None:
        """Writes the content of a file into another. Raises one of `ZIP_ERRORS` if it is damaged."""
        with self._zip.open(self._infos[name]) as content:
            shutil.copyfileobj(content, file, 2**20)

    def _add(self, info: zipfile.ZipInfo) -> None:
        entry = info.filename.replace("\\", "/")  # as some programs for Windows write it
        if entry.startswith("/") or re.match("[A-Za-z]:", entry) or ".." in entry.split("/"):
            self.outside.append(info.filename)
            return
        hidden = any(part.startswith(".") and part != "." for part in entry.split("/"))
        if info.is_dir() or entry.endswith("/") or hidden or entry.startswith("__MACOSX/"):
            return
        name = posixpath.normpath(posixpath.join(self.mount, entry))
        self._infos[name] = info
        folder, _, file = name.rpartition("/")
        if folder not in self._folders:
            self._add_folder(folder)
        self._folders[folder][file] = self

    def _add_folder(self, folder: str) -> None:
        self._folders[folder] = {}
        while folder:
            around, _, name = folder.rpartition("/")
            self._folders.setdefault(around, {})[name] = "folder"
            folder = around


class _ProcessFile(io.RawIOBase):
    """A file that each process opens for itself, so that a fork may go on reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._open()

    def _open(self) -> None:
        self._file = self._path.open("rb")
        self._process = os.getpid()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self._path.stat().st_size
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        if self._process != os.getpid():
            self._open()  # the parent's is left alone: both would move one position
        self._file.seek(self._position)
        length = self._file.readinto(buffer)
        self._position += length
        return length


def extracted(archive: ZipArchive, name: str, owner: object) -> Path:
    """
    Extracts a file to a temporary one, which goes with its owner, and at the latest with this process.

    Raises:
        ValueError: the file is damaged.
    """
    descriptor, path = tempfile.mkstemp(prefix="eomt-", suffix=".zip")
    weakref.finalize(owner, _remove, path, os.getpid())
    with os.fdopen(descriptor, "wb") as file:
        try:
            archive.copy(name, file)
        except ZIP_ERRORS as error:
            raise ValueError(f"{archive.shown(name)} cannot be extracted to {path}: {error}.") from error
    return Path(path)


def _remove(path: str, process: int) -> None:
    if process == os.getpid():  # not a worker that was forked off
        Path(path).unlink(missing_ok=True)

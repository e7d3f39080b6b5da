"""Zip files read in place, by any number of processes."""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import shutil
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal


# What zipfile raises for zips and entries that are damaged, encrypted or compressed in a way it does not know.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,
    NotImplementedError,
    EOFError,
    OSError,
    ValueError,
)

# An entry of more bytes than this, and of more times its size in the zip than this, is made to fill the memory.
# Label maps of one value that are stored without compression of their own reach the factor, but not the size.
LARGE_ENTRY = 2**28
MAX_RATIO = 100
# Zips in zips are compressed already: all of them together are hardly larger than the zip that they are in.
MAX_NESTED_DEPTH, MAX_NESTED_ZIPS, MAX_NESTED_RATIO = 3, 64, 10


class ZipArchive:
    """The files of a zip, as if it were unpacked in the folder `mount`; names start with that folder.

    Args:
        path: the zip.
        shown_as: its path for messages.
        mount: the folder that it lies in, with forward slashes.
        depth: in how many zips it is.

    Raises:
        ValueError: it is no zip.
    """

    def __init__(self, path: Path, shown_as: str, mount: str, depth: int = 0) -> None:
        self.path, self.shown_as, self.mount, self.depth = path, shown_as, mount, depth
        self.bad_entries: list[tuple[str, str]] = []  # entries that are left out, and why
        self._folders: dict[str, dict[str, ZipArchive | Literal["folder"]]] = {}
        self._infos: dict[str, zipfile.ZipInfo] = {}
        try:
            self._zip, self._process = zipfile.ZipFile(path), os.getpid()
        except ZIP_ERRORS as error:
            raise ValueError(
                f"{shown_as} cannot be read as a zip ({error}): it may be damaged or only half of it was downloaded. "
                "Replace or remove it."
            ) from error
        for info in self._zip.infolist():
            self._add(info)

    def listing(self, folder: str) -> Mapping[str, ZipArchive | Literal["folder"]]:
        """The entries directly in a folder, by their names there."""
        return self._folders.get(folder, {})

    def shown(self, name: str) -> str:
        """A file for messages."""
        return posixpath.join(self.shown_as, posixpath.relpath(name, self.mount or "."))

    def size(self, name: str) -> int:
        """Bytes of a file once it is unpacked. A `ValueError` if it is a bomb; no more than these are ever read."""
        info = self._infos[name]
        if info.file_size > max(LARGE_ENTRY, MAX_RATIO * info.compress_size):
            raise ValueError(
                f"its {info.compress_size:,} bytes unpack to {info.file_size:,}, as if it were made to fill the "
                "memory; if it is as it should be, unpack the zip yourself"
            )
        return info.file_size

    def open(self, name: str) -> IO[bytes]:
        """Opens a file. This and reading it raise one of `ZIP_ERRORS` if it is damaged or a bomb."""
        self.size(name)
        if self._process != os.getpid():  # forked off: with the parent's file, both would move one position
            self._zip.fp, self._process = self.path.open("rb"), os.getpid()
        return self._zip.open(self._infos[name])

    def extract(self, name: str, owner: object) -> Path:
        """
        Extracts a file to a temporary one, which goes with its owner, and at the latest with this process.

        Where the system shows the open files of a process under `/proc`, the file has no other name: it goes however
        the process ends, and until then other processes can open it by the path that is returned.

        Raises:
            ValueError: the file is damaged, or the disk is full.
        """
        descriptor, path = tempfile.mkstemp(prefix="eomt-", suffix=".zip")
        nameless = f"/proc/{os.getpid()}/fd/{descriptor}"
        if os.path.exists(nameless):
            os.unlink(path)
            path = nameless
        weakref.finalize(owner, _remove, path, descriptor, os.getpid())
        try:
            with open(descriptor, "wb", closefd=False) as file, self.open(name) as content:
                shutil.copyfileobj(content, file, 2**20)
        except ZIP_ERRORS as error:
            raise ValueError(f"{self.shown(name)} cannot be extracted: {error}.") from error
        return Path(path)

    def _add(self, info: zipfile.ZipInfo) -> None:
        entry = info.filename.replace("\\", "/")  # as some programs for Windows write it
        if entry.startswith("/") or re.match("[A-Za-z]:", entry) or ".." in entry.split("/"):
            self.bad_entries.append(
                (info.filename, "points outside its folder. Do not trust this zip, or remove the entry")
            )
            return
        hidden = any(part.startswith(".") and part != "." for part in entry.split("/"))
        if info.is_dir() or entry.endswith("/") or hidden or entry.startswith("__MACOSX/"):
            return
        name = posixpath.normpath(posixpath.join(self.mount, entry))
        if name in self._infos:
            self.bad_entries.append((info.filename, "comes twice. Remove one of the two"))
            return
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


def _remove(path: str, descriptor: int, process: int) -> None:
    if process != os.getpid():  # a worker that was forked off
        return
    os.close(descriptor)
    if not path.startswith("/proc/"):
        Path(path).unlink(missing_ok=True)

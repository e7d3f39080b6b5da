"""The files of a data set, wherever they are."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import BinaryIO


class FileTree:
    """The files in a folder and below it, by name: the path from the folder on, with forward slashes.

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is no folder.")

    @cached_property
    def names(self) -> frozenset[str]:
        """All files, listed once."""
        return frozenset(
            (Path(folder) / file).relative_to(self.root).as_posix()
            for folder, _, files in os.walk(self.root, followlinks=True)
            for file in files
        )

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def below(self, folder: str) -> list[str]:
        """The names of all files below a folder, sorted."""
        return sorted(name for name in self.names if name.startswith(f"{folder}/"))

    def has_folder(self, folder: str) -> bool:
        """Whether there is a file below a folder of this name."""
        return any(name.startswith(f"{folder}/") for name in self.names)

    def path(self, name: str) -> str:
        """Where a file is, for messages."""
        return str(self.root / name)

    def open(self, name: str) -> BinaryIO:
        """Opens a file for reading. Raises a `FileNotFoundError` if there is none."""
        return (self.root / name).open("rb")

"""A folder that several processes write into, any of which may be killed."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..disk import write_whole


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


# Seconds: another run that ends removes what is left for a moment, and the DataLoader's workers of a killed one, which
# share its lock, look every five seconds whether it is there.
PATIENCE = 10.0
DRAFTS = ".drafts"  # for each process a folder of files that are not complete, and a file that it locks


class SharedFolder:
    """Files appear in it as a whole. Threads may share one.

    Args:
        directory: the folder; made with the first file.
        process: the name of this process among those that write, such as "0-of-2".
    """

    def __init__(self, directory: Path, process: str) -> None:
        self.directory = directory
        self.process = process
        self._drafts = directory / DRAFTS
        self._numbers = itertools.count()

    def write(self, name: str, write: Callable[[Path], object], is_synced: bool = False) -> int:
        """
        Writes a file, which appears under its name once it is complete.

        Args:
            name: its path in the folder.
            write: writes to the path that it is given.
            is_synced: whether to wait until the file is on the disk.

        Returns:
            The size of the file in bytes.
        """
        path = self.directory / name
        draft = self._drafts / self.process / f"{os.getpid()}.{next(self._numbers)}"
        draft.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(path, write, draft, is_synced)

    def write_text(self, name: str, parts: Iterable[str]) -> int:
        """Writes an ASCII file and waits until it is on the disk; returns its size in bytes."""

        def write(draft: Path) -> None:
            with draft.open("w", encoding="ascii") as file:
                file.writelines(parts)

        return self.write(name, write, is_synced=True)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """
        Keeps other runs from writing as the same process, and in the end removes drafts that nobody is writing.

        Raises:
            OSError: another run writes as this process.
        """
        self._drafts.mkdir(parents=True, exist_ok=True)
        with self._open_lock(self.process) as file:
            if _lock(file, PATIENCE) is False:
                raise OSError(
                    f"Another run is writing predictions into {self.directory}. Wait until it has ended, or choose "
                    "another folder."
                )
            try:
                yield
            finally:
                for folder in self.list_drafts():
                    with self._open_lock(folder.name) as other:
                        if folder.name == self.process or _lock(other):
                            shutil.rmtree(folder)

    def list_drafts(self) -> list[Path]:
        """Returns the folders with drafts, of processes that are running or were killed."""
        return sorted(path for path in self._drafts.glob("*-of-*") if path.is_dir())

    def _open_lock(self, process: str) -> BinaryIO:
        return (self._drafts / f"{process}.lock").open("ab")


def _lock(file: BinaryIO, patience: float = 0.0) -> bool | None:
    """
    Locks a file until it is closed. False if another process has had it locked for as long as `patience` (in seconds),
    None where nothing can be locked.
    """
    if fcntl is None:
        return None
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError:  # some network's disks
            return None
        else:
            return True

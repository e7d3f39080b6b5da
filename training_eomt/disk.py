"""Files that are there as a whole or not at all, and whether there is room for them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


MIN_FREE = 16 << 20  # bytes: less is a full disk


def check_writable(folder: Path) -> None:
    """
    Writes a little where a folder is or will be, and removes it again.

    Raises:
        OSError: the folder or one above it is a file, may not be written to, or its disk is full or read-only.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file: choose another folder than {folder}.")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error.strerror}. Choose another folder.") from error


def check_room(folder: Path, needed: int = MIN_FREE, advice: str = "choose another folder") -> None:
    """
    Finds out whether results can be written into a folder, and leaves nothing behind.

    Args:
        folder: the folder; it need not exist.
        needed: bytes that have to be free.
        advice: what to do besides making room.

    Raises:
        OSError: nothing can be written there, or there is not enough room.
    """
    check_writable(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e6:.0f} MB free, and {needed / 1e6:.0f} MB are needed: make room, or {advice}."
        )


def draft_path(path: Path) -> Path:
    """Where a file is written before it is complete."""
    return path.with_name(f".{path.name}.draft")


def write_whole(path: Path, write: Callable[[Path], object], draft: Path | None = None, is_synced: bool = True) -> int:
    """
    Writes a file, which appears under its name once it is complete and on the disk, or not at all.

    Args:
        path: the file; one that is there is replaced.
        write: writes to the path that it is given.
        draft: this path, on the same disk, which no other process writes to at the same time; by default beside the
            file.
        is_synced: whether to wait until the file is on the disk.

    Returns:
        The size of the file in bytes.
    """
    draft = draft or draft_path(path)
    try:
        write(draft)
        if is_synced:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        size = draft.stat().st_size
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return size

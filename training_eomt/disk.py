"""Files that are there as a whole or not at all, and whether there is room for them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


MIN_FREE = 16 << 20  # bytes: less is a full disk


def check_writable(folder: Path, needed: int = MIN_FREE) -> None:
    """
    Finds out whether files can be written into a folder, and leaves nothing behind.

    Args:
        folder: the folder. If it does not exist, it must be possible to make it where it is to be.
        needed: bytes that have to be free.

    Raises:
        OSError: nothing can be written there, or there is not enough room.
    """
    try:
        present = folder
        while not present.exists():
            present = present.parent
        if not present.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{present} is a file")
        with tempfile.TemporaryFile(dir=present) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"nothing can be written into {folder} ({error.strerror}): choose another folder",
        ) from error
    free = shutil.disk_usage(present).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e6:.0f} MB free, and {needed / 1e6:.0f} MB are needed: make room, or choose "
            "another folder."
        )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """
    Has a file written, which appears under its name once it is complete and on the disk, or not at all.

    Args:
        path: the file; one that is there is replaced. No other process writes it at the same time.
        write: writes to the path that it is given, beside the file.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise

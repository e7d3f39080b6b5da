"""Whether results can be written where they are to go."""

import tempfile
from pathlib import Path


def check_writable(folder: Path) -> None:
    """
    Writes a little where a folder is or will be, and removes it again.

    Raises:
        OSError: the folder or one above it is a file, may not be written to, or its disk is full or read-only.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file: choose another --output_dir than {folder}.")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error.strerror}. Choose another --output_dir.") from error

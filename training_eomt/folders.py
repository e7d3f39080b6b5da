"""Drafts of a training, what a full disk ends in, and what is deleted."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


DRAFT = ".draft"  # in a folder, what is going to be in it
_OF_TORCH_SAVE = ("PytorchStreamWriter", "inline_container", "iostream", "Parent directory")


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """
    An empty folder on the disk of `folder`, in it, for what is to be published there; several processes that write one
    model know its name. What is left of it in the end is deleted; what a killed process left, the next draft deletes.

    Args:
        folder: where it will be published; made if it does not exist.
    """
    draft = folder / DRAFT
    discard(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        discard(draft)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What writing a model ends in where a disk is full, or cannot be written to, is an `OSError` with the folder."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # PyTorch has no error of its own for it.
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in _OF_TORCH_SAVE):
            raise
        raise OSError(f"{folder} cannot be written: {error}") from error


def discard(path: Path) -> None:
    """Deletes a file or a folder; of a link, the link. That it does not exist is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

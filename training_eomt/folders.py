"""A folder of a model that is replaced by another: what is in it is never a part of each."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


CONFIG = "config.json"  # without it, nothing loads a folder
DRAFT = ".draft"  # in a folder, what is going to be in it
_OF_TORCH_SAVE = ("PytorchStreamWriter", "inline_container", "iostream", "Parent directory")
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """
    An empty folder on the disk of `folder`, in it, for what is to be published there. What is left of the draft in the
    end is deleted; what a process that was killed left there, the next draft deletes.

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


def publish(draft: Path, folder: Path) -> None:
    """
    Moves the files of a finished draft into its place, the weights of a former model out of it.

    At whatever moment the process is killed, the folder holds the former model, none that loads, or the new one: the
    former configuration goes first, the new one comes last.

    Args:
        draft: a folder of files, `config.json` among them, on the disk of `folder`.
        folder: its place; if it does not exist, the draft becomes it at once.
    """
    if not folder.exists():
        draft.rename(folder)
        return
    (folder / CONFIG).unlink(missing_ok=True)
    files = sorted(file.name for file in draft.iterdir())
    for pattern in _WEIGHTS:
        for former in folder.glob(pattern):
            if former.name not in files:
                former.unlink()
    for name in sorted(files, key=lambda name: name == CONFIG):
        (draft / name).replace(folder / name)


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

"""Folders of models: written beside and moved into place, so that a kill leaves the old or the new, or none."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG = "config.json"  # without it nothing loads a folder
_DRAFT = "draft"
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")


@contextmanager
def draft_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """
    A folder to write to, not there yet, which is removed if it is still there at the end.

    Those that killed processes have left are removed too: of a name that begins with `prefix`, with a draft or nothing
    inside. Those of processes that are alive stay: several may save one model at the same time.

    Args:
        parent: the folder in which it is, of the same disk as the place to which it will be moved.
        prefix: how its name begins.
    """
    for left in parent.glob(f"{prefix}????????"):
        if left.is_dir() and not left.is_symlink():
            with _held(left) as is_left:
                if is_left and {path.name for path in left.iterdir()} <= {_DRAFT, "export"}:
                    shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder, _held(Path(folder)):
        yield Path(folder) / _DRAFT


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Keeps others from holding a folder; False if another does, or it is gone. Without locks, nobody does."""
    if fcntl is None:
        yield True
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:  # some network's disks
            yield True
        else:
            yield True
    finally:
        os.close(descriptor)


def publish(draft: Path, folder: Path, last: str | None = None) -> None:
    """
    Puts a finished draft into its place: it becomes the folder, or its files replace those in it, and weights of which
    it has others are removed.

    Between the first and the last file the folder holds no `config.json`: whoever loads it then, or after a kill, is
    told so, and does not get one model's weights with the other's settings.

    Args:
        draft: a folder of files, on the disk of `folder`.
        folder: its place; other files in it stay.
        last: name of a file that comes after `config.json`.

    Raises:
        FileExistsError: the folder has folders where the draft has files; nothing is moved.
    """
    if not folder.exists():
        draft.rename(folder)
        return
    names = sorted(path.name for path in draft.iterdir() if path.is_file())
    if in_the_way := [name for name in names if (folder / name).is_dir()]:
        raise FileExistsError(f"{folder} has folders where the model has files: {', '.join(in_the_way)}.")
    if CONFIG in names:
        (folder / CONFIG).unlink(missing_ok=True)
    stale = {path.name for pattern in _WEIGHTS for path in folder.glob(pattern)} - set(names)
    for name in sorted(names, key=lambda name: (name == last, name == CONFIG, not name.endswith(".safetensors"))):
        if name == CONFIG:  # nothing of the former model is left when there is one again
            _remove(folder / name for name in stale if _has_weights(names))
        (draft / name).replace(folder / name)


def _has_weights(names: Iterable[str]) -> bool:
    return any(Path(name).match(pattern) for name in names for pattern in _WEIGHTS)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def give_usual_mode(weights: Iterable[Path]) -> None:
    """Lets those read and write weights who may the configuration beside them: safetensors asks no umask."""
    for file in weights:
        shutil.copymode(file.with_name(CONFIG), file)


__all__ = ["CONFIG", "draft_folder", "give_usual_mode", "publish"]

"""Folders of models: a draft is moved into place, so that a kill leaves the old model, the new one or none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


CONFIG = "config.json"  # without it nothing loads a folder
DRAFT = ".draft"  # a folder in the folder of a model, which holds what is going to be in it
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_IN_TORCH_ERRORS = ("PytorchStreamWriter", "inline_container", "iostream", "Parent directory")


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """
    Makes an empty folder in `folder`, for a model that [`publish_draft`] will move there. Several processes that write
    one model know its name. It is deleted in the end; what a killed process left of it, the next draft deletes.

    Args:
        folder: where the model will be; made if it does not exist, and deleted again if nothing was moved there.
    """
    is_new = not folder.exists()
    draft = folder / DRAFT
    discard(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        discard(draft)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def publish_draft(draft: Path, folder: Path, last: str | None = None) -> None:
    """
    Moves a finished draft into its place: its files replace those in the folder, and weights of which it has others
    are deleted.

    Between the first and the last file the folder holds no `config.json`: whoever loads it then, or after a kill, is
    told so, and does not get one model's weights with the other's settings.

    Args:
        draft: a folder of files, on the disk of `folder`.
        folder: their place; other files in it stay.
        last: name of a file that comes after `config.json`.

    Raises:
        FileExistsError: the folder has folders where the draft has files; nothing is moved.
    """
    names = sorted(path.name for path in draft.iterdir() if path.is_file())
    if in_the_way := [name for name in names if (folder / name).is_dir()]:
        raise FileExistsError(f"{folder} has folders where the model has files: {', '.join(in_the_way)}.")
    if CONFIG in names:
        (folder / CONFIG).unlink(missing_ok=True)
    stale = {path.name for pattern in _WEIGHTS for path in folder.glob(pattern)} - set(names)
    has_weights = any(Path(name).match(pattern) for name in names for pattern in _WEIGHTS)
    for name in sorted(names, key=lambda name: (name == last, name == CONFIG, not name.endswith(".safetensors"))):
        if name == CONFIG and has_weights:  # nothing of the former model is left when there is one again
            for file in stale:
                (folder / file).unlink(missing_ok=True)
        (draft / name).replace(folder / name)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raises an `OSError` that names the folder for whatever a full or unwritable disk makes writing a model raise."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # PyTorch has no error of its own for it.
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in _IN_TORCH_ERRORS):
            raise
        raise OSError(f"{folder} cannot be written: {error}") from error


def discard(path: Path) -> None:
    """Deletes a file or a folder; of a link, the link. That it does not exist is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

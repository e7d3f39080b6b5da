"""The folder that an export writes: what may be replaced, and how a new one takes its place."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


MANIFEST = "export.json"  # without it nothing loads a folder
OWN = "eomt"  # what this project adds to Transformers' manifest
_DRAFT = ".draft-"


def check_target(folder: Path) -> None:
    """
    Checks that a folder is new, empty or an earlier export.

    Raises:
        FileExistsError: it holds something else, or is a file, or is to be in one.
    """
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise FileExistsError(f"{folder} cannot be made: {above} is a file.")
    if not folder.exists() or (folder.is_dir() and not _list_files(folder)):
        return
    if not folder.is_dir() or read_own(folder) is None:
        what = "holds something else than an export" if folder.is_dir() else "is a file"
        raise FileExistsError(f"{folder} {what}: choose another folder.")


def read_own(folder: Path) -> dict[str, Any] | None:
    """Returns what `export.json` says about an export of this project; None if there is none."""
    try:
        own = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[OWN]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return own if isinstance(own, dict) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes settings, without the names of code that does not lie beside them."""
    content = {name: value for name, value in content.items() if name != "auto_map"}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """Makes an empty folder in `folder`, which is deleted in the end, and with it `folder` if it is new and empty."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=_DRAFT) as draft:
            yield Path(draft)
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def publish_draft(draft: Path, folder: Path) -> None:
    """
    Moves the files of a finished draft into `folder`, in place of those of an earlier export. Other files stay.

    Between the first and the last one there is no `export.json`, so that nobody loads one export's graph with the
    other's settings.

    Raises:
        FileExistsError: there is a folder where a file is to be; nothing is moved.
    """
    names = sorted((path.name for path in draft.iterdir()), key=lambda name: name == MANIFEST)
    former = (read_own(folder) or {}).get("files")
    replaced = set(former if isinstance(former, list) else ()) & set(_list_files(folder))
    if in_the_way := [name for name in names if (folder / name).is_dir() and name not in replaced]:
        raise FileExistsError(f"{folder} has folders where the export has files: {', '.join(in_the_way)}.")
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in (folder / name for name in replaced - {MANIFEST}):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in names:
        (draft / name).replace(folder / name)


def _list_files(folder: Path) -> list[str]:
    """Names what lies in a folder, but for the drafts of processes that were killed."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(_DRAFT)]

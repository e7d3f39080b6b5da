"""Files of a dataset by the names in its descriptions, which may come from another machine."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from .files import FileTree


class Located(NamedTuple):
    """A folder of files that another file lists by names, such as a JSON file of COCO.

    Args:
        tree: where the folder is. No name leads out of it.
        folder: its name there.
        by_last_part: whether the folders in the names may differ from the folders here.
    """

    tree: FileTree
    folder: str
    by_last_part: bool = False

    def find(self, name: str) -> str | None:
        """Finds the file of the tree that a name means; None if there is none."""
        for reading in _list_readings(name, self.by_last_part):
            if (path := posixpath.normpath(posixpath.join(self.folder, reading))) in self.tree:
                return path
        return None


def _list_readings(name: str, by_last_part: bool) -> Iterator[str]:
    """
    Lists the possible meanings of a name, the likeliest first.

    `\\` is `/`, and accents may be written in either of Unicode's ways, if only so the file is found. A path of the
    machine that the file comes from stands for its last parts.
    """
    yield name
    plain = name.replace("\\", "/")
    forms = list(dict.fromkeys([plain, unicodedata.normalize("NFC", plain), unicodedata.normalize("NFD", plain)]))
    yield from forms
    if by_last_part or re.match(r"/|\.\.?/|[A-Za-z]:", plain):
        for form in forms:
            yield from list_last_parts(form)


def list_last_parts(path: str) -> list[str]:
    """Lists a path without its first folder, without its first two, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]

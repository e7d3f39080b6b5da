"""Names of the files about images, on any file system and whatever the images are called."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..data.images import list_image_suffixes


MAX_NAME_BYTES = 255  # of one name, on nearly every file system
HASH_DIGITS = 12
# What Windows does not take in a name, or takes for a device.
_FORBIDDEN = re.compile(r'[<>:"\\|?*]')
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def make_safe_paths(names: Sequence[str], endings: Sequence[str] = ("",)) -> list[str]:
    """
    Returns for each image the path of its files, without their endings: the image's own name wherever possible.

    It goes without the suffix of an image file, so that an ending is the only one: `street/1` for `street/1.jpg`.
    Only images of a folder that differ in nothing else keep it: `street/1.jpg` and `street/1.png`.

    What is not possible in a name is replaced, and a hash tells the image from others. That is so where the name is
    too long with an ending, has control characters or bytes that are no text, or is not allowed on Windows, and where
    it would be the file or the folder of another image, also on file systems that ignore case or the form of accents.

    Args:
        names: relative paths with forward slashes, each once.
        endings: what is added to a path; each is used in a folder of its own.
    """
    longest = max(len(os.fsencode(ending)) for ending in endings)
    folders: dict[str, str] = {"": ""}
    paths = []
    for name in _drop_suffixes(names):
        folder, _, last = name.rpartition("/")
        if folder not in folders:
            folders[folder] = "/".join(_make_safe(part, MAX_NAME_BYTES) for part in folder.split("/")) + "/"
        paths.append(folders[folder] + _make_safe(last, MAX_NAME_BYTES - longest))

    used_folders: set[str] = set()
    for folder in folders.values():
        parts = _fold(folder).split("/")[:-1]
        used_folders.update("/".join(parts[: end + 1]) for end in range(len(parts)))
    taken: set[str] = set()
    for index in sorted(range(len(names)), key=names.__getitem__):  # whatever the order in which they are given
        key = _fold(paths[index])
        if key in taken or any(key + ending in used_folders for ending in endings):
            folder, slash, last = paths[index].rpartition("/")
            paths[index] = folder + slash + _add_hash(last, names[index], MAX_NAME_BYTES - longest)
            key = _fold(paths[index])
        taken.add(key)
    return paths


def _drop_suffixes(names: Sequence[str]) -> list[str]:
    """Returns the names without the suffixes of image files, apart from names that would be those of others then."""
    suffixes = list_image_suffixes()
    stems = [stem if suffix.lower() in suffixes else stem + suffix for stem, suffix in map(os.path.splitext, names)]
    keys = [_fold(stem) for stem in stems]
    times, whole = Counter(keys), {_fold(name) for name in names}
    return [
        stem if times[key] == 1 and key not in whole else name
        for name, stem, key in zip(names, stems, keys, strict=True)
    ]


def _make_safe(name: str, max_bytes: int) -> str:
    """Returns a name of a file or a folder that every file system takes."""
    text = "".join("_" if unicodedata.category(character)[0] == "C" else character for character in name)
    text = _FORBIDDEN.sub("_", text)
    if text.endswith((".", " ")):
        text = text[:-1] + "_"
    if _DEVICE.fullmatch(text):
        text = f"_{text}"
    if text == name and len(text.encode()) <= max_bytes:
        return text
    return _add_hash(text, name, max_bytes)


def _add_hash(text: str, name: str, max_bytes: int) -> str:
    """Returns `text` with a hash of `name` before its suffix, cut to `max_bytes`."""
    stem, suffix = os.path.splitext(text)
    suffix = suffix if len(suffix.encode()) <= 16 else ""
    ending = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:HASH_DIGITS]}{suffix}"
    room = max_bytes - len(ending.encode())
    return stem.encode()[:room].decode(errors="ignore") + ending


def _fold(path: str) -> str:
    """Returns what file systems compare that ignore case or the form of accents."""
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()

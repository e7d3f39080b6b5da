"""Names of classes: from a file, from a folder, or made up from their numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from .files import FileTree


CLASS_NAME_FILES = ("classes.txt", "class_names.txt", "names.txt", "labels.txt", "id2label.json", "objectInfo150.txt")


def read_class_names(path: Path) -> list[str]:
    """
    The names of classes in order, from a file.

    Args:
        path: a text file with a name on each line; a table such as ADE20K's `objectInfo150.txt`, with tabs, a title
            line and the names last; or JSON, a list of names or an object of numbers (from 0 on) and names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or numbers are missing.
    """
    return class_names_from(path.read_text(encoding="utf-8"), str(path))


def find_class_names(tree: FileTree) -> list[str] | None:
    """The names in a file of a usual name in a folder or in the one around it; None if there is none."""
    for folder in ("", ".."):
        for file in CLASS_NAME_FILES:
            name = f"{folder}/{file}".lstrip("/")
            if name in tree:
                return class_names_from(tree.read_text(name), tree.path(name))
    around = tree.root.parent
    for path in (around / file for file in CLASS_NAME_FILES):
        if path.is_file():
            return read_class_names(path)
    return None


def class_names_from(text: str, where: str) -> list[str]:
    """The names in the content of a file that messages call `where`, see [`read_class_names`]."""
    if where.endswith(".json"):
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where} is not valid JSON: {error}") from error
        if isinstance(content, dict):
            try:
                by_number = {int(number): str(name) for number, name in content.items()}
            except ValueError as error:
                raise ValueError(f"{where} must map the numbers of classes to their names: {error}") from error
            if sorted(by_number) != list(range(len(by_number))):
                raise ValueError(f"{where}: the numbers of the classes must be 0 to {len(by_number) - 1}.")
            content = [by_number[number] for number in range(len(by_number))]
        names = [str(name) for name in content]
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines and "\t" in lines[0]:
            lines = [line.split("\t")[-1] for line in lines[1:]]
        names = [re.sub(r"^\d+\s*[:,]\s*", "", line) for line in lines]  # "0: road"
    if not names:
        raise ValueError(f"{where} names no classes.")
    return names


def numbered(values: Collection[int], first_class: int) -> dict[int, str]:
    """Names for classes that have none: one for every number up to the largest that occurs."""
    return {number: f"class {number}" for number in range(first_class, max(values, default=first_class - 1) + 1)}

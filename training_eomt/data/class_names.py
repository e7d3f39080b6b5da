"""Names of classes: from a file, from a folder, or made up from their numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec

from ..json_files import read_unambiguous_json
from .files import FileTree, decode_text, open_file


CLASS_NAME_FILES = ("classes.txt", "class_names.txt", "names.txt", "labels.txt", "id2label.json", "objectInfo150.txt")
NUMBERED_LINE = re.compile(r"(\d+)\s*[:,]\s*(.*)")  # "0: road"
LABEL_MAP_LINE = re.compile(r"([^:]+):\s*(?:(\d+)\s*,\s*(\d+)\s*,\s*(\d+))?\s*:[^:]*:[^:]*")  # name:red,green,blue::
NO_NAME = re.compile(r"|[-+.]?[0-9][-+0-9.,eE%]*|#[0-9a-fA-F]+")  # nothing, a number or a colour
COMMENT = "#"
MAX_DIGITS = 20  # of the number of a class
NUM_LISTED = 10


class ClassNames(list[str]):
    """Names of classes in order.

    Args:
        names: the names.
        first: the number of the first class, where the names come with numbers.
    """

    def __init__(self, names: Iterable[str], first: int | None = None) -> None:
        super().__init__(names)
        self.first = first


def read_class_names(path: Path) -> ClassNames:
    """
    Reads the names of classes from a file.

    Args:
        path: a text file with a name on each line, all of them behind their numbers or none (`0: road`); CVAT's
            `labelmap.txt`; a table with tabs, such as ADE20K's `objectInfo150.txt`, with numbers first and names
            in the column of that title, by default the last; without titles, names in the first column of texts; or
            JSON, a list of names or an object of numbers and names. Empty lines and those that start with `#` are left
            out.

    Raises:
        OSError: there is no such file.
        ValueError: it names no classes, numbers are missing or come twice, or something is no name.
    """
    with open_file(path) as file:
        return parse_class_names(decode_text(file.read(), str(path)), str(path))


def find_class_names(tree: FileTree) -> ClassNames | None:
    """Reads the names in a file of a usual name in a folder or its parent; None if there is none."""
    for folder in ("", ".."):
        for file in CLASS_NAME_FILES:
            name = f"{folder}/{file}".lstrip("/")
            if name in tree:
                return parse_class_names(tree.read_text(name), tree.path(name))
    around = tree.root.parent
    for path in (around / file for file in CLASS_NAME_FILES):
        if path.is_file():
            return read_class_names(path)
    return None


def parse_class_names(text: str, where: str) -> ClassNames:
    """Parses the content of a file that messages call `where`, see [`read_class_names`]."""
    if where.endswith(".json"):
        return _parse_json(text, where)
    lines = list_lines(text)
    if not lines:
        raise ValueError(f"{where} names no classes.")
    if all(LABEL_MAP_LINE.fullmatch(line) for line in lines.values()):
        return ClassNames(line.split(":")[0].strip() for line in lines.values())
    is_table = any("\t" in line for line in lines.values())
    if is_table:
        rows = {number: [cell.strip() for cell in line.split("\t")] for number, line in lines.items()}
        first = next(iter(rows))
        titles = None if rows[first][0].isdecimal() else rows.pop(first)
        column = _find_name_column(titles, list(rows.values()))
        given = {number: (row[0], row[column] if column < len(row) else "") for number, row in rows.items()}
    else:
        matches = {number: NUMBERED_LINE.fullmatch(line) for number, line in lines.items()}
        if not any(matches.values()):
            return ClassNames(lines.values())
        given = {number: (match[1], match[2]) if match else ("", "") for number, match in matches.items()}
    names: dict[int, str] = {}
    for number, (value, name) in given.items():
        if not value.isdecimal() or len(value) > MAX_DIGITS or not name:
            expected = "a number, tabs and a name" if is_table else "a number, a colon and a name, as other lines do"
            raise ValueError(f"{where}: line {number}, {lines[number][:80]!r}, does not hold {expected}.")
        if int(value) in names:
            raise ValueError(f"{where}: line {number} names class {value} a second time. Keep one of the lines.")
        names[int(value)] = name
    return _sort_names(names, where)


def _find_name_column(titles: list[str] | None, rows: list[list[str]]) -> int:
    """Finds the column of a table that has the names: the one with that title, else the first of texts."""
    if titles is not None:
        lowered = [title.lower() for title in titles]
        return lowered.index("name") if "name" in lowered[1:] else max(len(titles) - 1, 1)

    def is_text(column: int) -> bool:
        return all(len(row) > column and not NO_NAME.fullmatch(row[column]) for row in rows)

    return next((column for column in range(1, max(map(len, rows))) if is_text(column)), 1)


def list_lines(text: str) -> dict[int, str]:
    """Lists the lines of a text that are neither empty nor comments, without surrounding space, by their numbers."""
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), start=1)}
    return {number: line for number, line in lines.items() if line and not line.startswith(COMMENT)}


def name_by_value(names: Sequence[str], first_class: int) -> dict[int, str]:
    """The names by the values of label maps, from `first_class` on; from 1 on where a file numbers them so."""
    counts_from_1 = isinstance(names, ClassNames) and names.first == 1
    return dict(enumerate(names, start=1 if counts_from_1 else first_class))


def name_by_number(values: Collection[int], first_class: int) -> dict[int, str]:
    """Makes up names for classes that have none: one for every number up to the largest that occurs."""
    return {number: f"class {number}" for number in range(first_class, max(values, default=first_class - 1) + 1)}


def list_some(numbers: Sequence[int]) -> str:
    """Lists the first of some numbers for messages."""
    more = " and more" if len(numbers) > NUM_LISTED else ""
    return ", ".join(map(str, numbers[:NUM_LISTED])) + more or "none"


def _parse_json(text: str, where: str) -> ClassNames:
    try:
        content = msgspec.convert(read_unambiguous_json(text, where), list[str] | dict[str, str])
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{where} must hold a list of names, or an object of the numbers of classes and their names: {error}."
        ) from error
    if not content:
        raise ValueError(f"{where} names no classes.")
    if isinstance(content, list):
        return ClassNames(content)
    if wrong := [text for text in map(str.strip, content) if not text.isdecimal() or len(text) > MAX_DIGITS]:
        raise ValueError(f"{where} must map the numbers of classes to their names: {wrong[0][:40]!r} is no number.")
    names = {int(number): name for number, name in content.items()}
    if len(names) < len(content):
        raise ValueError(f"{where}: two of its {len(content)} keys are the same number.")
    return _sort_names(names, where)


def _sort_names(names: dict[int, str], where: str) -> ClassNames:
    """Sorts names by their numbers, which may leave no gaps."""
    if not names:
        raise ValueError(f"{where} names no classes.")
    first = min(names) if min(names) <= 1 else 0
    if max(names) >= first + len(names):
        missing = [number for number in range(first, first + len(names)) if number not in names]
        raise ValueError(
            f"{where} has names for classes up to {max(names)}, and none for {list_some(missing)}. Name every class "
            f"from {first} on; values of label maps that leave gaps are given as --label_values."
        )
    return ClassNames((names[number] for number in sorted(names)), first)

"""Tables of the classes that the values or the colours of label maps stand for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..json_files import read_unambiguous_json
from ..yaml_files import read_yaml
from .class_names import LABEL_MAP_LINE, list_lines, read_class_names
from .colours import encode_rgb, format_colour
from .files import FileTree, decode_text, open_file


LABEL_MAP_FILE = "labelmap.txt"  # in CVAT's exports
MAX_VALUE = 2**32 - 1


@dataclass(frozen=True)
class LabelValues:
    """The classes that the values or the colours of label maps stand for.

    Args:
        classes: name of the class of each value, in order; None for a value that belongs to no class. Several values
            may be of one class. A colour is a value, too, see [`encode_rgb`].
        is_colours: whether values are colours.
        where: the table for messages.
    """

    classes: Mapping[int, str | None]
    is_colours: bool
    where: str

    @property
    def ignored(self) -> frozenset[int]:
        """The values that belong to no class."""
        return frozenset(value for value, name in self.classes.items() if name is None)

    @property
    def category_ids(self) -> dict[int, int]:
        """For every value of a class the number of the class: its first value, or for colours its place."""
        numbers: dict[str, int] = {}
        for value, name in self.classes.items():
            if name is not None:
                numbers.setdefault(name, len(numbers) if self.is_colours else value)
        return {value: numbers[name] for value, name in self.classes.items() if name is not None}

    @property
    def names(self) -> dict[int, str]:
        """The name of every class by its number."""
        return {number: str(self.classes[value]) for value, number in self.category_ids.items()}


def read_label_values(path: Path) -> LabelValues:
    """
    Reads a table of values and classes.

    Args:
        path: a JSON or YAML file, an object of values and names of classes, such as `{"0": "background", "255":
            "lesion"}`, of colours, such as `{"128,0,0": "aeroplane", "#008000": "bicycle"}`; null in place of a name
            says that pixels of this value belong to no class. Or a text file with lines `name:red,green,blue::`, as
            CVAT's `labelmap.txt`.

    Raises:
        OSError: there is no such file.
        ValueError: it is no such table.
    """
    with open_file(path) as file:
        text = decode_text(file.read(), str(path))
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        content = (read_unambiguous_json if path.suffix.lower() == ".json" else read_yaml)(text, str(path))
        return parse_label_values(content, str(path))
    return _parse_lines(text, str(path))


def read_class_settings(settings: Mapping[str, Any]) -> tuple[Sequence[str] | None, LabelValues | None]:
    """Reads the names of classes and the table of values that settings give, directly or as files; None for none."""
    names, table = settings.get("class_names"), settings.get("label_values")
    if isinstance(names, str | Path):
        names = read_class_names(Path(names))
    if isinstance(table, str | Path):
        return names, read_label_values(Path(table))
    return names, None if table is None else parse_label_values(dict(table), "label_values")


def find_label_map_file(tree: FileTree) -> LabelValues | None:
    """Reads the table of CVAT's export in a folder or its parent; None if there is none."""
    for name in (LABEL_MAP_FILE, f"../{LABEL_MAP_FILE}"):
        if name in tree:
            return _parse_lines(tree.read_text(name), tree.path(name))
    return None


def parse_label_values(content: Any, where: str) -> LabelValues:
    """Checks the content of a JSON or YAML file that messages call `where`, see [`read_label_values`]."""
    try:
        table = msgspec.convert(content, dict[int | str, str | None])
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{where} must hold an object of values, or of colours, and the names of their classes: {error}."
        ) from error
    return _build_table([(_parse_value(key, where), name) for key, name in table.items()], where)


def _parse_lines(text: str, where: str) -> LabelValues:
    rows = []
    for number, line in list_lines(text).items():
        match = LABEL_MAP_LINE.fullmatch(line)
        if match is None or match[2] is None:
            raise ValueError(f"{where}: line {number}, {line!r}, is not name:red,green,blue:parts:actions.")
        rows.append((_parse_colour([match[2], match[3], match[4]], line, where), match[1].strip()))
    return _build_table([((value, True), name) for value, name in rows], where)


def _build_table(rows: Iterable[tuple[tuple[int, bool], str | None]], where: str) -> LabelValues:
    """Builds the table of values, each with whether it is a colour, and names."""
    classes: dict[int, str | None] = {}
    kinds = set()
    for (value, is_colour), name in rows:
        shown = f"the colour {format_colour(value)}" if is_colour else f"the value {value}"
        if value in classes:
            raise ValueError(f"{where} lists {shown} twice. Keep one of the entries.")
        if name is not None and not name.strip():
            raise ValueError(f"{where}: the name of {shown} is empty. Name the class, or give null for none.")
        classes[value] = None if name is None else unicodedata.normalize("NFC", name)
        kinds.add(is_colour)
    if not any(classes.values()):
        raise ValueError(f"{where} names no classes.")
    if len(kinds) > 1:
        raise ValueError(f"{where} has colours such as 128,0,0 and plain values: maps hold one or the other.")
    return LabelValues(classes, kinds.pop(), where)


def _parse_value(key: int | str, where: str) -> tuple[int, bool]:
    """Parses the value that a key stands for. Returns also whether it is a colour."""
    text = str(key).strip()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 3 and all(part.isdecimal() for part in parts):
        return _parse_colour(parts, text, where), True
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return encode_rgb(*bytes.fromhex(text[1:])), True
    if not text.isdecimal() or len(text) > 10 or int(text) > MAX_VALUE:
        raise ValueError(
            f"{where}: {key!r} is neither a value from 0 to {MAX_VALUE} nor a colour such as 128,0,0 or #800000."
        )
    return int(text), False


def _parse_colour(parts: list[str], text: str, where: str) -> int:
    red, green, blue = (int(part) if len(part) <= 3 else 256 for part in parts)
    if max(red, green, blue) > 255:
        raise ValueError(f"{where}: the colour in {text!r} must be three numbers from 0 to 255.")
    return encode_rgb(red, green, blue)

"""JSON from outside, checked against a schema as it is read."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec


T = TypeVar("T")

# Raised where content is not JSON or does not follow its schema.
SCHEMA_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)

# A text, or what Python writes for numbers that JSON does not have.
_TEXT_OR_NOT_FINITE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?\b(?:NaN|Infinity)\b', re.DOTALL)
_TOO_LARGE = b"1e999"  # which msgspec refuses where a number is asked for, and only there


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object. Raises a `ValueError` that names it where it holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON object: {error}") from error


def read_json(content: bytes, kind: type[T], where: str, what: str = "what is expected") -> T:
    """
    Reads a JSON file.

    `NaN` and `Infinity`, which Python writes although JSON does not have them, are errors where the schema has a
    number and nowhere else. Where an object has a key twice, the last one counts, as everywhere.

    Args:
        content: the file, UTF-8 or, with a byte order mark, UTF-16.
        kind: the schema, a type that msgspec knows, such as `dict[str, int]` or a `msgspec.Struct`.
        where: the file, or an entry of it, for messages.
        what: what it should be, for messages.

    Raises:
        ValueError: it is not JSON, or something else than the schema says; the place in it is named.
    """
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            content = content.decode("utf-16").encode()
        content = content.removeprefix(codecs.BOM_UTF8)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if b"NaN" not in content and b"Infinity" not in content:
                raise
            return msgspec.json.decode(_TEXT_OR_NOT_FINITE.sub(_finite, content), type=kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where} is not {what}: {describe_fault(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error


def read_unambiguous_json(text: str, where: str) -> Any:
    """
    Reads JSON in which no key comes twice in an object.

    Raises:
        ValueError: it is something else.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} comes twice")
        return content

    try:
        content = json.loads(text, object_pairs_hook=once)
        json.dumps(content, ensure_ascii=False).encode()  # which halves of characters, as "\\ud800", cannot become
        return content
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error


def describe_fault(error: Exception) -> str:
    """Describes a fault that msgspec found, such as "expected `int`, got `str` - at `$.size[0]`"; `$` is the whole."""
    text = str(error).replace("Number out of range", "Expected a number, got NaN, Infinity or one as large")
    return text[:1].lower() + text[1:]


def _finite(match: re.Match[bytes]) -> bytes:
    return match[0] if match[0].startswith(b'"') else _TOO_LARGE


def parse_id(value: int | float | str) -> int | str:
    """
    Parses an id into a form to compare it by: 1, 1.0 and "1" are the same.

    Raises:
        ValueError: a number that is not whole.
    """
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) else value
    if value != int(value):
        raise ValueError(f"the id is {value}, expected a whole number or a text")
    return int(value)


def parse_flag(value: Any, name: str) -> bool:
    """
    Parses a flag: true or false, 1 or 0, also as texts.

    Raises:
        ValueError: it is something else; the message calls it `name`.
    """
    try:
        is_whole = isinstance(value, float) and value.is_integer()
        return msgspec.convert(int(value) if is_whole else value, bool, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name} is {value!r}, expected 0 or 1") from error

"""YAML as recipes and descriptions of datasets use it: plain data, each value as it is written."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml


MAX_DEPTH = 50  # lists and mappings in one another
TAGS = (None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")  # that may be written


def read_yaml(text: str, where: str) -> Any:
    """
    Reads a YAML file.

    Words are what YAML 1.2's core schema says they are: `true` and `false` are truth values, `yes`, `no`, `on` and
    `off` are words, `1e-4` is a number, `1:30` and `2020-01-01` are words.

    Args:
        text: the content.
        where: the file for messages.

    Raises:
        ValueError: it is not YAML, or has what plain data do not need: a key that comes twice in a mapping, an alias
            (by which a short file can stand for a gigantic value), a tag such as `!!python/object`.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


class _NotPlain(yaml.YAMLError):
    """YAML that is more than plain data, and where it is."""

    def __init__(self, reason: str, at: yaml.Event | yaml.Node) -> None:
        super().__init__(f"{reason} {at.start_mark}")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _NotPlain(f"*{event.anchor} is an alias: write the value itself", event)
        if (tag := getattr(event, "tag", None)) not in TAGS:
            raise _NotPlain(f"{tag} is no plain data: leave it out", event)
        if self._depth == MAX_DEPTH:
            raise _NotPlain(f"there are more than {MAX_DEPTH} lists and mappings in one another", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise _NotPlain(f"{value!r} has halves of characters", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise _NotPlain(f"the key {key_node.value!r} comes twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


# https://yaml.org/spec/1.2.2/#103-core-schema: what a word without quotes is, and the characters it may start with.
for _name, _pattern, _first in (
    ("null", r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)

"""What Griffe cannot know of the sources that it reads for the reference: an extension of it, see `mkdocs.yml`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from griffe import Class, Extension, Function, Module, Object, Parameter, ParameterKind, Parameters


_REFERENCE = re.compile(r"\[`([\w.]+)`\]")
_ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)


def list_entries() -> dict[str, str]:
    """Returns the names that have an entry in the reference, and where they are imported from: name -> path."""
    pages = Path(__file__).parent.glob("reference/*.md")
    paths = [path for page in pages for path in _ENTRY.findall(page.read_text(encoding="utf-8"))]
    return {path.rsplit(".", 1)[-1]: path for path in paths}


class Docstrings(Extension):
    """
    Completes what was read of a package.

    - [`name`], as Transformers writes it, becomes a link if the name has an entry, and plain code otherwise.
    - Transformers makes dataclasses of configurations: their fields become the arguments that docstrings describe.
    """

    def __init__(self) -> None:
        self.entries = list_entries()

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Rewrites the docstrings of a package."""
        for obj in walk(pkg):
            if obj.docstring is not None:
                obj.docstring.value = _REFERENCE.sub(self._link, obj.docstring.value)
            if isinstance(obj, Class) and obj.name.endswith("Config"):
                obj.set_member("__init__", make_init(obj))

    def _link(self, match: re.Match) -> str:
        name, *rest = match[1].split(".")
        path = self.entries.get(name)
        return f"`{match[1]}`" if path is None else f"[`{match[1]}`][{'.'.join([path, *rest])}]"


def walk(obj: Object) -> Iterator[Object]:
    """Yields an object and those defined in it; imported ones are yielded where they are defined."""
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from walk(member)


def make_init(config: Class) -> Function:
    """Returns the constructor that a dataclass of the fields of a configuration has."""
    fields = (
        field
        for field in config.all_members.values()
        if "instance-attribute" in field.labels and field.annotation is not None
    )
    parameters = [
        Parameter(field.name, annotation=field.annotation, kind=ParameterKind.keyword_only, default=field.value)
        for field in fields
    ]
    return Function("__init__", parameters=Parameters(*parameters), parent=config)

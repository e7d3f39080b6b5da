"""Packages whose names are imported on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """
    Returns a `__getattr__` for a package (PEP 562) that imports the module of a name when the name is first used.

    Args:
        package: the package's `__name__`.
        modules: name -> module that has it, relative to the package (`".trainer"`) or absolute.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name], package), name)

    return load

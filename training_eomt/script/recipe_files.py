"""Recipes: YAML files of arguments, by path or by the name under which they come with this project."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..argument_checks import check_names
from ..yaml_files import read_yaml
from .arguments import Argument


MAX_BYTES = 1_000_000
# In a wheel in the package, in a checkout beside it.
FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).resolve().parents[2] / "recipes")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_EXPECTED = {dict: "a mapping", bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def find_recipe(given: str) -> Path:
    """
    Returns the file of a recipe: a path, or the name of one that comes with the project, such as `shapes_demo`.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(given)
    if path.exists():
        return path
    known = {file.stem: file for folder in FOLDERS for file in sorted(folder.glob("*.yaml"))}
    name = path.name.removesuffix(".yaml")
    if name in known and path.parent in (Path("."), Path("recipes")):
        return known[name]
    similar = difflib.get_close_matches(name, known, n=1)
    raise FileNotFoundError(
        f"There is no recipe {given}: it is no file and none of those that come with this project."
        + (f" Did you mean {similar[0]}?" if similar else "")
    )


def read_recipe(path: Path, arguments: Mapping[str, Argument]) -> dict[str, Any]:
    """
    Returns the values that a recipe sets, each of its argument's kind. An empty value counts as not there.

    Args:
        path: the file.
        arguments: all arguments there are, by name.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no recipe, or sets what does not exist or cannot be.
    """
    if not path.is_file():
        raise IsADirectoryError(f"{path} is no file: a recipe is a YAML file of arguments.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES:,} bytes: that is no recipe.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}") from error
    recipe = read_yaml(text, str(path))
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise ValueError(f"{path} is not a recipe: it must map names of arguments to values.")
    check_names(recipe, arguments, str(path))
    return {name: _convert(value, arguments[name], str(path)) for name, value in recipe.items() if value is not None}


def _convert(value: Any, argument: Argument, where: str) -> Any:
    """Converts a recipe's value to its argument's kind. Raises a `ValueError` for one of another kind."""
    values = value if argument.is_list and isinstance(value, list) else [value]
    if argument.kind is bool:
        values = [_BOOLS.get(item.lower(), item) if isinstance(item, str) else item for item in values]
    kind: Any = dict | str if argument.kind is dict else argument.kind  # an object, or JSON, or the name of a file
    try:
        values = msgspec.convert(values, list[kind])
    except msgspec.ValidationError as error:
        which = "a list in which each item is " if argument.is_list and isinstance(value, list) else ""
        hint = " Write a text that looks like something else in quotes." if argument.kind is str else ""
        raise ValueError(
            f"{where}: {argument.name} is {type(value).__name__}, and must be {which}{_EXPECTED[argument.kind]}."
            f"{hint} ({error})"
        ) from error
    if argument.choices is not None and not set(values) <= set(argument.choices):
        raise ValueError(f"{where}: {argument.name} must be one of {', '.join(argument.choices)}, not {value!r}.")
    if argument.is_list and not values:
        raise ValueError(f"{where}: {argument.name} is an empty list.")
    return values if argument.is_list else values[0]

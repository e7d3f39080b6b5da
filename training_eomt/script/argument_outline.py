"""Names, kinds, defaults and help of the training arguments, without the seconds that importing them takes.

Their classes need torch and Transformers. A command line that asks for help, or has a mistake in it, need not wait for
those: what the source files of the two classes say is enough. The classes themselves come in when there is something
to run.
"""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Argument(NamedTuple):
    """One argument.

    Args:
        name: without dashes.
        kind: of its values: bool, int, float, str or dict.
        is_list: whether it takes several.
        default: None also where only the class knows.
        help: for people.
        choices: if it has some.
        alone: what it is where it is given without a value; None where it needs one.
    """

    name: str
    kind: type
    is_list: bool = False
    default: Any = None
    help: str = ""
    choices: tuple[str, ...] | None = None
    alone: Any = None


def argument(name: str, annotation: str, default: Any, metadata: dict[str, Any]) -> Argument:
    """An argument from a dataclass's field, whose type is given as it is written."""
    words = set(re.findall(r"\w+", annotation))
    kinds = [kind for kind in (dict, bool, int, float, str) if kind.__name__ in words]
    choices = metadata.get("choices")
    return Argument(
        name,
        kinds[0] if kinds else str,  # an enumeration's values are words
        "list" in words,
        default,
        metadata.get("help", ""),
        None if choices is None else tuple(choices),
        True if kinds[:1] == [bool] else metadata.get("const"),
    )


@cache
def training_arguments() -> tuple[dict[str, Argument], dict[str, Argument]]:
    """By name: the arguments that `EomtTrainingArguments` has of its own, and Transformers' others."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations
    theirs = _fields(Path(spec.submodule_search_locations[0]) / "training_args.py", "TrainingArguments")
    ours = _fields(Path(__file__).parents[1].joinpath("training_arguments.py"), "EomtTrainingArguments")
    return ours, {name: found for name, found in theirs.items() if name not in ours}


def _fields(path: Path, class_name: str) -> dict[str, Argument]:
    """The fields of a dataclass in a source file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    found = {}
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        name, options = ast.unparse(node.target), {word.arg: word.value for word in node.value.keywords}
        metadata = options.get("metadata")
        entries: dict[str, Any] = {}
        if isinstance(metadata, ast.Dict):
            entries = {_literal(key): _literal(value) for key, value in zip(metadata.keys, metadata.values)}
        found[name] = argument(name, ast.unparse(node.annotation), _literal(options.get("default")), entries)
    return found


def _literal(node: ast.expr | None) -> Any:
    """The value of an expression that is written out; None for one that has to be computed."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None

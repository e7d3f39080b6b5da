"""The command line of `run_segmentation.py`, and the recipes that it names, become arguments.

Transformers' and this project's classes of training arguments need torch. A command line that asks for help or has a
mistake in it need not wait for that: their source files say enough. They are imported when there is something
to run.
"""

import argparse
import ast
import dataclasses
import importlib.util
import re
import typing
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from ..argument_checks import check_names, check_ranges
from .arguments import Argument, DataArguments, ModelArguments, ScriptArguments, parse_json_object
from .recipe_files import find_recipe, read_recipe


# What a run does comes first in the help.
_RUN = {
    "do_train": "Train a model.",
    "do_eval": "Evaluate it on the validation data.",
    "do_predict": "Segment the images of predict_data.",
    "output_dir": "Where the model, its checkpoints and all results go.",
    "resume_from_checkpoint": "true: go on with a training from its last checkpoint. Or the folder of a checkpoint.",
}
# What the help shows of the others, unless it is to show all.
_COMMON = frozenset(
    (
        *("model_name_or_path", "dataset", "train_data", "validation_data", "predict_data", "train_val_split"),
        *("class_names", "task", "skip_bad_samples", "check_data", "image_size", "predict_outputs", "threshold"),
        *("overwrite_output_dir", "learning_rate", "total_batch_size", "ema_decay", "num_train_epochs"),
        *("per_device_train_batch_size", "bf16"),
    )
)
_FOR_CHECKS = ("output_dir", "seed", "use_cpu", "dataloader_num_workers", "disable_tqdm")  # what check_data needs
_TRUE, _FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")


class GivenArguments(NamedTuple):
    """
    Arguments as they were read.

    Args:
        model, data: the script's own.
        training: every argument of training by name, with its default if it was not given.
        given: the arguments of training that were given.
        warnings: what is odd and not wrong.
    """

    model: ModelArguments
    data: DataArguments
    training: Any
    given: dict[str, Any]
    warnings: list[str]


def parse_arguments(words: Sequence[str]) -> ScriptArguments:
    """
    Parses a command line, on top of the recipes that its `--recipe` names.

    Raises:
        OSError: a recipe cannot be read.
        ValueError: a recipe or the command line sets something that does not exist or cannot be.
        SystemExit: the command line gives a value of the wrong type, or asks for help.
    """
    return complete_arguments(read_arguments(words))


def read_arguments(words: Sequence[str], prog: str | None = None) -> GivenArguments:
    """
    Does the part of `parse_arguments` that does not need torch; `complete_arguments` does the rest.

    Args:
        words: the command line.
        prog: what the help calls the command. Default: the program.
    """
    groups = _group_arguments()
    known = {name: argument for group in groups.values() for name, argument in group.items()}
    words = [_with_underscores(word) for word in words]
    flags = [word.removeprefix("--").split("=")[0] for word in words if word.startswith("--")]
    namespace, unknown = _build_parser(groups, prog).parse_known_args(words)
    command_line = vars(namespace)
    recipes = command_line.pop("recipe", [])
    if unknown:
        unknown_flags = [word.removeprefix("--").split("=")[0] for word in unknown if word.startswith("--")]
        check_names(dict.fromkeys(unknown_flags), known, "The command line")
        raise ValueError(f"The command line: {' '.join(unknown)} belongs to no argument.")
    values: dict[str, Any] = {}
    for recipe in recipes:
        values |= read_recipe(find_recipe(recipe), known)
    for name, value in command_line.items():
        if known[name].kind is dict and value.startswith("{"):
            parse_json_object(name, value)  # Transformers parses it later, and would take a name that comes twice
    values |= command_line
    check_ranges(values)
    own: list[Any] = []
    for kind in (ModelArguments, DataArguments):
        names = [field.name for field in dataclasses.fields(kind)]
        own.append(kind(**{name: values.pop(name) for name in names if name in values}))
    defaults = {name: argument.default for group in outline_training_arguments() for name, argument in group.items()}
    training = SimpleNamespace(**{**defaults, **values})
    training.names_output_dir = training.output_dir is not None
    training.evaluates_by_default = training.eval_strategy is None
    warnings = [
        f"--{name} is given {number} times: the last one counts."
        for name, number in Counter(flags).items()
        if number > 1 and name != "recipe"
    ]
    return GivenArguments(own[0], own[1], training, values, warnings)


def complete_arguments(arguments: GivenArguments) -> ScriptArguments:
    """
    Returns the arguments as the Trainer takes them.

    Raises:
        ImportError: a library that they ask for is not installed.
        ValueError: the arguments of training do not fit each other or this machine.
    """
    from configuration_eomt import EomtConfig

    from ..training_arguments import EomtTrainingArguments

    model, data, _, given, _ = arguments
    if model.model_config:
        fields: Any = {field.name: field for field in dataclasses.fields(EomtConfig)}
        check_names(typing.cast(dict, model.model_config), fields, "model_config")
    if data.check_data:  # what a recipe says about the training may need another machine
        given = {name: value for name, value in given.items() if name in _FOR_CHECKS}
    return model, data, EomtTrainingArguments(**given)


# The outline: names, types, defaults and help


@cache
def outline_training_arguments() -> tuple[dict[str, Argument], dict[str, Argument]]:
    """Returns, by name, the arguments that `EomtTrainingArguments` declares, and Transformers' others."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations
    theirs = _read_fields(Path(spec.submodule_search_locations[0]) / "training_args.py", "TrainingArguments")
    ours = _read_fields(Path(__file__).parents[1] / "training_arguments.py", "EomtTrainingArguments")
    return ours, {name: argument for name, argument in theirs.items() if name not in ours}


def describe_argument(name: str, annotation: str, default: Any, metadata: Mapping[str, Any]) -> Argument:
    """Describes an argument, given a dataclass's field with its type as it is written."""
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


def _read_fields(path: Path, class_name: str) -> dict[str, Argument]:
    """Reads the fields of a dataclass off its source file: calls of `field`, and here of `argument`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    arguments = {}
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        name, options = ast.unparse(node.target), {word.arg: word.value for word in node.value.keywords}
        options |= dict(zip(("default", "help"), node.value.args))
        metadata = options.get("metadata")
        entries = {"help": _evaluate(options.get("help")) or ""}
        if isinstance(metadata, ast.Dict):
            entries |= {_evaluate(key): _evaluate(value) for key, value in zip(metadata.keys, metadata.values)}
        default = _evaluate(options.get("default"))
        arguments[name] = describe_argument(name, ast.unparse(node.annotation), default, entries)
    return arguments


def _evaluate(node: ast.expr | None) -> Any:
    """Returns the value of a literal; None for an expression that has to be computed."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _outline_dataclass(kind: Any) -> dict[str, Argument]:
    hints = typing.get_type_hints(kind)
    return {
        field.name: describe_argument(
            field.name,
            str(hints[field.name]),
            None if field.default is dataclasses.MISSING else field.default,
            field.metadata,
        )
        for field in dataclasses.fields(kind)
    }


def _group_arguments() -> dict[str, dict[str, Argument]]:
    """Returns all arguments by name, in the groups of the help."""
    ours, theirs = outline_training_arguments()
    training = {**theirs, **ours}
    return {
        "what to do": {name: training[name]._replace(help=text) for name, text in _RUN.items()},
        "model": _outline_dataclass(ModelArguments),
        "data": _outline_dataclass(DataArguments),
        "training": {name: argument for name, argument in ours.items() if name not in _RUN},
        "of every Transformers Trainer": {name: argument for name, argument in theirs.items() if name not in _RUN},
    }


# The parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}. --help_all lists all arguments.\n")


class _Help(argparse.Action):
    """Prints the help of the parser that it has as `const`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        self.const().print_help()
        parser.exit()


def _build_parser(
    groups: Mapping[str, Mapping[str, Argument]], prog: str | None = None, shown: Collection[str] | None = None
) -> argparse.ArgumentParser:
    """
    Builds a parser in whose result an argument that is not given is not there.

    Args:
        groups: the arguments by name, in groups.
        prog: what the help calls the command.
        shown: the names of those that its help shows; None for all.
    """
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--recipe NAME ...] [--ARGUMENT VALUE ...]",
        description="Trains, evaluates and applies EoMT on your own images.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    common = {*_RUN, *_COMMON}
    for flags, which, text in (
        (("-h", "--help"), common, "Show what most need, and exit."),
        (("--help_all",), None, f"Show all {sum(map(len, groups.values()))} arguments, and exit."),
    ):
        parser.add_argument(
            *flags, action=_Help, nargs=0, const=partial(_build_parser, groups, prog, which), help=text
        )
    for title, arguments in groups.items():
        group = parser.add_argument_group(title)
        if title == "what to do":
            group.add_argument(
                "--recipe",
                nargs="+",
                action="extend",
                help="YAML files of arguments, or names of those that come with this project: later ones come on top, "
                "the command line's own last.",
            )
        for argument in arguments.values():
            _add_argument(group, argument, shown is None or argument.name in shown)
    return parser


def _add_argument(group: Any, argument: Argument, is_shown: bool) -> None:
    text = argument.help.replace("%%", "%")
    if argument.default is not None and "Default" not in text:
        text += f" (default: {argument.default})"
    options: dict[str, Any] = {"help": text.replace("%", "%%") if is_shown else argparse.SUPPRESS}
    if argument.kind is bool:
        options |= {"type": _parse_bool, "metavar": "true|false"}
    else:
        options["type"] = str if argument.kind is dict else argument.kind
        options["metavar"] = "VALUE"
        if argument.is_list:
            options["nargs"] = "+"
        if argument.choices is not None:
            options |= {"choices": argument.choices, "metavar": "{" + ",".join(argument.choices) + "}"}
    if argument.alone is not None:
        options |= {"nargs": "?", "const": argument.alone}
    group.add_argument(f"--{argument.name}", **options)
    if argument.kind is bool and argument.default is True:
        group.add_argument(f"--no_{argument.name}", dest=argument.name, action="store_false", help=argparse.SUPPRESS)


def _parse_bool(word: str) -> bool:
    if word.lower() not in (*_TRUE, *_FALSE):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() in _TRUE


def _with_underscores(word: str) -> str:
    """Turns `--total-batch-size=4` into `--total_batch_size=4`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value

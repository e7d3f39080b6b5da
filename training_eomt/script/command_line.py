"""The command line of arguments that are described without their classes."""

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn

from .argument_outline import Argument


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}. --help lists all arguments.\n")


def parser(groups: Mapping[str, Mapping[str, Argument]]) -> argparse.ArgumentParser:
    """
    What reads a command line; what is not given is not in its result.

    Args:
        groups: the arguments by name, in the groups of the help.
    """
    found = _Parser(
        usage="%(prog)s [--recipe NAME ...] [--ARGUMENT VALUE ...]",
        description="Trains, evaluates and applies EoMT on your own pictures.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for title, arguments in groups.items():
        group = found.add_argument_group(title)
        if title == "what to do":
            group.add_argument(
                "--recipe",
                nargs="+",
                action="extend",
                help="YAML files of arguments, or names of those that come with this project: later ones come on top, "
                "the command line's own last.",
            )
        for argument in arguments.values():
            _add(group, argument)
    return found


def _add(group: Any, argument: Argument) -> None:
    text = argument.help.replace("%%", "%")
    if argument.default is not None and "Default" not in text:
        text += f" (default: {argument.default})"
    options: dict[str, Any] = {"help": text.replace("%", "%%")}
    if argument.kind is bool:
        options |= {"type": _truth, "metavar": "true|false"}
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


def _truth(word: str) -> bool:
    if word.lower() in ("true", "yes", "t", "y", "1"):
        return True
    if word.lower() in ("false", "no", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")


def with_underscores(word: str) -> str:
    """`--total-batch-size=4` is `--total_batch_size=4`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value

"""Whether what an argument names can be there at all."""

import re
from pathlib import Path


# What may be a repository on the Hub, with or without its owner; whether it is one, only the Hub can say.
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def check_exists(argument: str, given: str) -> None:
    """
    Raises a `FileNotFoundError` for what is neither a file or folder, nor in a zip, nor may be a name on the Hub.

    Args:
        argument: the name of the argument, for the message.
        given: its value.
    """
    path = Path(given)
    is_there = path.exists() or any(parent.is_file() for parent in path.parents)
    if not is_there and not HUB_NAME.fullmatch(given):
        raise FileNotFoundError(f"--{argument} {given}: there is no such file or folder.")

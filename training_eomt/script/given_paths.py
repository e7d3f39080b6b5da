"""Whether what an argument names can be there at all."""

import re
from pathlib import Path


# What may be a repository on the Hub, with or without its owner; whether it is one, only the Hub can say.
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def check_exists(argument: str, given: str, may_be_on_hub: bool = True) -> None:
    """
    Raises a `FileNotFoundError` for what is neither a file or folder, nor in a zip, nor may be a name on the Hub.

    Args:
        argument: the name of the argument, for the message.
        given: its value.
        may_be_on_hub: whether it may be a name on the Hub at all.
    """
    path = Path(given)
    is_there = path.exists() or any(parent.is_file() for parent in path.parents)
    if not is_there and not (may_be_on_hub and HUB_NAME.fullmatch(given)):
        raise FileNotFoundError(f"--{argument} {given}: there is no such file or folder.")

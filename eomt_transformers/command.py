"""The `eomt` command: a few verbs, each a door to what does the work. Nothing is imported before it is asked for."""

import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple


class Verb(NamedTuple):
    """
    A verb of the command.

    Args:
        summary: one line for the help.
        door: the module with the function that takes the rest of the command line, and its name.
        words: what comes before the rest.
    """

    summary: str
    door: tuple[str, str]
    words: tuple[str, ...] = ()


_RUN = ("run_segmentation", "command")
VERBS = {
    "segment": Verb("segment images: overlay, masks, JSON", ("eomt_transformers.segment", "main")),
    "train": Verb("train a model on a dataset, or fine-tune one", _RUN, ("--do_train",)),
    "eval": Verb("evaluate a model on a dataset", _RUN, ("--do_eval",)),
    "predict": Verb("segment a folder of any number of images, to be resumed if stopped", _RUN, ("--do_predict",)),
    "convert": Verb("turn an original checkpoint into a folder", ("modeling_eomt.convert_official", "main")),
    "publish": Verb("write a folder for the Hub, and upload it", ("training_eomt.publishing.__main__", "main")),
    "export": Verb("write a graph for ONNX Runtime, OpenVINO and others", ("deployment_eomt.__main__", "main")),
    "app": Verb("open a page to try models on", ("app_eomt", "main")),
}


def main(words: Sequence[str] | None = None) -> None:
    """
    The console command.

    Args:
        words: of the command line. Default: of this process.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(describe_verbs())
    elif words[0] == "--version":
        from . import __version__

        print(f"eomt {__version__}")
    elif words[0] in VERBS:
        # Transformers imports torchao if it is installed, which warns of things that nobody here can change.
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
        verb = VERBS[words[0]]
        module, name = verb.door
        door: Callable[..., None] = getattr(import_module(module), name)
        door([*verb.words, *words[1:]], prog=f"eomt {words[0]}")
    else:
        sys.exit(f"error: {words[0]!r} is none of {', '.join(VERBS)}. `eomt --help` explains them.")


def describe_verbs() -> str:
    """Returns the help of the command itself."""
    lines = ["usage: eomt VERB ...", "", "EoMT: segments images, and trains, evaluates and deploys models for it.", ""]
    lines += [f"  {name:<9} {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "eomt VERB --help explains a verb, eomt --version tells the version."])

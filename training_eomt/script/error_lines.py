"""Messages of a command line: errors that are not bugs, in one line, and warnings."""

import os
import re
import sys
from collections.abc import Collection

from ..text import terminal_text


_CAUGHT_IN_WORKER = re.compile(
    r"Caught (\w+) in DataLoader worker process.*^(?:[\w.]+\.)?\1: ", re.DOTALL | re.MULTILINE
)
_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2")  # what huggingface_hub asks with; not an `OSError`
_NOT_WRITTEN = re.compile(r"inline_container|PytorchStreamWriter")  # in the errors of torch.save
_LOST_CONNECTION = re.compile(r"gloo|nccl|connection (reset|closed)|broken pipe|recvvalue|store->get", re.IGNORECASE)


def describe_error(error: Exception, trackers: Collection[str] = ()) -> str | None:
    """
    Describes an error that a person can do something about; returns None for one that only its traceback explains.

    Args:
        error: what ended the run.
        trackers: names of the libraries that the run reports to.
    """
    text = str(error) or type(error).__name__
    if len(text) > 100_000:
        text = f"{text[:100_000]}..."
    if _is_out_of_memory(error, text):
        return (
            f"There is not enough memory. {_first_line(text)} Take fewer images at a time "
            "(--per_device_train_batch_size, --per_device_eval_batch_size), or put recipes/low_memory.yaml on top."
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return (
            f"A process that prepares images was killed, perhaps for lack of memory: use fewer with "
            f"--dataloader_num_workers. {_first_line(text)}"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and _is_lost_connection(error, text):
        return "Another process of this run ended, and its own message says why. This one cannot go on alone."
    if isinstance(error, RuntimeError) and _NOT_WRITTEN.search(text):
        return f"A checkpoint could not be written; the disk may be full. {_first_line(text)}"
    library = type(error).__module__.split(".")[0]
    if library in trackers:
        return f"{library}, which --report_to names: {_join_lines(text)}"
    if library == "safetensors":
        return f"A file of weights could not be read or written: {_join_lines(text)}"
    if library == "huggingface_hub":
        return f"The Hub: {_join_lines(text)}"
    if library in _NETWORK:
        return f"The Hub cannot be reached ({type(error).__name__}): {_join_lines(text)}"
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
        return _CAUGHT_IN_WORKER.sub("", text)
    return None


def warn(line: str) -> None:
    """Prints a warning on a line of its own."""
    print(f"warning: {escape_lines(line)}", file=sys.stderr, flush=True)


def escape_lines(text: str) -> str:
    """Escapes a text for a terminal, line by line."""
    return "\n".join(terminal_text(line) for line in text.split("\n"))


def _is_out_of_memory(error: Exception, text: str) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and re.search(r"out of memory|can't allocate memory", text) is not None)
    )


def _is_lost_connection(error: Exception, text: str) -> bool:
    is_of_torch = isinstance(error, RuntimeError) and type(error) is not NotImplementedError
    return (is_of_torch or isinstance(error, ConnectionError)) and _LOST_CONNECTION.search(text) is not None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _join_lines(text: str) -> str:
    return " ".join(text.split())

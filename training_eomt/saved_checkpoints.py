"""Checkpoints of a training: which of them are complete."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging

from .folders import disk_errors


logger = logging.get_logger(__name__)

_MARKER = "INCOMPLETE"  # a file in a checkpoint for as long as it is being written
_WRITTEN_LAST = "trainer_state.json"


@contextmanager
def writing(checkpoint: Path, is_writer: bool) -> Iterator[None]:
    """
    Marks a checkpoint as one that is being written, for as long as it is.

    Args:
        checkpoint: the folder; made if it does not exist.
        is_writer: whether this process does so; others may write files of their own.

    Raises:
        OSError: it cannot be written, such as on a full disk. What there is of it is deleted.
    """
    try:
        with disk_errors(checkpoint):
            if is_writer:
                checkpoint.mkdir(parents=True, exist_ok=True)
                (checkpoint / _MARKER).touch()
            yield
            if is_writer:
                (checkpoint / _MARKER).unlink()
    except (OSError, FloatingPointError) as error:
        if is_writer:
            shutil.rmtree(checkpoint, ignore_errors=True)
        if isinstance(error, FloatingPointError):
            raise
        last = last_complete(checkpoint.parent)
        advice = (
            f"{last} is the last complete one: when there is room, --resume_from_checkpoint true goes on from there."
            if last
            else "There is no earlier one."
        )
        raise OSError(f"{error}. {advice}") from error


def is_being_written(checkpoint: Path) -> bool:
    """Whether a folder is marked as a checkpoint that is not complete yet."""
    return (checkpoint / _MARKER).exists()


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (checkpoint / _WRITTEN_LAST).is_file() and not (checkpoint / _MARKER).exists()


def last_complete(output_dir: str | Path) -> Path | None:
    """The last checkpoint in a folder that is complete; None if there is none. A later one is spoken of."""
    if not Path(output_dir).is_dir():
        return None
    for checkpoint in map(Path, reversed(sort_checkpoints(str(output_dir)))):
        if is_complete(checkpoint):
            return checkpoint
        logger.warning(
            f"{checkpoint} is not complete: the training was killed while it was being written. It is not used."
        )
    return None


def remove_incomplete(output_dir: str | Path) -> None:
    """Deletes what was left behind by a training that was killed."""
    for checkpoint in map(Path, sort_checkpoints(str(output_dir))):
        if not is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def bytes_needed(num_parameters: int, num_trainable: int, kept: int | None, has_average: bool) -> int:
    """
    Disk space for the checkpoints of a training with AdamW.

    Args:
        num_parameters, num_trainable: of the model.
        kept: number of checkpoints that are kept, None for all of them.
        has_average: whether the averaged weights are saved too.
    """
    one = 4 * (num_parameters + 2 * num_trainable + has_average * num_trainable)
    return one * ((kept or 1) + 1)  # the oldest goes when the newest is complete

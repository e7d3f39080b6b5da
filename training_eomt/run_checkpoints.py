"""Checkpoints of a training: which of them are complete."""

import shutil
from pathlib import Path

from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging


logger = logging.get_logger(__name__)

_MARKER = "INCOMPLETE"  # a file in a checkpoint for as long as it is being written
_WRITTEN_LAST = "trainer_state.json"


def begin(checkpoint: Path) -> None:
    """Marks a checkpoint as one that is being written."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / _MARKER).touch()


def finish(checkpoint: Path) -> None:
    """Everything of a checkpoint is written."""
    (checkpoint / _MARKER).unlink()


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

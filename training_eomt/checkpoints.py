"""Checkpoints of a training: which are complete, and whether one can be resumed from, before the first step."""

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging

from .folders import disk_errors


logger = logging.get_logger(__name__)

STATE = "trainer_state.json"  # written last
SETTINGS = "training_settings.json"  # the training that a checkpoint belongs to
TRAINED_WEIGHTS = "trained_weights.safetensors"  # of a checkpoint whose model is an average
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"

Count = Annotated[int, msgspec.Meta(ge=0)]


class _State(msgspec.Struct):
    """The part of a `trainer_state.json` that is relied on."""

    epoch: Annotated[float, msgspec.Meta(ge=0)]
    global_step: Count
    max_steps: Annotated[int, msgspec.Meta(ge=1)]
    log_history: list[dict[str, Any]]
    stateful_callbacks: dict[str, dict[str, Any] | list[Any]]
    total_flos: float
    train_batch_size: Annotated[int, msgspec.Meta(ge=1)]
    num_input_tokens_seen: Count
    best_metric: float | None = None
    best_global_step: Count | None = None
    best_model_checkpoint: str | None = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Settings(msgspec.Struct):
    """The part of a `training_settings.json` that is relied on; the rest is compared."""

    processes: Annotated[int, msgspec.Meta(ge=1)]
    random_states: int | None = None  # files of them, where each machine has its own disk
    ema_decay: float | None = None


# Which checkpoints are complete


def is_complete(checkpoint: Path) -> bool:
    """Returns whether a checkpoint was written to its end, by each of the processes that wrote it."""
    try:
        json.loads((checkpoint / STATE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    with suppress(ValueError):  # older checkpoints do not say how many processes wrote them
        settings, states = read_settings(checkpoint)[1], _random_states(checkpoint)
        # Other processes than the one that writes the state may have been killed while they wrote theirs.
        are_whole = settings.processes == 1 or all(map(zipfile.is_zipfile, states))
        return are_whole and len(states) in (0, settings.random_states or settings.processes)
    return True


def begin(checkpoint: Path) -> None:
    """Makes the folder of a checkpoint; a former one there is incomplete from now on."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    for path in (checkpoint / STATE, *_random_states(checkpoint)):
        path.unlink(missing_ok=True)


def last_complete(output_dir: str | Path) -> Path | None:
    """Returns the last complete checkpoint in a folder; None if there is none. Warns of later ones."""
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
    """Deletes the checkpoints that a killed training did not complete."""
    for checkpoint in map(Path, sort_checkpoints(str(output_dir))):
        if not is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def fail_writing(checkpoint: Path, error: Exception, is_writer: bool) -> NoReturn:
    """
    Deletes the part of a checkpoint that was written before an error, if this process is its writer.

    Raises:
        OSError: the disk is full or cannot be written to; the message names the last complete checkpoint.
        Exception: `error`, if it is of another kind.
    """
    if is_writer:
        shutil.rmtree(checkpoint, ignore_errors=True)
    last = last_complete(checkpoint.parent)
    advice = "There is no earlier one."
    if last is not None:
        advice = (
            f"{last} is the last complete one: when there is room, --resume_from_checkpoint true goes on from there."
        )
    try:
        with disk_errors(checkpoint):
            raise error
    except OSError as disk_error:
        raise OSError(f"{disk_error}. {advice}") from error


def estimate_bytes(num_parameters: int, num_trainable: int, kept: int | None, has_average: bool) -> int:
    """Estimates the disk space for the checkpoints of a training with AdamW; `kept` is None to keep all of them."""
    one = 4 * (num_parameters + 2 * num_trainable + has_average * num_trainable)
    return one * ((kept or 1) + 1)  # the oldest goes when the newest is complete


# Whether a checkpoint can be resumed from


def _advise(checkpoint: Path) -> str:
    return (
        f"{checkpoint} cannot be resumed from. Name another checkpoint with --resume_from_checkpoint, or start a new "
        "training."
    )


def _read(path: Path, kind: Any) -> tuple[dict[str, Any], Any]:
    """
    Reads a JSON file of a checkpoint, in which NaN is allowed: its content, and the same as a `kind`. Raises a
    `ValueError` that names the file if it is missing or has other content.
    """
    try:
        content = json.loads(path.read_bytes())
        return content, msgspec.convert(content, kind)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {_advise(path.parent)}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, {error}: {_advise(path.parent)}") from error


def read_settings(checkpoint: Path) -> tuple[dict[str, Any], _Settings]:
    """Reads the settings of the training that a checkpoint belongs to. Raises a `ValueError` as `read_state` does."""
    return _read(checkpoint / SETTINGS, _Settings)


def read_state(checkpoint: Path) -> TrainerState:
    """
    Reads the state of the training that a checkpoint belongs to. Raises a `ValueError` if the file is missing,
    damaged, or written by a version of Transformers that knows more.
    """
    path = checkpoint / STATE
    content, state = _read(path, _State)
    known = [field.name for field in dataclasses.fields(TrainerState)]
    if unknown := [name for name in content if name not in known]:
        raise ValueError(
            f"{path} has {', '.join(map(repr, unknown))}, which this version of Transformers does not know: "
            f"{_advise(checkpoint)}"
        )
    if state.global_step > state.max_steps:
        raise ValueError(f"{path} is at step {state.global_step} of {state.max_steps}: {_advise(checkpoint)}")
    return TrainerState(**content)


def was_ended(state: TrainerState) -> bool:
    """Returns whether something, such as early stopping, has ended a training before its last step."""
    control = state.stateful_callbacks.get("TrainerControl", {})  # type: ignore[union-attr]  # a dict when loaded
    return bool(control.get("args", {}).get("should_training_stop"))


def has_average(checkpoint: Path) -> bool:
    """Returns whether a checkpoint's model is an average, so that the weights that are trained are beside it."""
    if (checkpoint / SETTINGS).is_file():
        return read_settings(checkpoint)[1].ema_decay is not None
    return (checkpoint / TRAINED_WEIGHTS).is_file()


def check_model(checkpoint: Path, model: torch.nn.Module, is_sharded: bool = False) -> None:
    """
    Raises a `ValueError` unless the weights of a checkpoint were written to their end and are the model's, in number,
    names and shapes. FSDP (`is_sharded`) writes the model in its own way, of which only the files are checked.
    """
    shapes: dict[str, list[int]] = {}
    for path in _weight_files(checkpoint, is_sharded):
        shapes |= _read_shapes(path)
    if is_sharded:
        return
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    with loading("model", checkpoint):
        for what, names in (
            ("missing", expected.keys() - shapes.keys()),
            ("too many", shapes.keys() - expected.keys()),
            ("of another shape", {name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name]}),
        ):
            if names:
                raise ValueError(f"{len(names)} weights are {what}: {', '.join(sorted(names)[:5])}, ...")


def check_course(
    checkpoint: Path, step: int, *, num_processes: int, process_index: int, is_sharded: bool, has_scaler: bool
) -> None:
    """
    Raises a `ValueError` unless all that a checkpoint holds beside its model was written to its end and belongs to its
    step. FSDP (`is_sharded`) writes the optimiser in its own way; fp16 has a scaler of gradients.
    """
    if has_average(checkpoint):
        _read_shapes(checkpoint / TRAINED_WEIGHTS)
    if is_sharded:
        if not any(checkpoint.glob("optimizer*")):
            raise ValueError(f"{checkpoint / 'optimizer.bin'} is missing: {_advise(checkpoint)}")
    else:
        _load(checkpoint / "optimizer.pt", "state of optimizer or scheduler", ("state", "param_groups"))
    scheduler = _load(checkpoint / "scheduler.pt", "state of optimizer or scheduler", ())
    # A scaler leaves out steps, and so may another scheduler.
    if "lr_lambdas" in scheduler and not has_scaler and scheduler["last_epoch"] != step:
        with loading("state of optimizer or scheduler", checkpoint):
            raise ValueError(f"which is after step {scheduler['last_epoch']}, while {STATE} is after step {step}")
    if has_scaler:
        _load(checkpoint / "scaler.pt", "scale of the gradients", ())
    written_by = len(_random_states(checkpoint))
    if (checkpoint / SETTINGS).is_file():
        written_by = read_settings(checkpoint)[1].processes
    if written_by in (0, num_processes):
        name = "rng_state.pth" if num_processes == 1 else f"rng_state_{process_index}.pth"
        _load(checkpoint / name, "random state", ("python", "numpy", "cpu"))
    elif process_index == 0:
        logger.warning(
            f"{checkpoint} was written by {written_by} processes and goes on with {num_processes}: their random "
            "states start afresh. Images, their order and their augmentation are what they would have been; dropout "
            "is not."
        )


def _random_states(checkpoint: Path) -> list[Path]:
    """Returns the files of the random states, one of each process."""
    return list(checkpoint.glob("rng_state*.pth"))


def _weight_files(checkpoint: Path, is_sharded: bool) -> list[Path]:
    """Returns the files of the model's weights."""
    index = checkpoint / _WEIGHTS_INDEX
    if index.is_file() and not (checkpoint / _WEIGHTS).is_file():
        names = sorted(set(_read(index, _Index)[1].weight_map.values()))
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index} names files outside its folder: {_advise(checkpoint)}")
        return [checkpoint / name for name in names]
    if is_sharded and any(checkpoint.glob("pytorch_model_fsdp*")):
        return []
    return [checkpoint / _WEIGHTS]


def _read_shapes(path: Path) -> dict[str, list[int]]:
    """Reads the shapes of the weights in a file. Raises a `ValueError` unless the file is as long as it says."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: {_advise(path.parent)}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, {error}: {_advise(path.parent)}") from error


def _load(path: Path, what: str, names: Sequence[str]) -> Mapping[str, Any]:
    """
    Loads a file of `torch.save`, its tensors only when they are used. Raises a `ValueError` unless the file has its
    end, where its list of contents is, and these names.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: {_advise(path.parent)}")
    with path.open("rb") as file:  # without permission this is an `OSError`
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is damaged, its end is missing: {_advise(path.parent)}")
    with loading(what, path.parent), safe_globals():
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if missing := [name for name in names if name not in content]:
            raise ValueError(f"{path.name} has no {', '.join(missing)}")
        return content


@contextmanager
def loading(what: str, checkpoint: Path) -> Iterator[None]:
    """Turns any error of loading a part of a checkpoint into a `ValueError` that names the part."""
    try:
        yield
    except Exception as error:  # anything can be in a damaged file
        raise ValueError(f"The {what} in {checkpoint} cannot be used, {error}: {_advise(checkpoint)}") from error


@contextmanager
def without_hints_at_intervals() -> Iterator[None]:
    """
    Keeps Transformers from warning that a checkpoint has other intervals of logging and saving: the ones that are
    given are used, and it takes a fraction of the training for another number of steps.
    """

    def is_something_else(record: Any) -> bool:
        return "do not match the ones in the `trainer_state.json`" not in record.getMessage()

    comparing = getLogger("transformers.trainer_utils")
    comparing.addFilter(is_something_else)
    try:
        yield
    finally:
        comparing.removeFilter(is_something_else)

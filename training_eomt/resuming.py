"""Whether a checkpoint can be resumed from, and by this training: found out before the first step."""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.utils import logging

from .comparison import differences, model_settings
from .data.base import SegmentationDataset
from .folders import CONFIG


if TYPE_CHECKING:
    from .resumable_trainer import ResumableTrainer


logger = logging.get_logger(__name__)

STATE = "trainer_state.json"
SETTINGS = "training_settings.json"  # of a checkpoint: which training it is of
TRAINED_WEIGHTS = "trained_weights.safetensors"  # of a checkpoint whose model is an average
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# Arguments that a training is begun with, and that its checkpoints or its course depend on.
_ARGUMENTS = (
    "seed",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "learning_rate",
    "layer_decay",
    "decay_query_blocks",
    "weight_decay",
    "max_grad_norm",
    "poly_power",
    "ema_decay",
    "freeze_backbone",
    "freeze_layers",
    "mask_annealing",
)
_FOLLOW_FROM_STEPS = ("warm_up", "mask_annealing_starts_and_ends")

Count = Annotated[int, msgspec.Meta(ge=0)]


class _ControlArguments(msgspec.Struct):
    should_training_stop: bool = False


class _Control(msgspec.Struct):
    args: _ControlArguments


class _Callbacks(msgspec.Struct):
    TrainerControl: _Control


class _State(msgspec.Struct):
    """What is relied on of a `trainer_state.json`."""

    epoch: Annotated[float, msgspec.Meta(ge=0)]
    global_step: Count
    max_steps: Annotated[int, msgspec.Meta(ge=1)]
    log_history: list[dict[str, Any]]
    stateful_callbacks: _Callbacks
    total_flos: float
    train_batch_size: Annotated[int, msgspec.Meta(ge=1)]
    num_input_tokens_seen: Count
    best_metric: float | None = None
    best_global_step: Count | None = None
    best_model_checkpoint: str | None = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Settings(msgspec.Struct):
    """What is relied on of a `training_settings.json`; the rest is compared."""

    processes: Annotated[int, msgspec.Meta(ge=1)]
    ema_decay: float | None = None


def _advice(checkpoint: Path) -> str:
    return (
        f"{checkpoint} cannot be resumed from. Name another checkpoint with --resume_from_checkpoint, or start a new "
        "training."
    )


def _read(path: Path, kind: Any) -> tuple[dict[str, Any], Any]:
    """
    What a JSON file of a checkpoint says, as it is and as a `kind`; NaN is allowed there.

    Raises:
        ValueError: the file is missing, or says something else. It is named.
    """
    try:
        content = json.loads(path.read_bytes())
        return content, msgspec.convert(content, kind)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {_advice(path.parent)}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, {error}: {_advice(path.parent)}") from error


def read_state(checkpoint: Path) -> TrainerState:
    """
    The state of a training as a checkpoint has it.

    Raises:
        ValueError: the file is damaged, or written by a version of Transformers that knows more.
    """
    path = checkpoint / STATE
    content, state = _read(path, _State)
    known = [field.name for field in dataclasses.fields(TrainerState)]
    if unknown := [name for name in content if name not in known]:
        raise ValueError(
            f"{path} has {', '.join(map(repr, unknown))}, which this version of Transformers does not know: "
            f"{_advice(checkpoint)}"
        )
    if state.global_step > state.max_steps:
        raise ValueError(f"{path} is at step {state.global_step} of {state.max_steps}: {_advice(checkpoint)}")
    return TrainerState(**content)


def was_ended(state: TrainerState) -> bool:
    """Whether something, such as early stopping, has ended a training before its last step."""
    control = state.stateful_callbacks.get("TrainerControl", {})  # type: ignore[union-attr]  # a dict when loaded
    return bool(control.get("args", {}).get("should_training_stop"))


def check_files(
    checkpoint: Path, *, num_processes: int, process_index: int, is_sharded: bool, has_scaler: bool
) -> None:
    """
    Looks whether all files of a checkpoint are there and were written to their end.

    Args:
        checkpoint: the folder.
        num_processes, process_index: which of how many processes this is.
        is_sharded: whether FSDP writes the model and the optimiser in its own way.
        has_scaler: whether gradients are scaled (fp16).

    Raises:
        ValueError: a file is missing or damaged.
    """
    for path in _weights(checkpoint, is_sharded):
        _check_safetensors(path)
    if has_average(checkpoint):
        _check_safetensors(checkpoint / TRAINED_WEIGHTS)
    if is_sharded:
        if not any(checkpoint.glob("optimizer*")):
            raise ValueError(f"{checkpoint / 'optimizer.bin'} is missing: {_advice(checkpoint)}")
    else:
        _check_archive(checkpoint / "optimizer.pt")
    _check_archive(checkpoint / "scheduler.pt")
    if has_scaler:
        _check_archive(checkpoint / "scaler.pt")
    written_by = 1 if (checkpoint / "rng_state.pth").is_file() else len(list(checkpoint.glob("rng_state_*.pth")))
    if (checkpoint / SETTINGS).is_file():
        written_by = _read(checkpoint / SETTINGS, _Settings)[1].processes
    if written_by in (0, num_processes):
        name = "rng_state.pth" if num_processes == 1 else f"rng_state_{process_index}.pth"
        _check_archive(checkpoint / name)
    elif process_index == 0:
        logger.warning(
            f"{checkpoint} was written by {written_by} processes and goes on with {num_processes}: their random "
            "states start anew. Images, their order and their augmentation are what they would have been; dropout is "
            "not."
        )


def has_average(checkpoint: Path) -> bool:
    """Whether a checkpoint's model is an average, so that the weights that were trained are beside it."""
    if (checkpoint / SETTINGS).is_file():
        return _read(checkpoint / SETTINGS, _Settings)[1].ema_decay is not None
    return (checkpoint / TRAINED_WEIGHTS).is_file()


def _weights(checkpoint: Path, is_sharded: bool) -> list[Path]:
    """The files of the model's weights."""
    index = checkpoint / _WEIGHTS_INDEX
    if index.is_file() and not (checkpoint / _WEIGHTS).is_file():
        names = sorted(set(_read(index, _Index)[1].weight_map.values()))
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index} names files outside its folder: {_advice(checkpoint)}")
        return [checkpoint / name for name in names]
    if is_sharded and any(checkpoint.glob("pytorch_model_fsdp*")):
        return []
    return [checkpoint / _WEIGHTS]


def _check_safetensors(path: Path) -> None:
    """Raises a `ValueError` unless a file of weights is as long as it says."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: {_advice(path.parent)}")
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, {error}: {_advice(path.parent)}") from error


def _check_archive(path: Path) -> None:
    """Raises a `ValueError` unless a file of `torch.save` has its end, where its list of contents is."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: {_advice(path.parent)}")
    with path.open("rb") as file:  # without permission this is an `OSError`
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is damaged, its end is missing: {_advice(path.parent)}")


@contextmanager
def loading(what: str, checkpoint: str | Path) -> Iterator[None]:
    """Whatever fails while a part of a checkpoint is loaded is an error that names the part."""
    try:
        yield
    except Exception as error:  # anything can be in a damaged file
        raise ValueError(f"The {what} in {checkpoint} cannot be used, {error}: {_advice(Path(checkpoint))}") from error


@contextmanager
def without_hints_at_intervals() -> Iterator[None]:
    """
    Transformers does not warn that a checkpoint has other intervals of logging and saving: those given are used, and
    it takes a fraction of the training for another number of steps.
    """

    def is_something_else(record: Any) -> bool:
        return "do not match the ones in the `trainer_state.json`" not in record.getMessage()

    comparing = getLogger("transformers.trainer_utils")
    comparing.addFilter(is_something_else)
    try:
        yield
    finally:
        comparing.removeFilter(is_something_else)


# Whether it is the same training


def settings_of(trainer: "ResumableTrainer", total_steps: int) -> dict[str, Any]:
    """What makes two trainings the same, as JSON has it, and how many processes share it."""
    arguments, samples, augmentation = trainer.args, trainer.train_dataset.samples, trainer.train_dataset.augmentation
    image_processor = trainer.train_dataset.image_processor
    names = hashlib.sha256()
    if isinstance(samples, SegmentationDataset):
        for index in range(len(samples)):
            names.update(os.path.basename(samples.name(index)).encode() + b"\n")
    settings = {
        "steps": total_steps,
        "images_per_step": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        "training_images": len(samples),
        "training_image_names_sha256": names.hexdigest(),
        **{name: getattr(arguments, name) for name in _ARGUMENTS},
        "task": image_processor.task,
        **{name: getattr(image_processor, name) for name in ("image_mean", "image_std")},
        "augmentation": augmentation is not None,
        "warm_up": arguments.warmup_stages(total_steps),
        "processes": arguments.world_size,
    }
    if augmentation is not None:
        settings |= {"scale_range": augmentation.scale_range, "color_jitter": augmentation.color_jitter is not None}
    if arguments.mask_annealing:
        settings["mask_annealing_starts_and_ends"] = arguments.annealing_schedule(
            total_steps, trainer.bare_model.config.num_blocks
        )
    return json.loads(json.dumps(settings))


def check_same_training(checkpoint: Path, state: TrainerState, settings: Mapping[str, Any]) -> None:
    """
    Raises a `ValueError` unless a training is the one that a checkpoint is of.

    Args:
        checkpoint: the folder.
        state: what it says in `trainer_state.json`.
        settings: of this training, see `settings_of`.
    """
    path = checkpoint / SETTINGS
    if path.is_file():
        before = _read(path, _Settings)[0]
    else:
        before = {**settings, "steps": state.max_steps}
        logger.warning(
            f"{path} is missing: whether this is the training that was stopped cannot be told, only that it "
            f"was {state.max_steps} steps long."
        )
    left_out = {"processes", *(_FOLLOW_FROM_STEPS if before.get("steps") != settings["steps"] else ())}
    _check_same(checkpoint, differences(before, settings, left_out))


def check_same_model(checkpoint: Path, config: Any) -> None:
    """Raises a `ValueError` unless a model is of the kind that a checkpoint is of, in everything but its weights."""
    if (checkpoint / CONFIG).is_file():
        stored = type(config).from_pretrained(checkpoint)
        _check_same(checkpoint, differences(model_settings(stored), model_settings(config)))


def _check_same(checkpoint: Path, differing: list[str]) -> None:
    if differing:
        raise ValueError(
            f"{checkpoint} is of another training:\n"
            + "\n".join(differing)
            + "\nResume with the same data and settings, or start a new training from its weights with "
            f"--model_name_or_path {checkpoint} and another --output_dir."
        )

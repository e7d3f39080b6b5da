"""The settings that make two runs the same, and where they differ."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.utils import logging

from .checkpoints import SETTINGS, read_settings
from .data.base import SegmentationDataset
from .folders import CONFIG


logger = logging.get_logger(__name__)


# Settings of a configuration that say where it comes from, or that Trainer writes into it.
_PROVENANCE = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version", "use_cache")
_MAX_SHOWN = 100  # characters of a value
_MAX_LINES = 20
# Arguments that a training is begun with, and that its checkpoints or its course depend on.
_OPTIMIZER = ("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm")
_LEARNING_RATE = ("learning_rate", "layer_decay", "decay_query_blocks", "poly_power")
_ARGUMENTS = ("seed", *_OPTIMIZER, *_LEARNING_RATE, "ema_decay", "freeze_backbone", "freeze_layers", "mask_annealing")
_FOLLOW_FROM_STEPS = ("warm_up", "mask_annealing_starts_and_ends")


def model_settings(config: Any) -> dict[str, Any]:
    """Returns a configuration without its provenance, as JSON."""
    return _without_provenance(config.to_json_string(use_diff=False))


def processor_settings(image_processor: Any) -> dict[str, Any]:
    """Returns the settings of an image processor, as JSON."""
    return _without_provenance(image_processor.to_json_string())


def _without_provenance(text: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(text).items() if name not in _PROVENANCE}


def differences(there: Mapping[str, Any], now: Mapping[str, Any], left_out: Iterable[str] = ()) -> list[str]:
    """
    Lists where two collections of settings differ, a line for each of the first settings that do.

    Args:
        there, now: JSON. Entries of nested ones are called by their path, such as `size.height`.
        left_out: names that may differ.
    """
    before, after = _flatten(there), _flatten(json.loads(json.dumps(now)))
    lines = [
        f"  {name}: {_shorten(before.get(name))} there, {_shorten(after.get(name))} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name not in left_out
    ]
    more = [f"  and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
    return lines[:_MAX_LINES] + more


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the entries of nested dicts by their path, `{"size": {"height": 1}}` as `{"size.height": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def training_settings(trainer: Any, total_steps: int) -> dict[str, Any]:
    """Returns what makes two trainings the same, as JSON, and the number of processes that share the training."""
    arguments, samples, augmentation = trainer.args, trainer.train_dataset.samples, trainer.train_dataset.augmentation
    image_processor = trainer.train_dataset.image_processor
    names = hashlib.sha256()
    if isinstance(samples, SegmentationDataset):
        for index in range(len(samples)):
            names.update(os.path.basename(samples.name(index)).encode() + b"\n")
    settings = {
        "steps": total_steps,
        "images_per_step": arguments.images_per_step,
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
    if arguments.save_on_each_node:
        settings["random_states"] = int(os.environ.get("LOCAL_WORLD_SIZE", arguments.world_size))
    return json.loads(json.dumps(settings))


def check_same_training(checkpoint: Path, state: TrainerState, settings: Mapping[str, Any]) -> None:
    """
    Raises a `ValueError` unless a checkpoint, with its `trainer_state.json`, belongs to the training with these
    [`training_settings`]; the settings that differ are listed.
    """
    path = checkpoint / SETTINGS
    if path.is_file():
        before = read_settings(checkpoint)[0]
    else:
        before = {**settings, "steps": state.max_steps}
        logger.warning(
            f"{path} is missing: whether this is the training that was stopped cannot be told, only that it "
            f"was {state.max_steps} steps long."
        )
    left_out = {
        "processes",
        "random_states",
        *(_FOLLOW_FROM_STEPS if before.get("steps") != settings["steps"] else ()),
    }
    _check_same(checkpoint, differences(before, settings, left_out))


def check_same_model(checkpoint: Path, config: Any) -> None:
    """Raises a `ValueError` unless a model is what a checkpoint holds, in everything but its weights."""
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

"""How arguments are declared, and which names and numbers are right: on a command line, in a recipe, in Python."""

import difflib
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, NamedTuple


def argument(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    """Declares an argument, a field of a dataclass."""
    metadata = {"help": help, **({"choices": list(choices)} if choices else {})}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Range(NamedTuple):
    """Which numbers are allowed.

    Args:
        says: the end of an error message, without the full stop.
        holds: whether a finite number is one of them.
        is_whole: whether only whole numbers are.
    """

    says: str
    holds: Callable[[float], bool]
    is_whole: bool = False


def _between(low: float, high: float) -> Range:
    return Range(f"it must be a number from {low:g} to {high:g}", lambda value: low <= value <= high)


def _whole(low: int, high: int) -> Range:
    return Range(f"it must be a whole number from {low:,} to {high:,}", lambda value: low <= value <= high, True)


def _is_step(value: float) -> bool:
    """Returns whether a number is a fraction of training or a number of steps."""
    return 0 <= value < 1 or (1 <= value <= MAX_STEPS and value == int(value))


MAX_STEPS = 10**9
MAX_PIXELS = 2**14  # of a side of the input; attention over more patches fits no machine
_STEP = Range(
    f"it must be a whole number of steps up to {MAX_STEPS:,}, or a fraction of training from 0 to below 1", _is_step
)
_EVERY = Range(
    f"it must be a whole number of steps up to {MAX_STEPS:,}, or a fraction of training above 0 and below 1",
    lambda value: value > 0 and _is_step(value),
)
_BATCH = _whole(1, 2**20)
_SAMPLES = _whole(1, 10**12)
_BETA = Range("it must be a number from 0 to below 1", lambda value: 0 <= value < 1)
_UP_TO_1 = Range("it must be a number above 0 and up to 1", lambda value: 0 < value <= 1)

RANGES: dict[str, Range] = {
    # The model
    "num_queries": Range("there must be at least one, and at most 10,000", lambda value: 1 <= value <= 10_000, True),
    "num_blocks": _whole(1, 1000),
    # The data
    "image_size": _whole(1, MAX_PIXELS),
    "scale_range": Range("it must be a number above 0 and up to 100", lambda value: 0 < value <= 100),
    "train_val_split": Range(
        "it must be a fraction below 1 or a number of images, and above 0",
        lambda value: 0 < value < 1 or (1 <= value <= 10**12 and value == int(value)),
    ),
    "ignore_index": _whole(-(2**31), 2**32 - 1),
    **dict.fromkeys(("max_image_pixels", "max_train_samples", "max_eval_samples"), _SAMPLES),
    # Prediction
    **dict.fromkeys(("threshold", "mask_threshold", "overlap_mask_area_threshold"), _between(0, 1)),
    "top_k": _whole(1, 10**6),
    # The optimisation
    **dict.fromkeys(("learning_rate", "weight_decay", "poly_power"), _between(0, 100)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), _BETA),
    **dict.fromkeys(("adam_epsilon", "layer_decay"), _UP_TO_1),
    "max_grad_norm": Range("it must be a number from 0 (no clipping) to 1e9", lambda value: 0 <= value <= 1e9),
    "ema_decay": Range("it must lie between 0 and 1, both excluded", lambda value: 0 < value < 1),
    "freeze_layers": Range("it must be a whole number and cannot be negative", lambda value: 0 <= value <= 1000, True),
    # Its length and steps
    "num_train_epochs": Range("it must be above 0 and up to 1e6", lambda value: 0 < value <= 1e6),
    "max_steps": Range(
        f"it must be a whole number from 1 to {MAX_STEPS:,}, or -1 for num_train_epochs instead",
        lambda value: value == -1 or 1 <= value <= MAX_STEPS,
        True,
    ),
    "total_batch_size": Range(
        "it must be a whole number of images, at least 1: fewer cannot be shared evenly by the devices",
        lambda value: 1 <= value <= 2**20,
        True,
    ),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), _BATCH),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps"), _BATCH),
    **dict.fromkeys(("new_parameters_warmup_steps", "backbone_warmup_steps", "warmup_steps"), _STEP),
    **dict.fromkeys(("mask_annealing_starts", "mask_annealing_ends"), _STEP),
    # What happens in between
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), _EVERY),
    "eval_delay": _between(0, MAX_STEPS),
    **dict.fromkeys(("early_stopping_patience", "save_total_limit"), _whole(1, 10**6)),
    "torch_empty_cache_steps": _whole(1, MAX_STEPS),
    # The machine
    "seed": _whole(0, 2**32 - 1),
    "dataloader_num_workers": _whole(0, 1024),
    "dataloader_prefetch_factor": _whole(1, 1024),
    "ddp_bucket_cap_mb": _whole(1, 2**20),
    "ddp_timeout": _whole(1, 10**8),
}


def check_ranges(arguments: Mapping[str, Any]) -> None:
    """
    Checks all arguments that have a range. None stands for an argument that is not given; lists are checked item by
    item.

    Raises:
        ValueError: one is not a number, not finite or out of its range; the message names argument, value and range.
    """
    for name, given in arguments.items():
        if name not in RANGES or given is None:
            continue
        for value in given if isinstance(given, list | tuple) else [given]:
            if not _is_allowed(value, RANGES[name]):
                raise ValueError(f"--{name} {_format(value)}: {RANGES[name].says}.")


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Raises a `ValueError` for the first name that is not known, with a suggestion."""
    for name in given:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{where}: there is no {name!r}." + (f" Did you mean {similar[0]!r}?" if similar else ""))


def _is_allowed(value: Any, allowed: Range) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    if not isinstance(value, numbers.Integral) and (allowed.is_whole or not math.isfinite(value)):
        return False
    return bool(allowed.holds(value))  # type: ignore[arg-type]


def _format(value: Any) -> str:
    """Formats a value for a message, in at most a line."""
    try:
        text = str(value)
    except ValueError:  # Python does not print numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}..."

"""The tasks, the settings of their post-processing, and checks of every setting where it comes in."""

import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.image_utils import ChannelDimension
from transformers.utils import TensorType

from .geometry_eomt import parse_size


MAX_OUTPUT_PIXELS = 2**30  # of one result
MAX_SHOWN = 100  # characters of a wrong value
_LIKELY_MISSPELT = 0.8  # similarity of two names, 0 to 1
# PIL's numbers of filters by the value of torchvision's `InterpolationMode`.
_PIL_FILTERS = {"nearest": 0, "nearest-exact": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


class Rule(NamedTuple):
    """
    The values that a setting takes.

    convert: returns the value as plain Python, or raises if the setting does not take it.
    expected: the values it takes, in words.
    """

    convert: Callable[[Any], Any]
    expected: str


def _bool(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError
    return bool(value)


def _integer(low: float = -math.inf, high: float = math.inf) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
            raise ValueError
        return int(value)

    return convert


def _number(low: float = -math.inf, high: float = math.inf) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not low <= value <= high:
            raise ValueError
        return float(value)

    return convert


def _list(value: Any) -> list[Any]:
    if isinstance(value, str | bytes | Mapping):
        raise ValueError
    return list(value.tolist() if isinstance(value, np.ndarray | Tensor) else value)


def _per_channel(convert: Callable[[Any], float]) -> Callable[[Any], float | tuple[float, ...]]:
    def convert_all(value: Any) -> float | tuple[float, ...]:
        if isinstance(value, Real):
            return convert(value)
        values = tuple(map(convert, _list(value)))
        if not values:
            raise ValueError
        return values

    return convert_all


def _only(kind: Callable[[Any], Any], *choices: Any) -> Callable[[Any], Any]:
    """Takes what `kind` makes of it if it is among `choices`, or whatever `kind` accepts without any."""

    def convert(value: Any) -> Any:
        if kind(value) not in choices and choices:
            raise ValueError
        return value

    return convert


def _filter(value: Any) -> int:
    is_of_torchvision = type(value).__name__ == "InterpolationMode"
    return _integer(0, 5)(_PIL_FILTERS[value.value] if is_of_torchvision else value)


def _size(value: Any) -> int | list[int] | dict[str, int]:
    """In the form in which it was given, as Transformers' own checks want it."""
    parse_size(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Sequence):
        return [int(edge) for edge in value]
    return {name: int(edge) for name, edge in dict(value).items() if edge is not None}


def _unused_size(value: Any) -> dict[str, int]:
    height, width = parse_size(value)
    return {"height": height, "width": width}


def _device(value: Any) -> Any:
    if torch.device(value).type == "cuda" and not torch.cuda.is_available():
        raise ValueError
    return value


_POSITIVE = _number(sys.float_info.min)  # whose reciprocal is finite
_FLAG = Rule(_bool, "True or False")
_FRACTION = Rule(_number(0, 1), "a number from 0 to 1")
_COUNT = Rule(_integer(1), "a whole number, at least 1")
_CLASSES = Rule(lambda value: list(map(_integer(0), _list(value))), "a list of classes, whole numbers from 0")


@dataclass(frozen=True)
class Task:
    """
    A kind of segmentation that a checkpoint is for, as image processors know it.

    Args:
        name: the processor's `task`.
        has_segments: whether post-processing returns `segmentation` and `segments_info` of an image, rather than the
            class of every pixel. A query is then a thing in the whole image, and windows cannot be merged.
        segments_overlap: whether segments may overlap, so that each has a mask of its own (with `return_binary_maps`
            or `return_coco_annotation`).
        do_split_image: the default: whether images are cut into windows, rather than fitted and padded.
    """

    name: str
    has_segments: bool = True
    segments_overlap: bool = False
    do_split_image: bool = False

    @property
    def method(self) -> str:
        """The name of the image processor's post-processing method."""
        return f"post_process_{self.name}_segmentation"

    @property
    def settings(self) -> dict[str, "Setting"]:
        """The settings that its post-processing uses."""
        return {name: setting for name, setting in POST_PROCESSING.items() if self.name in setting.tasks}


@dataclass(frozen=True)
class Setting:
    """
    A setting of post-processing: an argument of its tasks' methods.

    tasks: the names of the tasks that use it.
    rule: the values it takes.
    type: as image processors declare it.
    default: what it is where nothing is given.
    may_be_none: whether None is a value of its own, rather than the default.
    is_stored: whether it is also a setting that image processors store and an argument of the pipeline. Others only
        choose the form of a method's result.
    """

    tasks: tuple[str, ...]
    rule: Rule
    type: Any
    default: Any = None
    may_be_none: bool = False
    is_stored: bool = True


TASKS = {
    task.name: task
    for task in (
        Task("panoptic"),
        Task("instance", segments_overlap=True),
        Task("semantic", has_segments=False, do_split_image=True),
    )
}
"""The tasks by their names. Transformers' own pipeline takes the first post-processing method that it finds, in this
order."""

# In the order in which the methods take them.
POST_PROCESSING = {
    # score above which (for instances, from which) a query becomes a segment
    "threshold": Setting(("panoptic", "instance"), _FRACTION, float, 0.8),
    # probability from which a pixel is part of a mask
    "mask_threshold": Setting(("panoptic", "instance"), _FRACTION, float, 0.5),
    # share of the area of its mask that a query must win against the others
    "overlap_mask_area_threshold": Setting(("panoptic",), _FRACTION, float, 0.8),
    # classes of which there is at most one segment per image
    "stuff_classes": Setting(("panoptic",), _CLASSES, list[int], None, may_be_none=True),
    # number of pairs of a query and a class that can become instances; None for all
    "top_k": Setting(("instance",), _COUNT, int, 100, may_be_none=True),
    # a bool mask for each instance
    "return_binary_maps": Setting(("instance",), _FLAG, bool, False, is_stored=False),
    # a mask for each instance, in COCO's run lengths
    "return_coco_annotation": Setting(("instance",), _FLAG, bool, False, is_stored=False),
    # the scores of all classes too, `num_classes` x 4 bytes a pixel
    "return_segmentation_scores": Setting(("semantic",), _FLAG, bool, False, is_stored=False),
}
STORED = {name: setting for name, setting in POST_PROCESSING.items() if setting.is_stored}

_TASK = Rule(lambda value: TASKS[value].name, f"one of {', '.join(map(repr, TASKS))}")
_RULES: dict[str, Rule] = {
    **{name: setting.rule for name, setting in POST_PROCESSING.items()},
    **dict.fromkeys(("task", "subtask"), _TASK),
    **dict.fromkeys(
        ("default_to_square", "disable_grouping", "do_convert_rgb", "do_normalize", "do_pad", "do_reduce_labels"),
        _FLAG,
    ),
    **dict.fromkeys(("do_rescale", "do_resize", "do_split_image"), _FLAG),
    "do_center_crop": Rule(_only(_bool, False), "False: the model sees whole images"),
    "size": Rule(_size, "an int, (height, width), {'height', 'width'} or {'shortest_edge', 'longest_edge'} in pixels"),
    **dict.fromkeys(("crop_size", "pad_size"), Rule(_unused_size, "an int or (height, width) in pixels")),
    "resample": Rule(_filter, "one of PIL's filters, a number from 0 to 5 (2 is bilinear)"),
    "rescale_factor": Rule(_POSITIVE, "a finite number above 0"),
    "image_mean": Rule(_per_channel(_number()), "a finite number, or one for each channel"),
    "image_std": Rule(_per_channel(_POSITIVE), "a finite number above 0, or one for each channel"),
    "ignore_index": Rule(_integer(), "a whole number or None"),
    "data_format": Rule(
        _only(ChannelDimension, ChannelDimension.FIRST), "'channels_first', which is what the model takes"
    ),
    "input_data_format": Rule(_only(ChannelDimension), "'channels_first' or 'channels_last'"),
    "return_tensors": Rule(_only(TensorType), f"one of {', '.join(repr(kind.value) for kind in TensorType)}"),
    "device": Rule(_device, "a device of this machine, such as 'cpu' or 'cuda:0'"),
    # of the pipeline
    "timeout": Rule(_POSITIVE, "a number of seconds above 0"),
    "batch_size": Rule(_integer(1, 2**16), f"a whole number from 1 to {2**16}"),
    "num_workers": Rule(_integer(0, 2**10), f"a whole number from 0 to {2**10}"),
}


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns settings as plain Python values; None, which stands for a default, and names without a rule stay.

    Raises:
        ValueError: the first value that its setting does not take.
    """
    checked = dict(settings)
    for name, value in settings.items():
        if value is not None and name in _RULES:
            try:
                checked[name] = _RULES[name].convert(value)
            except (ValueError, TypeError, OverflowError, RuntimeError, KeyError) as error:  # of any conversion
                shown = repr(value)
                shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
                raise ValueError(f"{name} must be {_RULES[name].expected}, got {shown}.") from error
    return checked


def check_names(given: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raises a `ValueError` for the first setting that `owner` does not have, with the closest that it has."""
    for name in given:
        if name not in known:
            (closest,) = get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(
                f"{owner} has no setting {name!r}; the closest is {closest!r}. There are {', '.join(sorted(known))}."
            )


def check_spelling(given: Iterable[str], known: Collection[str], owner: str) -> None:
    """As `check_names`, but only for names that are close to one of a setting: others belong to someone else."""
    check_names(
        (name for name in given if get_close_matches(str(name), known, n=1, cutoff=_LIKELY_MISSPELT)), known, owner
    )


def check_task_settings(given: Iterable[str], task: Task) -> None:
    """Raises a `ValueError` for the first setting of post-processing that only other tasks have."""
    for name in given:
        if name in POST_PROCESSING and name not in task.settings:
            others = POST_PROCESSING[name].tasks
            raise ValueError(
                f"{name} is a setting of {' and '.join(others)} segmentation, and this is {task.name} segmentation: "
                f"leave it out, or ask for {' or '.join(map(repr, others))}."
            )


def check_outputs(outputs: Any) -> None:
    """
    Raises a `ValueError` unless these are a model's logits.

    Args:
        outputs: has `class_queries_logits` `(batch, num_queries, num_classes + 1)` and `masks_queries_logits`
            `(batch, num_queries, mask_height, mask_width)`, which may also be a sequence of `batch` tensors.
    """
    for name in ("masks_queries_logits", "class_queries_logits"):
        if not hasattr(outputs, name):
            raise ValueError(f"outputs must be what the model returned; {type(outputs).__name__} has no {name}.")
    classes, masks = outputs.class_queries_logits, outputs.masks_queries_logits
    if not isinstance(classes, Tensor) or not classes.is_floating_point() or classes.ndim != 3 or classes.shape[2] < 2:
        raise ValueError(
            "class_queries_logits must be floating point of shape (batch, num_queries, num_classes + 1), got "
            f"{_describe(classes)}."
        )
    if isinstance(masks, Tensor) and masks.ndim == 4:
        each = masks.unbind()
    else:
        each = tuple(masks) if isinstance(masks, Sequence) else ()
    if len(each) != len(classes) or not all(_are_masks(one, classes.shape[1]) for one in each):
        raise ValueError(
            "masks_queries_logits must be floating point of shape (batch, num_queries, height, width), with batch and "
            f"num_queries as in class_queries_logits, {tuple(classes.shape[:2])}, got {_describe(masks)}."
        )


def _are_masks(logits: Any, num_queries: int) -> bool:
    is_tensor = isinstance(logits, Tensor) and logits.is_floating_point() and logits.ndim == 3
    return is_tensor and len(logits) == num_queries and min(logits.shape[1:]) > 0


def check_finite(class_scores: Tensor, mask_logits: Tensor) -> None:
    """Raises a `ValueError` for predictions that are not finite, as broken weights or inputs give."""
    # A sum with a value that is not finite is not finite. One question to the device, and one pass over the masks.
    if not (class_scores.sum(dtype=torch.float32) + mask_logits.sum(dtype=torch.float32)).isfinite():
        raise ValueError(
            "The model's predictions are not finite (NaN or infinite): its weights may be damaged, overflow in half "
            "precision (use bfloat16 or float32), or it was given pixels that are not finite."
        )


def check_target_sizes(target_sizes: Any) -> list[tuple[int, int]]:
    """
    Returns one `(height, width)` per image.

    Raises:
        ValueError: these are not sizes.
    """
    if isinstance(target_sizes, Tensor):
        target_sizes = target_sizes.tolist()
    try:
        given = [size.tolist() if isinstance(size, Tensor) else tuple(size) for size in target_sizes]
    except TypeError as error:
        raise ValueError(
            f"target_sizes must be a (height, width) in pixels for each image, got {target_sizes!r:.100}."
        ) from error
    for index, size in enumerate(given):
        is_size = isinstance(size, list | tuple) and len(size) == 2 and all(_is_edge(edge) for edge in size)
        if not is_size or size[0] * size[1] > MAX_OUTPUT_PIXELS:
            raise ValueError(
                f"Target size {index} must be (height, width) in pixels, whole numbers from 1 and together at most "
                f"{MAX_OUTPUT_PIXELS:,} pixels, got {size!r:.100}."
            )
    return [(int(height), int(width)) for height, width in given]


def _is_edge(edge: Any) -> bool:
    if isinstance(edge, Tensor) and edge.ndim == 0:
        edge = edge.item()
    is_number = isinstance(edge, Real) and not isinstance(edge, bool)
    return is_number and bool(edge >= 1 and edge % 1 == 0)


def _describe(value: Any) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__

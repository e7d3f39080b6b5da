"""Settings of image processors and pipelines, checked where they come in."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_utils import ChannelDimension
from transformers.utils import TensorType

from .sizes_eomt import padded_size
from .tasks_eomt import check_task


# By the value of torchvision's `InterpolationMode`, the number that PIL gives the same filter.
_PIL_FILTERS = {"nearest": 0, "nearest-exact": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
MAX_SHOWN = 100  # characters of a wrong value
_LIKELY_MISSPELT = 0.8  # how alike two names are, 0 to 1


def check_names(given: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raises a `ValueError` for the first setting that `owner` does not have, with the closest that it has."""
    for name in given:
        if name not in known:
            (closest,) = get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(
                f"{owner} has no setting {name!r}; the closest is {closest!r}. There are {', '.join(sorted(known))}."
            )


def check_spelling(given: Iterable[str], known: Collection[str], owner: str) -> None:
    """As `check_names`, but only for names that are nearly those of a setting: others are somebody else's."""
    check_names(
        (name for name in given if get_close_matches(str(name), known, n=1, cutoff=_LIKELY_MISSPELT)), known, owner
    )


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Settings of an image processor as plain Python values; None, which stands for a default, stays.

    Raises:
        ValueError: the first value that is not what its setting takes.
    """
    checked = {}
    for name, value in settings.items():
        if value is not None and name in _RULES:
            rule, expected = _RULES[name]
            try:
                value = rule(value)
            except (
                ValueError,
                TypeError,
                OverflowError,
                RuntimeError,
            ) as error:  # what conversions of any value raise
                raise ValueError(f"{name} must be {expected}, got {_short(value)}.") from error
        elif value is not None and name == "size":
            value = _size(value)
        elif value is not None and name == "task":
            check_task(value)
        checked[name] = value
    return checked


def checked_arguments(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: an argument that the method does not have is a `ValueError` that names the closest it has."""
    known = list(signature(method).parameters)[1:]

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_names(kwargs, known, method.__name__)
        return method(self, *args, **kwargs)

    return call


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _bool(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError
    return bool(value)


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _at_least(smallest: int) -> Callable[[Any], int]:
    def rule(value: Any) -> int:
        if _int(value) < smallest:
            raise ValueError
        return int(value)

    return rule


def _fraction(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError
    return _number(value)


def _positive(value: Any) -> float:
    if _number(value) <= 0 or not math.isfinite(1 / value):
        raise ValueError
    return _number(value)


def _for_channels(rule: Callable[[Any], float]) -> Callable[[Any], float | tuple[float, ...]]:
    def of_all(value: Any) -> float | tuple[float, ...]:
        if isinstance(value, Real):
            return rule(value)
        values = tuple(rule(each) for each in _listed(value))
        if not values:
            raise ValueError
        return values

    return of_all


def _classes(value: Any) -> list[int]:
    return [_at_least(0)(each) for each in _listed(value)]


def _listed(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping):
        raise ValueError
    return list(value)


def _filter(value: Any) -> int:
    value = _PIL_FILTERS.get(value.value, value) if type(value).__name__ == "InterpolationMode" else value
    if not 0 <= _int(value) <= 5:
        raise ValueError
    return int(value)


def _size(value: Any) -> int | list[int] | dict[str, int]:
    """In the form in which it was given, as Transformers' own checks want it."""
    padded_size(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Sequence):
        return [int(edge) for edge in value]
    return {name: int(edge) for name, edge in dict(value).items() if edge is not None}


def _unused_size(value: Any) -> dict[str, int]:
    height, width = padded_size(value)
    return {"height": height, "width": width}


def _no(value: Any) -> bool:
    if _bool(value):
        raise ValueError
    return False


def _channels_first(value: Any) -> Any:
    if ChannelDimension(value) != ChannelDimension.FIRST:
        raise ValueError
    return value


def _channel_dimension(value: Any) -> Any:
    ChannelDimension(value)
    return value


def _tensor_type(value: Any) -> Any:
    TensorType(value)
    return value


def _device(value: Any) -> Any:
    if torch.device(value).type == "cuda" and not torch.cuda.is_available():
        raise ValueError
    return value


_BOOL = (_bool, "True or False")
_FRACTION = (_fraction, "a number from 0 to 1")
_RULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(
        (
            "default_to_square",
            "disable_grouping",
            "do_convert_rgb",
            "do_normalize",
            "do_pad",
            "do_reduce_labels",
            "do_rescale",
            "do_resize",
            "do_split_image",
            "return_binary_maps",
            "return_coco_annotation",
            "return_segmentation_scores",
        ),
        _BOOL,
    ),
    **dict.fromkeys(("threshold", "mask_threshold", "overlap_mask_area_threshold"), _FRACTION),
    **dict.fromkeys(("crop_size", "pad_size"), (_unused_size, "an int or (height, width) in pixels")),
    "data_format": (_channels_first, "'channels_first', which is what the model takes"),
    "device": (_device, "a device of this machine, such as 'cpu' or 'cuda:0'"),
    "do_center_crop": (_no, "False: the model sees whole images"),
    "ignore_index": (_int, "a whole number or None"),
    "image_mean": (_for_channels(_number), "a finite number, or one for each channel"),
    "image_std": (_for_channels(_positive), "a finite number above 0, or one for each channel"),
    "input_data_format": (_channel_dimension, "'channels_first' or 'channels_last'"),
    "resample": (_filter, "one of PIL's filters, a number from 0 to 5 (2 is bilinear)"),
    "rescale_factor": (_positive, "a finite number above 0"),
    "return_tensors": (_tensor_type, f"one of {', '.join(repr(kind.value) for kind in TensorType)}"),
    "stuff_classes": (_classes, "a list of classes, whole numbers from 0"),
    "timeout": (_positive, "a number of seconds above 0"),
    "top_k": (_at_least(1), "a whole number, at least 1"),
}

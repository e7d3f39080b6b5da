"""The fields of a configuration: what they may be, as they come from files and command lines, and the named sizes."""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from transformers.activations import ACT2FN


Size = int | list[int] | tuple[int, int]  # in pixels: one number for a square, or height and width

MAX_CLASSES = 2**16

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def shorten(value: Any) -> str:
    """Returns a value as it would be written in Python, shortened."""
    return _repr.repr(value)


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number, which True and 1.0 are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number, which True and nan are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


EOMT_SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "num_blocks": 3},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_blocks": 3},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "num_blocks": 4},
    "giant": {
        "hidden_size": 1536,
        "num_hidden_layers": 40,
        "num_attention_heads": 24,
        "num_blocks": 5,
        "use_swiglu_ffn": True,
    },
    "7b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_blocks": 5,
        "num_register_tokens": 0,
        "use_swiglu_ffn": True,
    },
}
"""
The settings of each published size: `EomtConfig(**EOMT_SIZES["large"])`, `EomtDinov3Config(**...)` for DINOv3's and
`EomtEva02Config(**...)` for EVA-02's.

Numbers of query blocks: section 4.1 of the paper for S, B, L and g; the sizes it does not have take giant's. "7b" is
Web-SSL DINO 7B (https://arxiv.org/abs/2504.01017), the DINOv3 sizes ("dinov3_small", "dinov3_small_plus",
"dinov3_base"...) are from https://arxiv.org/abs/2508.10104, EVA-02's ("eva02_tiny"...) from
https://arxiv.org/abs/2303.11331.
"""
EOMT_SIZES |= {
    "dinov3_small": {**EOMT_SIZES["small"], "intermediate_size": 1536},
    "dinov3_small_plus": {**EOMT_SIZES["small"], "intermediate_size": 1536, "use_gated_mlp": True},
    "dinov3_base": {**EOMT_SIZES["base"], "intermediate_size": 3072},
    "dinov3_large": {**EOMT_SIZES["large"], "intermediate_size": 4096},
    "dinov3_huge_plus": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "num_blocks": 5,
        "intermediate_size": 5120,
        "use_gated_mlp": True,
    },
    "dinov3_7b": {
        "hidden_size": 4096,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_blocks": 5,
        "intermediate_size": 8192,
        "use_gated_mlp": True,
        "query_bias": False,
        "value_bias": False,
    },
}
for _name, _settings in EOMT_SIZES.items():
    if _name.startswith("dinov3_"):
        _settings |= {"hidden_act": "silu" if "use_gated_mlp" in _settings else "gelu", "layer_norm_eps": 1e-5}
EOMT_SIZES |= {
    "eva02_tiny": {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "num_blocks": 3,
        "intermediate_size": 512,
        "use_mlp_norm": False,
    },
    "eva02_small": {**EOMT_SIZES["small"], "intermediate_size": 1024, "use_mlp_norm": False},
    "eva02_base": {**EOMT_SIZES["base"], "intermediate_size": 2048},
    "eva02_large": {**EOMT_SIZES["large"], "intermediate_size": 2730},
}


def _integer(low: int, high: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {low} to {high}", lambda value: is_integer(value) and low <= value <= high


def _number(low: float, high: float) -> tuple[str, Callable[[Any], bool]]:
    return f"a number from {low:g} to {high:g}", lambda value: is_number(value) and low <= value <= high


def _or_none(rule: tuple[str, Callable[[Any], bool]]) -> tuple[str, Callable[[Any], bool]]:
    return f"None or {rule[0]}", lambda value: value is None or rule[1](value)


def _size(high: int) -> tuple[str, Callable[[Any], bool]]:
    text, is_length = _integer(1, high)

    def is_size(value: Any) -> bool:
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        return all(map(is_length, value)) if is_pair else is_length(value)

    return f"{text}, or a pair of them, height and width", is_size


def _is_rope(value: Any) -> bool:
    # (Transformers writes `rope_type` as `type` in old files.)
    return isinstance(value, dict) and all(
        is_number(setting) and 0 < setting <= 1e12
        for name, setting in value.items()
        if name not in ("rope_type", "type")
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and (is_integer(number) or (isinstance(number, str) and re.fullmatch("[0-9]{1,9}", number)))
        for name, number in value.items()
    )


def _is_quantization(value: Any) -> bool:
    return isinstance(value.get("quant_method", ""), str) if isinstance(value, dict) else hasattr(value, "to_dict")


def _is_dtype(value: Any) -> bool:
    return isinstance(getattr(torch, value, None) if isinstance(value, str) else value, torch.dtype)


_FLAG: tuple[str, Callable[[Any], bool]] = ("True or False", lambda value: isinstance(value, bool))
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
_PROBABILITY = _number(0, 1)
_WEIGHT = _number(0, 1e6)

# The values that each field takes, in words and as a check. The upper bounds are far above what anybody trains:
# beyond them there is a typing error, or somebody who wants to fill the memory.
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "hidden_size": _integer(1, 2**16),
    "num_hidden_layers": _integer(1, 1000),
    "num_attention_heads": _integer(1, 2**16),
    "hidden_act": (
        "the name of one of Transformers' activations, such as 'gelu'",
        lambda value: isinstance(value, str) and value in ACT2FN,
    ),
    "hidden_dropout_prob": _PROBABILITY,
    "initializer_range": _number(0, 1e6),
    "layer_norm_eps": _number(0, 1),
    "image_size": _size(2**16),
    "patch_size": _size(2**10),
    "num_channels": _integer(1, 2**10),
    "mlp_ratio": _number(1e-3, 1e3),
    "layerscale_value": _number(-1e6, 1e6),
    "drop_path_rate": _PROBABILITY,
    "num_upscale_blocks": _integer(0, 8),
    "attention_dropout": _PROBABILITY,
    "use_swiglu_ffn": _FLAG,
    "num_blocks": _integer(0, 1000),  # and at least 1, which the configuration says with num_hidden_layers
    "no_object_weight": _WEIGHT,
    "class_weight": _WEIGHT,
    "mask_weight": _WEIGHT,
    "dice_weight": _WEIGHT,
    "train_num_points": _integer(1, 2**24),
    "oversample_ratio": _number(1, 1000),
    "importance_sample_ratio": _PROBABILITY,
    "num_queries": _integer(1, 2**16),
    "num_register_tokens": _integer(0, 2**12),
    "label2id": _or_none(("a dictionary from names of classes to numbers", _are_numbers)),
    "num_labels": _integer(1, MAX_CLASSES),
    "intermediate_size": _integer(1, 2**20),
    "rope_parameters": _or_none(("a dictionary with rope_theta, a number above 0", _is_rope)),
    **dict.fromkeys(("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias", "use_gated_mlp"), _FLAG),
    "use_mlp_norm": _FLAG,
    "pos_embed_shift": _or_none(_number(0, 1e3)),
    "pos_embed_jitter": _or_none(_number(1e-3, 1e3)),
    "pos_embed_rescale": _or_none(_number(1e-3, 1e3)),
    # Transformers' own fields, which it does not check
    "architectures": _or_none(("a list of names", _are_texts)),
    "attn_implementation": _or_none(("a name, such as 'sdpa'", lambda value: isinstance(value, (str, dict)))),
    "auto_map": (
        "a dictionary from Auto classes to classes, such as {'AutoConfig': 'configuration_eomt.EomtConfig'}",
        lambda value: isinstance(value, dict) and _are_texts([*value, *value.values()]),
    ),
    **dict.fromkeys(
        ("base_model_tp_plan", "base_model_pp_plan"),
        _or_none(("a dictionary", lambda value: isinstance(value, dict))),
    ),
    "configuration_files": ("a list of names of files", _are_texts),
    "chunk_size_feed_forward": _integer(0, 2**31),
    "dtype": _or_none(("the name of a dtype of PyTorch, such as 'float32'", _is_dtype)),
    "is_encoder_decoder": _FLAG,
    "output_attentions": _or_none(_FLAG),
    "output_hidden_states": _or_none(_FLAG),
    "per_layer_config": _or_none(("a dictionary", lambda value: isinstance(value, dict))),
    "problem_type": _or_none(("a problem type of Transformers", lambda value: value in _PROBLEM_TYPES)),
    "quantization_config": _or_none(("a dictionary with the name of a quant_method", _is_quantization)),
    "return_dict": _or_none(_FLAG),
    "torch_dtype": _or_none(("the name of a dtype of PyTorch, such as 'float32'", _is_dtype)),
    "transformers_version": _or_none(("a text", lambda value: isinstance(value, str))),
}


def check_field(name: str, value: Any) -> None:
    """Raises a ValueError that says which values field `name` takes, if `value` is none of them."""
    if name in _RULES:
        expected, is_as_expected = _RULES[name]
        if not is_as_expected(value):
            raise ValueError(f"{name}={shorten(value)}: expected {expected}.")


def number_labels(id2label: Any) -> dict[int, str]:
    """
    Puts the names of classes under their numbers, in order.

    Args:
        id2label: number -> name. JSON files have the numbers as texts.

    Raises:
        ValueError: something else, named.
    """
    if not isinstance(id2label, Mapping):
        raise ValueError(f"id2label={shorten(id2label)}: expected a dictionary from numbers of classes to names.")
    labels: dict[int, str] = {}
    for key, name in id2label.items():
        is_text = isinstance(key, str) and re.fullmatch("0|[1-9][0-9]{0,8}", key)
        if not (is_text or is_integer(key)):
            raise ValueError(f"id2label has the key {shorten(key)}: expected the number of a class.")
        if not isinstance(name, str):
            raise ValueError(f"id2label[{shorten(key)}] is {shorten(name)}: expected the name of a class, a text.")
        if int(key) in labels:
            raise ValueError(f"id2label has class {int(key)} twice.")
        labels[int(key)] = name
    if not 1 <= len(labels) <= MAX_CLASSES:
        raise ValueError(f"id2label has {len(labels)} classes: expected 1 to {MAX_CLASSES}.")
    if out_of_range := sorted(number for number in labels if not 0 <= number < len(labels)):
        raise ValueError(
            f"id2label numbers {len(labels)} classes, but not from 0 to {len(labels) - 1}: there is "
            f"{', '.join(map(str, out_of_range[:5]))}{'...' if len(out_of_range) > 5 else ''}."
        )
    return dict(sorted(labels.items()))


def as_pair(size: Size) -> tuple[int, int]:
    """Returns `(height, width)` of a size given as one int (square) or as a pair."""
    if is_integer(size):
        return int(size), int(size)  # type: ignore[arg-type]
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError(f"{shorten(size)} is no size: expected one number of pixels, or height and width.")
    height, width = size
    return int(height), int(width)


def patch_grid(image_size: Size, patch_size: Size) -> tuple[int, int]:
    """
    Returns `(rows, columns)` of patches in an image; sizes in pixels, one int for a square or `(height, width)`.

    Raises:
        ValueError: the patch size does not divide the image size, or one of them is no size.
    """
    check_field("image_size", image_size)
    check_field("patch_size", patch_size)
    (height, width), (patch_height, patch_width) = as_pair(image_size), as_pair(patch_size)
    if height % patch_height or width % patch_width:
        raise ValueError(f"image_size={image_size} is not divisible by patch_size={patch_size}.")
    return height // patch_height, width // patch_width


def default_num_blocks(num_hidden_layers: int) -> int:
    """Returns the number of query blocks of the published model that is at least as deep."""
    check_field("num_hidden_layers", num_hidden_layers)
    published = {size["num_hidden_layers"]: size["num_blocks"] for size in EOMT_SIZES.values()}
    deep_enough = [depth for depth in sorted(published) if depth >= num_hidden_layers]
    return min(published[deep_enough[0] if deep_enough else max(published)], num_hidden_layers)


def default_num_upscale_blocks(patch_size: Size) -> int:
    """Returns how many 2x upscalings bring patch tokens to a quarter of the image's resolution, section 3.2."""
    check_field("patch_size", patch_size)
    return max(1, int(math.log2(max(as_pair(patch_size)))) - 2)


__all__ = [
    "EOMT_SIZES",
    "Size",
    "as_pair",
    "check_field",
    "default_num_blocks",
    "default_num_upscale_blocks",
    "is_integer",
    "is_number",
    "number_labels",
    "patch_grid",
    "shorten",
]

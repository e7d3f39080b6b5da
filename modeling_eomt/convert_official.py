"""Checkpoints of the original PyTorch implementation, and what its parameters are called.

Original names: https://github.com/tue-mps/eomt. On DINOv2 the backbone is a timm ViT, on DINOv3 that of Transformers;
both lie in `network.encoder.backbone`, EoMT's own parts beside it. The DINOv3 checkpoints are published as a
difference to the backbone ("delta weights").
"""

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging

from .backbones_eomt import check_tensors, fault_of, read_backbone, read_weight_file
from .configuration_eomt import EomtConfig, EomtDinov3Config, default_num_upscale_blocks
from .modeling_eomt import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation


logger = logging.get_logger(__name__)

_BACKBONE = "network.encoder.backbone."
# Beginning of a name here -> beginning of the name there; the first that fits counts.
_HEAD_NAMES = {
    r"query\.": "network.q.",
    r"class_predictor\.": "network.class_head.",
    r"mask_head\.fc1\.": "network.mask_head.0.",
    r"mask_head\.fc2\.": "network.mask_head.2.",
    r"mask_head\.fc3\.": "network.mask_head.4.",
    r"upscale_block\.block\.(\d+)\.layernorm2d\.": r"network.upscale.\1.norm.",
    r"upscale_block\.block\.": "network.upscale.",
    r"attn_mask_probs": "network.attn_mask_probs",
    r"criterion\.": "criterion.",
}
_BACKBONE_NAMES = {
    "eomt": {
        r"embeddings\.cls_token": "cls_token",
        r"embeddings\.register_tokens": "reg_token",
        r"embeddings\.position_embeddings\.weight": "pos_embed",
        r"embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
        r"layernorm\.": "norm.",
        r"layers\.(\d+)\.attention\.[qkv]_proj\.": r"blocks.\1.attn.qkv.",
        r"layers\.(\d+)\.attention\.out_proj\.": r"blocks.\1.attn.proj.",
        r"layers\.(\d+)\.layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
        r"layers\.(\d+)\.mlp\.(gate|up)_proj\.": r"blocks.\1.mlp.fc1.",
        r"layers\.(\d+)\.mlp\.down_proj\.": r"blocks.\1.mlp.fc2.",
        r"layers\.": "blocks.",
    },
    "eomt_dinov3": {
        r"embeddings\.": "patch_embed.",
        r"layernorm\.": "norm.",
        r"layers\.": "blocks.",
    },
}
# Fused layers there: which part of it is which layer here.
_FUSED = {"q_proj": (0, 3), "k_proj": (1, 3), "v_proj": (2, 3), "gate_proj": (0, 2), "up_proj": (1, 2)}
# What the original stores and this project computes itself: image statistics, loss weights.
_NOT_NEEDED = ("network.encoder.pixel_mean", "network.encoder.pixel_std", "criterion.empty_weight")


def official_parameter_name(name: str, model_type: str = "eomt") -> str:
    """
    What a parameter is called in the original implementation.

    On DINOv2 the query, key and value projections are one there, and so are the gate and the value of a SwiGLU: all of
    their names give that one's.

    Args:
        name: name of a parameter or buffer of a model here.
        model_type: `"eomt"` or `"eomt_dinov3"`.

    Raises:
        KeyError: no such parameter.
    """
    for prefix, names in (("", _HEAD_NAMES), (_BACKBONE, _BACKBONE_NAMES[model_type])):
        for pattern, replacement in names.items():
            if match := re.match(pattern, name):
                return prefix + match.expand(replacement) + name[match.end() :]
    raise KeyError(f"{name!r} is not a parameter of an {model_type!r} model.")


def convert_official_checkpoint(
    checkpoint: str | PathLike | Mapping[str, Tensor],
    config: EomtConfig,
    base_backbone: str | PathLike | None = None,
) -> EomtForUniversalSegmentation:
    """
    A model with the weights of an original checkpoint.

    A class head for another number of classes than the configuration's is left out, with a warning: the model's own
    is new.

    Args:
        checkpoint: path of a `.safetensors`, `.bin`, `.ckpt` or `.pth` file, or the state dict itself.
        config: the model's configuration, an [`EomtDinov3Config`] for DINOv3; see [`infer_config`].
        base_backbone: for delta weights, the folder or Hub name of the backbone they are a difference to.

    Raises:
        ValueError: parameters that are missing, of another shape, unknown or not finite, all listed; a backbone that
            is not supported.
    """
    weights = dict(checkpoint) if isinstance(checkpoint, Mapping) else read_weight_file(checkpoint)
    check_tensors(weights, "The checkpoint")
    is_dinov3 = config.model_type == "eomt_dinov3"
    model = (EomtDinov3ForUniversalSegmentation if is_dinov3 else EomtForUniversalSegmentation)(config)
    converted = _converted(weights, model)
    if base_backbone is not None:
        base = read_backbone(base_backbone, config.model_type).weights_for(model)
        converted = {name: weight + base[name] if name in base else weight for name, weight in converted.items()}
    model.load_state_dict(converted)
    return model


def _converted(weights: Mapping[str, Tensor], model: EomtForUniversalSegmentation) -> dict[str, Tensor]:
    """The weights under the names of the model, all of them of its shapes."""
    converted, problems, used = {}, [], set(_NOT_NEEDED)
    num_classes = model.class_predictor.out_features
    head = weights.get("network.class_head.bias")
    if head is not None and len(head) != num_classes:
        logger.warning(
            f"The checkpoint has {len(head) - 1} classes and the configuration {num_classes - 1}: the class head is "
            f"new and has to be trained; everything else is loaded."
        )
        weights = {name: weight for name, weight in weights.items() if not name.startswith("network.class_head.")}
        used |= {"network.class_head.weight", "network.class_head.bias"}
    for name, parameter in model.state_dict().items():
        official_name = official_parameter_name(name, model.config.model_type)
        if (official_name in used and official_name not in weights) or official_name in _NOT_NEEDED:
            converted[name] = parameter
            continue
        if official_name not in weights:
            if parameter.numel():  # without registers there is nothing to load
                problems.append(f"missing: {official_name}")
            converted[name] = parameter
            continue
        used.add(official_name)
        weight = weights[official_name]
        layer = name.split(".")[-2] if "." in name else ""
        if layer in _FUSED and layer not in official_name and weight.ndim:
            part, num_parts = _FUSED[layer]
            weight = weight.tensor_split(num_parts)[part]
        if name == "embeddings.position_embeddings.weight" and weight.ndim == 3 and len(weight) == 1:
            weight = weight[0]
        if weight.shape != parameter.shape:
            problems.append(
                f"wrong shape: {official_name} gives {tuple(weight.shape)}, {name} is {tuple(parameter.shape)}"
            )
        if fault := fault_of(weight):
            problems.append(f"{fault}: {official_name}")
        converted[name] = weight
    problems += [f"unexpected: {name}" for name in weights if name not in used]
    if problems:
        raise ValueError("The checkpoint does not fit the configuration:\n  " + "\n  ".join(problems))
    return converted


def infer_config(
    weights: Mapping[str, Tensor], image_size: int | tuple[int, int] | None = None, **overrides: Any
) -> EomtConfig:
    """
    The configuration of an original checkpoint, as far as its weights tell.

    They tell everything but the number of heads (64 channels each, 128 in 7B models), the epsilon of layer norms and,
    if they have no position embeddings or the image is not square, the image size.

    Args:
        weights: the state dict.
        image_size: height and width of the training images in pixels; by default that of a square image with as many
            position embeddings, or 640.
        overrides: more fields of the configuration.

    Raises:
        ValueError: not an EoMT checkpoint, or an image size that has to be given.
    """
    if not isinstance(weights, Mapping) or "network.q.weight" not in weights:
        raise ValueError('Not an original EoMT checkpoint: it has no "network.q.weight".')
    needed = ("network.attn_mask_probs", "network.class_head.bias", f"{_BACKBONE}norm.weight")
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"Not a whole EoMT checkpoint: it has no {', '.join(missing)}.")
    check_tensors(weights, "The checkpoint")
    try:
        return _infer_config(weights, image_size, overrides)
    except KeyError as error:
        raise ValueError(f"Not a whole EoMT checkpoint: it has no {error}.") from error
    except (IndexError, TypeError) as error:  # of tensors with fewer dimensions
        raise ValueError(f"Not an EoMT checkpoint, its tensors have other shapes: {error}.") from error


def _infer_config(
    weights: Mapping[str, Tensor], image_size: int | tuple[int, int] | None, overrides: dict[str, Any]
) -> EomtConfig:
    blocks = f"{_BACKBONE}blocks."
    is_dinov3 = f"{_BACKBONE}patch_embed.patch_embeddings.weight" in weights
    kernel = weights[_BACKBONE + ("patch_embed.patch_embeddings.weight" if is_dinov3 else "patch_embed.proj.weight")]
    registers = weights.get(_BACKBONE + ("patch_embed.register_tokens" if is_dinov3 else "reg_token"))
    if kernel.ndim != 4:
        raise ValueError(
            f"The checkpoint's patch embedding has the shape {tuple(kernel.shape)}: expected four numbers."
        )
    hidden_size, num_channels, patch_height, patch_width = kernel.shape
    numbers = [name.removeprefix(blocks).split(".")[0] for name in weights if name.startswith(blocks)]
    depth = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
    config: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_channels": num_channels,
        "num_hidden_layers": depth,
        "num_attention_heads": max(1, hidden_size // (128 if hidden_size == 4096 else 64)),
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "num_queries": len(weights["network.q.weight"]),
        "num_blocks": len(weights["network.attn_mask_probs"]),
        "patch_size": patch_height if patch_height == patch_width else (patch_height, patch_width),
        "num_upscale_blocks": default_num_upscale_blocks((patch_height, patch_width)),
    }
    if "id2label" not in overrides:
        config["num_labels"] = len(weights["network.class_head.bias"]) - 1
    if is_dinov3:
        is_gated = f"{blocks}0.mlp.gate_proj.weight" in weights
        config |= {
            "intermediate_size": len(weights[f"{blocks}0.mlp.up_proj.weight"]),
            "use_gated_mlp": is_gated,
            "hidden_act": "silu" if is_gated else "gelu",
            "layer_norm_eps": 1e-5,
            **{
                f"{name}_bias": f"{blocks}0.attention.{layer}_proj.bias" in weights
                for name, layer in (("query", "q"), ("key", "k"), ("value", "v"), ("proj", "o"))
            },
        }
        return EomtDinov3Config(**{**config, "image_size": image_size or 640, **overrides})
    fc1, fc2 = weights[f"{blocks}0.mlp.fc1.weight"], weights[f"{blocks}0.mlp.fc2.weight"]
    if len(fc1) == 2 * fc2.shape[1]:
        config["use_swiglu_ffn"] = True
    else:
        config["mlp_ratio"] = len(fc1) // hidden_size
    if image_size is None:
        num_patches = weights[f"{_BACKBONE}pos_embed"].shape[1]
        rows = math.isqrt(num_patches)
        if rows * rows != num_patches or patch_height != patch_width:
            raise ValueError(f"{num_patches} position embeddings are not those of a square image: give image_size.")
        image_size = rows * patch_height
    return EomtConfig(**{**config, "image_size": image_size, **overrides})


def _read_fields(config_file: str | None, labels_file: str | None) -> dict[str, Any]:
    """The fields of the configuration that the command line's files give."""
    fields = _read_json(config_file, dict) if config_file else {}
    known = {
        field.name for config_class in (EomtConfig, EomtDinov3Config) for field in dataclasses.fields(config_class)
    }
    if unknown := sorted(set(fields) - known - {"num_labels", "label2id"}):
        raise ValueError(f"{config_file}: {', '.join(unknown)} is no field of the configuration.")
    if labels_file:
        labels = _read_json(labels_file, dict, list)
        fields["id2label"] = labels if isinstance(labels, dict) else dict(enumerate(labels))
    return fields


def _read_json(file: str, *kinds: type) -> Any:
    """What a JSON file holds. Raises a `ValueError` that names it unless that is one of `kinds`."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, kinds):
        expected = " or a ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{file} holds a {type(content).__name__}: expected a {expected}.")
    return content


def main(arguments: list[str] | None = None) -> None:
    """The command line, see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_eomt.convert_official",
        description="Converts an original EoMT checkpoint to a folder for from_pretrained. Sizes are read off the "
        "weights.",
    )
    parser.add_argument("checkpoint", help="the original file: .bin, .safetensors, .ckpt or .pth")
    parser.add_argument("output", help="folder to write; it must not exist or be empty")
    parser.add_argument("--base-backbone", help="for delta weights: folder or Hub name of the backbone")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="size of the training images, one number for a square or height and width (needed for DINOv3 other than "
        "640x640, and for images that are not square)",
    )
    parser.add_argument("--labels", metavar="FILE", help="JSON file with the class names: a list, or id -> name")
    parser.add_argument("--config", metavar="FILE", help="JSON file with fields of the configuration that differ")
    options = parser.parse_args(arguments)

    output = Path(options.output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        parser.error(f"{output} exists and is not an empty folder")
    if options.image_size and len(options.image_size) > 2:
        parser.error("--image-size takes one number or two")
    size = options.image_size and (
        options.image_size[0] if len(options.image_size) == 1 else tuple(options.image_size)
    )
    try:
        fields = _read_fields(options.config, options.labels)
        if "image_size" in fields:
            if size:
                raise ValueError(f"--image-size is given, and {options.config} has image_size: leave one out.")
            size = fields.pop("image_size")
        weights = read_weight_file(options.checkpoint)
        config = infer_config(weights, size, **fields)
        model = convert_official_checkpoint(weights, config, options.base_backbone)
        model.save_pretrained(output)
    except (OSError, ValueError, SafetensorError) as error:
        parser.exit(1, f"error: {error}\n")
    count = sum(parameter.numel() for parameter in model.parameters())
    kind = "differences to " + options.base_backbone if options.base_backbone else "absolute weights"
    print(
        f"Read {kind}, wrote a {config.model_type} model of {count / 1e6:.1f} million parameters and "
        f"{config.num_labels} classes to {output}."
    )
    if config.uses_rope and not options.base_backbone:
        print("If this is one of the DINOv3 checkpoints that are published as a difference, give --base-backbone.")


if __name__ == "__main__":
    main()

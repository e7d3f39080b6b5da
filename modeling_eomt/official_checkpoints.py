"""Checkpoints of the original PyTorch implementation, read as models.

https://github.com/tue-mps/eomt. On DINOv2 the backbone is a timm ViT there, on DINOv3 that of Transformers; EoMT's own
parts lie beside it. The DINOv3 checkpoints are published as a difference to the backbone ("delta weights").
"""

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor
from transformers.utils import logging

from .checkpoints_eomt import (
    FAMILIES,
    OFFICIAL_BACKBONE,
    check_tensors,
    find_fault,
    get_family,
    official_parameter_name,
    read_backbone,
    read_backbone_settings,
    read_weight_file,
)
from .configuration_eomt import EomtConfig, default_num_upscale_blocks
from .modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation


logger = logging.get_logger(__name__)

# Layers that are parts of a fused layer in the original: index of the part, number of parts.
_FUSED = {"q_proj": (0, 3), "k_proj": (1, 3), "v_proj": (2, 3), "gate_proj": (0, 2), "up_proj": (1, 2)}
# Stored by the original, computed here: image statistics, loss weights.
_NOT_NEEDED = ("network.encoder.pixel_mean", "network.encoder.pixel_std", "criterion.empty_weight")
_BLOCKS = f"{OFFICIAL_BACKBONE}blocks."


def convert_official_checkpoint(
    checkpoint: str | PathLike | Mapping[str, Tensor],
    config: EomtConfig,
    base_backbone: str | PathLike | None = None,
) -> EomtForUniversalSegmentation:
    """
    Builds a model with the weights of an original checkpoint.

    A class head for another number of classes than the configuration's is left out, with a warning: the model's own
    is new.

    Args:
        checkpoint: path of a `.safetensors`, `.bin`, `.ckpt` or `.pth` file, or the state dict itself.
        config: the model's configuration, an [`EomtDinov3Config`] for DINOv3; see [`infer_config`].
        base_backbone: for delta weights, the folder or Hub name of the backbone they are a difference to.

    Raises:
        ValueError: parameters that are missing, of another shape, unknown or not finite, all listed; a model type or a
            backbone that is not supported.
    """
    if not get_family(config).official_names:
        raise ValueError(f"The original implementation has no {config.model_type!r} models.")
    weights = dict(checkpoint) if isinstance(checkpoint, Mapping) else read_weight_file(checkpoint)
    check_tensors(weights, "The checkpoint")
    model = MODEL_CLASSES[config.model_type](config)
    converted = _convert(weights, model)
    if base_backbone is not None:
        base = read_backbone(base_backbone, get_family(config)).fit(model)
        converted = {name: weight + base[name] if name in base else weight for name, weight in converted.items()}
    model.load_state_dict(converted)
    return model


def _convert(weights: Mapping[str, Tensor], model: EomtForUniversalSegmentation) -> dict[str, Tensor]:
    """Gives the weights their names in the model; all of them have its shapes."""
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
        if fault := find_fault(weight):
            problems.append(f"{fault}: {official_name}")
        converted[name] = weight
    problems += [f"unexpected: {name}" for name in weights if name not in used]
    if problems:
        raise ValueError("The checkpoint does not fit the configuration:\n  " + "\n  ".join(problems))
    return converted


def infer_config(
    weights: Mapping[str, Tensor],
    image_size: int | tuple[int, int] | None = None,
    *,
    base_backbone: str | PathLike | None = None,
    **overrides: Any,
) -> EomtConfig:
    """
    Infers the configuration of an original checkpoint from its weights.

    They tell everything but the number of heads (64 channels each, 128 in 7B models), the epsilon of layer norms and,
    if they have no position embeddings or the image is not square, the image size. Delta weights have a backbone
    whose configuration tells all but the last.

    Args:
        weights: the state dict.
        image_size: height and width of the training images in pixels; by default that of a square image with as many
            position embeddings, or 640.
        base_backbone: for delta weights, the folder or Hub name of the backbone they are a difference to.
        overrides: more fields of the configuration.

    Raises:
        OSError: the backbone cannot be read.
        ValueError: not an EoMT checkpoint, or an image size that has to be given.
    """
    if not isinstance(weights, Mapping) or "network.q.weight" not in weights:
        raise ValueError('Not an original EoMT checkpoint: it has no "network.q.weight".')
    needed = ("network.attn_mask_probs", "network.class_head.bias", f"{OFFICIAL_BACKBONE}norm.weight")
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"Not a whole EoMT checkpoint: it has no {', '.join(missing)}.")
    check_tensors(weights, "The checkpoint")
    try:
        config_class, settings = _infer_settings(weights, image_size)
    except KeyError as error:
        raise ValueError(f"Not a whole EoMT checkpoint: it has no {error}.") from error
    except (IndexError, TypeError) as error:  # of tensors with fewer dimensions
        raise ValueError(f"Not an EoMT checkpoint, its tensors have other shapes: {error}.") from error
    if base_backbone is not None:
        settings |= read_backbone_settings(base_backbone, config_class)
    if "id2label" not in overrides:
        settings["num_labels"] = len(weights["network.class_head.bias"]) - 1
    return config_class(**{**settings, **overrides})


def _infer_settings(
    weights: Mapping[str, Tensor], image_size: int | tuple[int, int] | None
) -> tuple[type[EomtConfig], dict[str, Any]]:
    kernels = {
        model_type: official_parameter_name(f"embeddings.{FAMILIES[model_type].layers.patches}.weight", model_type)
        for model_type in _FAMILY_SETTINGS
    }
    model_type = next((model_type for model_type, name in kernels.items() if name in weights), None)
    if model_type is None:
        raise KeyError(" or ".join(kernels.values()))
    kernel = weights[kernels[model_type]]
    registers = weights.get(official_parameter_name("embeddings.register_tokens", model_type))
    if kernel.ndim != 4:
        raise ValueError(
            f"The checkpoint's patch embedding has the shape {tuple(kernel.shape)}: expected four numbers."
        )
    hidden_size, num_channels, patch_height, patch_width = kernel.shape
    numbers = [name.removeprefix(_BLOCKS).split(".")[0] for name in weights if name.startswith(_BLOCKS)]
    settings = {
        "hidden_size": hidden_size,
        "num_channels": num_channels,
        "num_hidden_layers": 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1),
        "num_attention_heads": max(1, hidden_size // (128 if hidden_size == 4096 else 64)),
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "num_queries": len(weights["network.q.weight"]),
        "num_blocks": len(weights["network.attn_mask_probs"]),
        "patch_size": patch_height if patch_height == patch_width else (patch_height, patch_width),
        "num_upscale_blocks": default_num_upscale_blocks((patch_height, patch_width)),
        "image_size": image_size or 640,
        **_FAMILY_SETTINGS[model_type](weights),
    }
    if image_size is None and (positions := weights.get(f"{OFFICIAL_BACKBONE}pos_embed")) is not None:
        rows = math.isqrt(positions.shape[1])
        if rows * rows != positions.shape[1] or patch_height != patch_width:
            raise ValueError(f"{positions.shape[1]} position embeddings do not fit a square image: give image_size.")
        settings["image_size"] = rows * patch_height
    return FAMILIES[model_type].config_class, settings


def _infer_dinov2(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    fc1, fc2 = weights[f"{_BLOCKS}0.mlp.fc1.weight"], weights[f"{_BLOCKS}0.mlp.fc2.weight"]
    is_gated = len(fc1) == 2 * fc2.shape[1]
    return {"use_swiglu_ffn": True} if is_gated else {"mlp_ratio": len(fc1) // fc1.shape[1]}


def _infer_dinov3(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    is_gated = f"{_BLOCKS}0.mlp.gate_proj.weight" in weights
    biases = {"query_bias": "q_proj", "key_bias": "k_proj", "value_bias": "v_proj", "proj_bias": "o_proj"}
    return {
        "intermediate_size": len(weights[f"{_BLOCKS}0.mlp.up_proj.weight"]),
        "use_gated_mlp": is_gated,
        "hidden_act": "silu" if is_gated else "gelu",
        "layer_norm_eps": 1e-5,
        **{field: f"{_BLOCKS}0.attention.{layer}.bias" in weights for field, layer in biases.items()},
    }


# The fields of the configuration that follow from the layers, for the model types that have original checkpoints.
_FAMILY_SETTINGS = {"eomt": _infer_dinov2, "eomt_dinov3": _infer_dinov3}

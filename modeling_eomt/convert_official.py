"""Checkpoints of the original PyTorch implementation, and what its parameters are called.

Original names: https://github.com/tue-mps/eomt, a timm ViT inside `network.encoder.backbone` and EoMT's own parts
beside it.
"""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .configuration_eomt import EomtConfig
from .modeling_eomt import EomtForUniversalSegmentation


# Beginning of a name here -> beginning of the name there; the first that fits counts.
_NAMES = {
    r"query\.": "network.q.",
    r"class_predictor\.": "network.class_head.",
    r"mask_head\.fc1\.": "network.mask_head.0.",
    r"mask_head\.fc2\.": "network.mask_head.2.",
    r"mask_head\.fc3\.": "network.mask_head.4.",
    r"upscale_block\.block\.(\d+)\.layernorm2d\.": r"network.upscale.\1.norm.",
    r"upscale_block\.block\.": "network.upscale.",
    r"attn_mask_probs": "network.attn_mask_probs",
    r"criterion\.": "criterion.",
    r"embeddings\.cls_token": "network.encoder.backbone.cls_token",
    r"embeddings\.register_tokens": "network.encoder.backbone.reg_token",
    r"embeddings\.position_embeddings\.weight": "network.encoder.backbone.pos_embed",
    r"embeddings\.patch_embeddings\.projection\.": "network.encoder.backbone.patch_embed.proj.",
    r"layernorm\.": "network.encoder.backbone.norm.",
    r"layers\.(\d+)\.attention\.[qkv]_proj\.": r"network.encoder.backbone.blocks.\1.attn.qkv.",
    r"layers\.(\d+)\.attention\.out_proj\.": r"network.encoder.backbone.blocks.\1.attn.proj.",
    r"layers\.(\d+)\.layer_scale([12])\.lambda1": r"network.encoder.backbone.blocks.\1.ls\2.gamma",
    r"layers\.": "network.encoder.backbone.blocks.",
}
# What the original stores and this project computes itself: image statistics, loss weights.
_NOT_NEEDED = ("network.encoder.pixel_mean", "network.encoder.pixel_std", "criterion.empty_weight")


def official_parameter_name(name: str) -> str:
    """
    What a parameter is called in the original implementation.

    The query, key and value projections are one there: all three names give that one's.

    Args:
        name: name of a parameter or buffer of [`EomtForUniversalSegmentation`].

    Raises:
        KeyError: no such parameter.
    """
    for pattern, replacement in _NAMES.items():
        if match := re.match(pattern, name):
            return match.expand(replacement) + name[match.end() :]
    raise KeyError(f"{name!r} is not a parameter of EomtForUniversalSegmentation.")


def convert_official_checkpoint(
    checkpoint: str | PathLike | Mapping[str, Tensor], config: EomtConfig
) -> EomtForUniversalSegmentation:
    """
    A model with the weights of an original checkpoint (absolute weights on a DINOv2 backbone).

    Args:
        checkpoint: path of a `.safetensors`, `.bin`, `.ckpt` or `.pth` file, or the state dict itself.
        config: the model's configuration.

    Raises:
        ValueError: parameters that are missing, of another shape or unknown, all listed.
    """
    weights = dict(checkpoint) if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    model = EomtForUniversalSegmentation(config)
    converted, problems, used = {}, [], set(_NOT_NEEDED)
    for name, parameter in model.state_dict().items():
        official_name = official_parameter_name(name)
        if official_name in _NOT_NEEDED:
            converted[name] = parameter
            continue
        if official_name not in weights:
            if name == "embeddings.register_tokens" and config.num_register_tokens == 0:
                converted[name] = parameter
            else:
                problems.append(f"missing: {official_name}")
            continue
        used.add(official_name)
        weight = weights[official_name]
        if ".attn.qkv." in official_name:
            weight = weight.chunk(3)["qkv".index(name.split("_proj.")[0][-1])]
        if name == "embeddings.position_embeddings.weight":
            weight = weight[0]
        if weight.shape != parameter.shape:
            problems.append(
                f"wrong shape: {official_name} gives {tuple(weight.shape)}, {name} is {tuple(parameter.shape)}"
            )
        converted[name] = weight
    problems += [f"unexpected: {name}" for name in weights if name not in used]
    if problems:
        raise ValueError("The checkpoint does not fit the configuration:\n  " + "\n  ".join(problems))
    model.load_state_dict(converted)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return weights.get("state_dict", weights)

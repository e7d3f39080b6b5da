"""Pre-trained ViTs as they are published, read as the backbone of an EoMT model.

Reads what Transformers' DINOv2 (with and without registers), DINOv3, ViT and DeiT classes save, and timm's plain ViTs
(DeiT III, AugReg, DINOv2). Patch kernels of another size are resampled as in FlexiViT, https://arxiv.org/abs/2212.08013,
section 3.4, so that a kernel sees in a resized patch what it saw in the original one.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.utils import cached_file

from .configuration_eomt import EomtConfig, as_pair, patch_grid
from .positions_eomt import resample_grid


# Model types of Transformers that a model type here can be built on.
SUPPORTED_BACKBONES = {
    "eomt": ("dinov2", "dinov2_with_registers", "vit", "deit"),
    "eomt_dinov3": ("dinov3_vit",),
}
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Fields that have the same name and meaning there and here.
_SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "initializer_range",
    "layer_norm_eps",
    "num_channels",
    "mlp_ratio",
    "layerscale_value",
    "drop_path_rate",
    "use_swiglu_ffn",
    "num_register_tokens",
    "intermediate_size",
    "query_bias",
    "key_bias",
    "value_bias",
    "proj_bias",
    "mlp_bias",
    "use_gated_mlp",
    "pos_embed_shift",
    "pos_embed_jitter",
    "pos_embed_rescale",
)
# Names there -> names here, applied in this order. `{output}` and the like are what the family calls a layer.
_RENAMES = (
    (r"^(vit|deit|dinov2|dinov2_with_registers|dinov3_vit|model|backbone)\.", ""),
    (r"^(encoder\.|model\.)?(layers?|blocks)\.(\d+)\.", r"layers.\3."),
    (r"^norm\.", "layernorm."),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^(embeddings\.distillation_token|dist_token)$", "distillation_token"),
    (r"^(embeddings\.position_embeddings|pos_embed)$", "position_embeddings"),
    (r"^(embeddings\.patch_embeddings\.projection|embeddings\.patch_embeddings|patch_embed\.proj)\.", "{patches}."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.(attention\.attention|attention|attn)\.(query|key|value)\.", r".attention.\2_proj."),
    (r"\.(attention|attn)\.(output\.dense|out_proj|o_proj|proj)\.", ".attention.{output}."),
    (r"\.attention\.([qkv])[a-z]*_proj\.", r".attention.\1_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
_IGNORED = re.compile(
    r"(embeddings\.)?mask_token$|pooler\.|classifier\.|cls_classifier\.|distillation_classifier\.|head\.|head_dist\.|"
    r"fc_norm\.|decoder\.|lm_head\."
)


@dataclass
class Backbone:
    """
    A pre-trained ViT.

    Args:
        config: the fields of an EoMT configuration that follow from it.
        weights: its weights under the names here; patch kernels and position embeddings at their original size.
        grid: rows and columns of its position embeddings, None if it has none.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    grid: tuple[int, int] | None

    def weights_for(self, model: nn.Module) -> dict[str, Tensor]:
        """
        The weights at the patch size and patch grid of a model.

        Raises:
            ValueError: parameters that are missing, unknown, of another shape or not finite, all listed.
        """
        config: Any = model.config
        weights = dict(self.weights)
        for name in [name for name in weights if name.startswith("embeddings.patch_embeddings.")]:
            if name.endswith(".weight") and weights[name].ndim == 4:
                weights[name] = resample_patch_kernel(weights[name], as_pair(config.patch_size))
        name = "embeddings.position_embeddings.weight"
        if self.grid is not None and name in weights:
            weights[name] = resample_grid(weights[name], self.grid, patch_grid(config.image_size, config.patch_size))
        expected = {name: value for name, value in model.state_dict().items() if is_backbone(name)}
        for name, parameter in expected.items():
            if name not in weights:
                if name.endswith(".lambda1"):  # no LayerScale: a factor of 1
                    weights[name] = torch.ones(parameter.shape)
                elif re.search(r"\.[qkv]_proj\.bias$", name) or not parameter.numel():
                    weights[name] = torch.zeros(parameter.shape)
        check_weights(expected, weights, "The backbone does not fit the configuration")
        return weights

    def load_into(self, model: nn.Module) -> None:
        """Copies the weights into a model; errors as in `weights_for`."""
        model.load_state_dict(self.weights_for(model), strict=False)


def is_backbone(name: str) -> bool:
    """Whether a parameter of an EoMT model belongs to its ViT."""
    return name.startswith(("embeddings.", "layers.", "layernorm."))


def check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Raises a ValueError that begins with `what` and lists what is missing, unexpected, misshapen or no weight."""
    problems = [f"missing: {name}" for name in expected if name not in given]
    problems += [f"unexpected: {name}" for name in given if name not in expected]
    problems += [
        f"wrong shape: {name} is {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in given
        if name in expected and given[name].shape != expected[name].shape
    ]
    problems += [f"{fault}: {name}" for name in given if name in expected and (fault := fault_of(given[name]))]
    if problems:
        raise ValueError(f"{what}:\n  " + "\n  ".join(problems))


def fault_of(weight: Tensor) -> str | None:
    """Why a tensor cannot be a weight; None if it can."""
    if not weight.is_floating_point():
        return f"{weight.dtype} instead of floating point numbers"
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return None if wide.isfinite().all() else "not finite (nan or inf)"


def check_tensors(weights: Any, what: str) -> None:
    """Raises a ValueError that begins with `what` unless `weights` maps names to tensors."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"{what} holds {type(weights).__name__}: expected a dictionary from names to tensors.")
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise ValueError(f"{what} has {type(weight).__name__} at {name!r:.80}: expected names and tensors only.")


def resample_patch_kernel(kernel: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """
    A patch embedding's kernel at another patch size.

    Args:
        kernel: `(hidden_size, num_channels, old_height, old_width)`.
        patch_size: new `(height, width)` in pixels.

    Returns:
        `(hidden_size, num_channels, height, width)`, in the dtype of `kernel`.
    """
    old_size = tuple(kernel.shape[-2:])
    if old_size == tuple(patch_size):
        return kernel
    # Resizing a patch is linear: column i of the matrix is what becomes of the patch that is 1 at pixel i only.
    pixels = torch.eye(math.prod(old_size)).view(-1, 1, *old_size)
    resized = F.interpolate(pixels, size=patch_size, mode="bicubic", antialias=True, align_corners=False)
    inverse = torch.linalg.pinv(resized.flatten(1).double())  # (new pixels, old pixels)
    new_kernel = kernel.flatten(2).double() @ inverse.T
    return new_kernel.unflatten(2, tuple(patch_size)).to(kernel.dtype)


def read_backbone(name_or_path: str | PathLike, model_type: str, **hub_kwargs: Any) -> Backbone:
    """
    Reads a pre-trained ViT.

    Args:
        name_or_path: a local folder or a model of the Hub.
        model_type: `"eomt"` or `"eomt_dinov3"`, what it is for.
        hub_kwargs: how to reach the Hub, as for `from_pretrained`.

    Raises:
        ValueError: a kind of model that is not supported.
        OSError: no such folder or model, or no weights in it.
    """
    raw_config, _ = EomtConfig.get_config_dict(name_or_path, **hub_kwargs)
    architecture = str(raw_config.get("architecture", ""))
    # timm's files have no model type; Transformers gives them one of its own.
    from_timm = raw_config.get("model_type") in (None, "timm_wrapper")
    is_timm = from_timm and architecture.startswith(("vit_", "deit_", "deit3_"))
    kind = architecture if from_timm and architecture else str(raw_config.get("model_type"))
    if not (is_timm and model_type == "eomt") and kind not in SUPPORTED_BACKBONES[model_type]:
        elsewhere = [other for other, kinds in SUPPORTED_BACKBONES.items() if kind in kinds and other != model_type]
        hint = f" It is one for {elsewhere[0]!r} models." if elsewhere else ""
        timm = " and timm's vit_*, deit_* and deit3_*" if model_type == "eomt" else ""
        raise ValueError(
            f"{name_or_path} holds a {kind!r} model, which cannot be the backbone of an {model_type!r} model. "
            f"Supported are {', '.join(SUPPORTED_BACKBONES[model_type])}{timm}.{hint}"
        )
    weights = rename_weights(read_weights(name_or_path, **hub_kwargs), is_dinov3=model_type == "eomt_dinov3")
    try:
        if is_timm:
            config, grid = timm_config(weights, architecture, raw_config)
        else:
            config, grid = transformers_config(AutoConfig.from_pretrained(name_or_path, **hub_kwargs))
    except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"The configuration of {name_or_path} cannot be read: {error}") from error
    return _with_prefix_positions(Backbone(config, weights, grid))


def read_weights(name_or_path: str | PathLike, **hub_kwargs: Any) -> dict[str, Tensor]:
    """The weights of a folder or a model of the Hub: safetensors, one file or several, or a `.bin` of tensors only."""

    def find(file_name: str) -> str | None:
        return cached_file(
            name_or_path,
            file_name,
            _raise_exceptions_for_gated_repo=True,
            _raise_exceptions_for_missing_entries=False,
            **hub_kwargs,
        )

    if path := find("model.safetensors"):
        return read_weight_file(path)
    for index_name in INDICES:
        if index := find(index_name):
            paths = [str(cached_file(name_or_path, shard, **hub_kwargs)) for shard in read_index(index)]
            return {name: weight for shard in paths for name, weight in read_weight_file(shard).items()}
    if path := find("pytorch_model.bin"):
        return read_weight_file(path)
    raise OSError(f"{name_or_path} has no model.safetensors and no pytorch_model.bin, whole or sharded.")


def read_index(path: str | PathLike) -> list[str]:
    """The files that an index of sharded weights names. Raises a ValueError that says what is wrong with it."""
    try:
        index = json.loads(Path(path).read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    files, metadata = (index.get(name) if isinstance(index, dict) else None for name in ("weight_map", "metadata"))
    if not isinstance(files, dict) or not files or not isinstance(metadata, dict):
        raise ValueError(
            f"{path} is no index: expected metadata, a dictionary, and weight_map, one from names of weights to files."
        )
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"{path} has {file!r:.80} for {name}: expected the name of a file beside it.")
    return sorted(set(files.values()))


def read_weight_file(path: str | PathLike) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a PyTorch file that holds nothing but tensors."""
    if not Path(path).is_file():
        raise OSError(f"{path} is not a file.")
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is something else makes the two readers raise
        raise ValueError(
            f"{path} cannot be read as {'safetensors' if str(path).endswith('.safetensors') else 'PyTorch weights'}: "
            f"{error}"
        ) from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    check_tensors(weights, str(path))
    return weights


def rename_weights(weights: Mapping[str, Tensor], is_dinov3: bool) -> dict[str, Tensor]:
    """Weights under the names here; fused projections are split, heads and mask tokens left out."""
    layers = {
        "{patches}": "embeddings.patch_embeddings" + ("" if is_dinov3 else ".projection"),
        "{output}": "o_proj" if is_dinov3 else "out_proj",
    }
    renamed = {}
    for old_name, weight in weights.items():
        name = old_name
        for pattern, replacement in _RENAMES:
            for placeholder, layer in layers.items():
                replacement = replacement.replace(placeholder, layer)
            name = re.sub(pattern, replacement, name)
        if _IGNORED.match(name):
            continue
        if ".attn.qkv." in name and weight.ndim:
            for part, values in zip("qkv", weight.tensor_split(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.{part}_proj")] = values
        elif ".mlp.weights_in." in name and weight.ndim:
            gate, up = weight.tensor_split(2)
            renamed[name.replace("weights_in", "gate_proj")] = gate
            renamed[name.replace("weights_in", "up_proj")] = up
        else:
            renamed[name.replace(".mlp.weights_out.", ".mlp.down_proj.")] = weight
    return renamed


def transformers_config(source: Any) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """The fields that follow from a backbone's configuration, and the grid of its position embeddings."""
    config = {field: getattr(source, field) for field in _SHARED_FIELDS if hasattr(source, field)}
    if source.model_type == "dinov3_vit":
        config["attention_dropout"] = source.attention_dropout
        theta = getattr(source, "rope_theta", None) or source.rope_parameters["rope_theta"]
        return {**config, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}, None
    config["attention_dropout"] = getattr(source, "attention_probs_dropout_prob", 0.0)
    config["hidden_dropout_prob"] = source.hidden_dropout_prob
    if "intermediate_size" in config:  # ViT and DeiT
        config["mlp_ratio"] = _whole_ratio(config.pop("intermediate_size"), source.hidden_size)
    config["num_register_tokens"] = getattr(source, "num_register_tokens", 0)
    # Patches that do not fill the image leave a margin there.
    (height, width), (patch_height, patch_width) = as_pair(source.image_size), as_pair(source.patch_size)
    return config, (height // patch_height, width // patch_width)


def timm_config(
    weights: Mapping[str, Tensor], architecture: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """
    The fields that follow from a timm ViT, and the grid of its position embeddings, None for a square one.

    Args:
        weights: its weights, of which nearly all follows.
        architecture: its name.
        settings: its `config.json`, which has the number of heads and the size of the images where they are not what
            the name says.

    Raises:
        ValueError: it is not a plain ViT.
    """
    needed = ("layernorm.weight", "layers.0.mlp.fc1.weight", "layers.0.mlp.fc2.weight", "embeddings.cls_token")
    kernel_name = "embeddings.patch_embeddings.projection.weight"
    if missing := [name for name in (*needed, kernel_name) if name not in weights]:
        raise ValueError(f"{architecture} is not a plain ViT with a class token: it has no {', '.join(missing)}.")
    hidden_size = weights["layernorm.weight"].shape[0]
    blocks = {int(match[1]) for name in weights if (match := re.match(r"layers\.(\d+)\.", name))}
    fc1, fc2, kernel = weights[needed[1]], weights[needed[2]], weights[kernel_name]
    if len(fc1) != fc2.shape[1]:
        raise ValueError(f"{architecture} has gated MLPs; timm models with gated MLPs are not supported.")
    heads = {1280: 16, 1408: 16, 1664: 16}.get(hidden_size, hidden_size // 64)  # ViT-H, -g and -G; 64 channels else
    registers = weights.get("embeddings.register_tokens")
    model_args = settings.get("model_args") or {}
    config = {
        "hidden_size": hidden_size,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": model_args.get("num_heads", heads),
        "mlp_ratio": _whole_ratio(len(fc1), hidden_size),
        "num_channels": kernel.shape[1],
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "layer_norm_eps": 1e-6,
    }
    size = model_args.get("img_size") or ((settings.get("pretrained_cfg") or {}).get("input_size") or [0])[1:]
    (height, width), (patch_height, patch_width) = as_pair(size) if size else (0, 0), tuple(kernel.shape[-2:])
    grid = height // patch_height, width // patch_width
    num_prefix = weights["position_embeddings"].shape[-2] - math.prod(grid) if "position_embeddings" in weights else -1
    return config, grid if num_prefix in (0, 1, 2) else None


def _whole_ratio(intermediate_size: int, hidden_size: int) -> int:
    if intermediate_size % hidden_size:
        raise ValueError(
            f"The backbone's MLPs are {intermediate_size} wide, which is not a multiple of its hidden_size "
            f"{hidden_size}: not supported."
        )
    return intermediate_size // hidden_size


def _with_prefix_positions(backbone: Backbone) -> Backbone:
    """Adds the position embeddings of prefix tokens to these tokens; a distillation token becomes a register."""
    weights = backbone.weights
    positions = weights.pop("position_embeddings", None)
    distillation = weights.pop("distillation_token", None)
    if positions is None or "embeddings.cls_token" not in weights:
        return backbone
    positions = positions.reshape(-1, positions.shape[-1] if positions.ndim else 1)
    if backbone.grid is None:  # square
        size = math.isqrt(len(positions))
        backbone.grid = (size, size)
    num_prefix = len(positions) - math.prod(backbone.grid)
    if num_prefix not in (0, 1, 2):
        raise ValueError(f"{len(positions)} position embeddings do not fit a patch grid of {backbone.grid}.")
    if positions.shape[-1] != backbone.config["hidden_size"]:
        raise ValueError(
            f"Position embeddings of {positions.shape[-1]} numbers do not fit hidden_size="
            f"{backbone.config['hidden_size']}."
        )
    if num_prefix > 0:
        weights["embeddings.cls_token"] = weights["embeddings.cls_token"] + positions[0]
    if distillation is not None:
        position = positions[1] if num_prefix == 2 else torch.zeros_like(positions[0])
        weights["embeddings.register_tokens"] = distillation + position
        backbone.config["num_register_tokens"] = 1
    weights["embeddings.position_embeddings.weight"] = positions[num_prefix:]
    return backbone

"""The model types, and the adapter between their weights and checkpoints of others.

A model type is an entry of `FAMILIES` with a configuration class (`configuration_eomt.py`), a model class
(`modeling_eomt.py`) and, where its backbones have names of their own, patterns in `_BACKBONE_NAMES`. Read are what
Transformers' own EoMT classes save, the backbones that its DINOv2 (with and without registers), DINOv3, ViT and DeiT
classes save, and timm's plain ViTs (DeiT III, AugReg, DINOv2) and EVA-02. Names in the original implementation: https://github.com/tue-mps/eomt.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from .configuration_eomt import EomtConfig, EomtDinov3Config, EomtEva02Config, as_pair, patch_grid
from .positions_eomt import EomtEva02Rope, EomtRope, resample_grid


class LayerNames(NamedTuple):
    """Names of the layers that the families name differently, as Transformers' own EoMT classes do."""

    patches: str  # below `embeddings`
    attention_output: str
    mlp: tuple[str, str]  # without a gate


@dataclass(frozen=True)
class Family:
    """
    A model type.

    Args:
        config_class: its configuration.
        layers: the names of its layers, here and in Transformers.
        backbones: the model types of Transformers that it can be built on.
        timm_backbones: prefixes of the timm architectures that it can be built on.
        timm_names: patterns in their names of layers -> replacements, where they differ from those of timm's ViT.
        rope: its rotary position embeddings, if it has any.
        official_names: pattern for the beginning of a parameter name in the ViT -> its replacement in the original
            implementation; the first match wins. Empty without an original.
        has_fused_swiglu: whether checkpoints name its SwiGLU layers in two ways, see [`split_swiglu`].
    """

    config_class: type[EomtConfig]
    layers: LayerNames
    backbones: tuple[str, ...] = ()
    timm_backbones: tuple[str, ...] = ()
    timm_names: Mapping[str, str] = field(default_factory=dict)
    rope: type[EomtRope] | None = None
    official_names: Mapping[str, str] = field(default_factory=dict)
    has_fused_swiglu: bool = False

    def describe_backbones(self) -> str:
        """Lists the supported backbones for an error message."""
        from_timm = ", ".join(f"{name}*" for name in self.timm_backbones)
        groups = ", ".join(self.backbones), f"timm's {from_timm}" if from_timm else ""
        return " and ".join(group for group in groups if group)


FAMILIES = {
    "eomt": Family(
        config_class=EomtConfig,
        layers=LayerNames("patch_embeddings.projection", "out_proj", ("fc1", "fc2")),
        backbones=("dinov2", "dinov2_with_registers", "vit", "deit"),
        timm_backbones=("vit_", "deit_", "deit3_"),
        official_names={
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
        has_fused_swiglu=True,
    ),
    "eomt_dinov3": Family(
        config_class=EomtDinov3Config,
        layers=LayerNames("patch_embeddings", "o_proj", ("up_proj", "down_proj")),
        backbones=("dinov3_vit",),
        rope=EomtRope,
        official_names={r"embeddings\.": "patch_embed.", r"layernorm\.": "norm.", r"layers\.": "blocks."},
    ),
    "eomt_eva02": Family(
        config_class=EomtEva02Config,
        layers=LayerNames("patch_embeddings.projection", "out_proj", ("fc1", "fc2")),
        timm_backbones=("eva02_",),
        timm_names={
            r"\.attn\.([qv])_bias$": r".attn.\1_proj.bias",
            r"\.mlp\.fc1_g\.": ".mlp.gate_proj.",
            r"\.mlp\.fc1_x\.": ".mlp.up_proj.",
            r"\.mlp\.fc1\.": ".mlp.weights_in.",
            r"\.mlp\.fc2\.": ".mlp.weights_out.",
        },
        rope=EomtEva02Rope,
    ),
}

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
OFFICIAL_BACKBONE = "network.encoder.backbone."
# The same for the parameters that EoMT adds to the ViT.
_OFFICIAL_HEADS = {
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
# Names in backbones -> names here, applied in this order; `{patches}` and `{output}` come from `LayerNames`.
_BACKBONE_NAMES = (
    (r"^(vit|deit|dinov2|dinov2_with_registers|dinov3_vit|model|backbone)\.", ""),
    (r"^(encoder\.|model\.)?(layers?|blocks)\.(\d+)\.", r"layers.\3."),
    (r"^norm\.", "layernorm."),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^(embeddings\.distillation_token|dist_token)$", "distillation_token"),
    (r"^(embeddings\.position_embeddings|pos_embed)$", "position_embeddings"),
    (r"^(embeddings\.patch_embeddings(\.projection)?|patch_embed\.proj)\.", "embeddings.{patches}."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.(attention\.attention|attention|attn)\.(query|key|value)\.", r".attention.\2_proj."),
    (r"\.(attention|attn)\.(output\.dense|out_proj|o_proj|proj)\.", ".attention.{output}."),
    (r"\.(attention|attn)\.([qkv])[a-z]*_proj\.", r".attention.\2_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
_NOT_OF_BACKBONE = re.compile(
    r"(embeddings\.)?mask_token$|pooler\.|classifier\.|cls_classifier\.|distillation_classifier\.|head\.|head_dist\.|"
    r"fc_norm\.|decoder\.|lm_head\."
)


def get_family(config: EomtConfig | type[EomtConfig]) -> Family:
    """Returns the model type of a configuration (or its class), or of the one that its class extends."""
    config_class = config if isinstance(config, type) else type(config)
    model_types = (getattr(base, "model_type", None) for base in config_class.__mro__)
    return next(FAMILIES[model_type] for model_type in model_types if model_type in FAMILIES)


def read_backbone_kind(settings: Mapping[str, Any]) -> tuple[str, bool]:
    """Returns the `model_type` of a `config.json`, or the architecture if it is timm's, and whether it is timm's."""
    # timm's files have no model type; Transformers gives them one of its own.
    is_timm = settings.get("model_type") in (None, "timm_wrapper") and bool(settings.get("architecture"))
    return str(settings.get("architecture" if is_timm else "model_type")), is_timm


def find_model_type(backbone: str, is_timm: bool = False) -> str | None:
    """Returns the model type that can be built on what [`read_backbone_kind`] returns; None if there is none."""
    for model_type, family in FAMILIES.items():
        if backbone.startswith(family.timm_backbones) if is_timm else backbone in family.backbones:
            return model_type
    return None


def is_backbone(name: str) -> bool:
    """Whether a parameter of an EoMT model belongs to its ViT."""
    return name.startswith(("embeddings.", "layers.", "layernorm."))


def official_parameter_name(name: str, model_type: str = "eomt") -> str:
    """
    Returns the name of a parameter in the original implementation.

    For DINOv2 the original has one layer for query, key and value and one for gate and value of a SwiGLU: several
    names here give the same name there.

    Args:
        name: name of a parameter or buffer of a model here.
        model_type: a key of `FAMILIES`.

    Raises:
        KeyError: no such parameter.
    """
    for prefix, names in (("", _OFFICIAL_HEADS), (OFFICIAL_BACKBONE, FAMILIES[model_type].official_names)):
        for pattern, replacement in names.items():
            if match := re.match(pattern, name):
                return prefix + match.expand(replacement) + name[match.end() :]
    raise KeyError(f"{name!r} is not a parameter of an {model_type!r} model.")


def split_swiglu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Renames the SwiGLU layers (DINOv2 giant) of earlier checkpoints.

    Transformers 5.17 and earlier have one `weights_in` for gate and value, and `weights_out`; later versions have
    `gate_proj`, `up_proj` and `down_proj`, as here, and cannot read the earlier ones.
    """
    renamed = {}
    for name, weight in weights.items():
        if ".mlp.weights_in." in name and weight.ndim:
            gate, up = weight.tensor_split(2)
            renamed[name.replace("weights_in", "gate_proj")] = gate
            renamed[name.replace("weights_in", "up_proj")] = up
        else:
            renamed[name.replace(".mlp.weights_out.", ".mlp.down_proj.")] = weight
    return renamed


def fuse_swiglu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives the SwiGLU layers their names in earlier checkpoints; the inverse of [`split_swiglu`]."""
    renamed = {}
    for name, weight in weights.items():
        if ".mlp.gate_proj." in name:
            up = weights[name.replace("gate_proj", "up_proj")]
            renamed[name.replace("gate_proj", "weights_in")] = torch.cat([weight, up])
        elif ".mlp.up_proj." not in name:
            renamed[name.replace(".mlp.down_proj.", ".mlp.weights_out.")] = weight
    return renamed


def may_hold_fused_swiglu(path: str | PathLike) -> bool:
    """Whether [`split_swiglu`] may rename weights of a file; of safetensors the names alone are read."""
    if not str(path).endswith(".safetensors"):
        return True
    try:
        with safe_open(path, "pt") as file:
            return any(".mlp.weights_in." in name for name in file.keys())  # noqa: SIM118
    except SafetensorError:
        return True  # reading its weights says what is wrong


def split_swiglu_before_loading(module: Any, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """[`split_swiglu`] as a hook of `load_state_dict`, for the weights whose names begin with `prefix`."""
    own = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    state_dict.update(split_swiglu(own))


def saves_fused_swiglu(config: EomtConfig) -> bool:
    """Whether the installed Transformers' own class has the earlier names of the SwiGLU layers."""
    version = tuple(int(number) for number in transformers.__version__.split(".")[:2])
    return config.uses_gated_mlp and get_family(config).has_fused_swiglu and version < (5, 18)


@dataclass
class Backbone:
    """
    A pre-trained ViT.

    Args:
        settings: the fields of an EoMT configuration that follow from it.
        weights: its weights under the names here; patch kernels and position embeddings at their original size.
        grid: rows and columns of its position embeddings, None if it has none.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    grid: tuple[int, int] | None

    def fit(self, model: nn.Module) -> dict[str, Tensor]:
        """
        Returns the weights at the patch size and patch grid of a model.

        Raises:
            ValueError: parameters that are missing, unknown, of another shape or not finite, all listed.
        """
        config: Any = model.config
        weights = dict(self.weights)
        kernel = f"embeddings.{get_family(config).layers.patches}.weight"
        if kernel in weights and weights[kernel].ndim == 4:
            weights[kernel] = resample_patch_kernel(weights[kernel], as_pair(config.patch_size))
        positions = "embeddings.position_embeddings.weight"
        if self.grid is not None and positions in weights:
            new_grid = patch_grid(config.image_size, config.patch_size)
            weights[positions] = resample_grid(weights[positions], self.grid, new_grid)
        expected = {name: value for name, value in model.state_dict().items() if is_backbone(name)}
        for name, parameter in expected.items():
            if name not in weights:
                if name.endswith(".lambda1"):  # no LayerScale: a factor of 1
                    weights[name] = torch.ones(parameter.shape)
                elif re.search(r"\.[qkv]_proj\.bias$", name) or not parameter.numel():
                    weights[name] = torch.zeros(parameter.shape)
        problems = [f"missing: {name}" for name in expected if name not in weights]
        problems += [f"unexpected: {name}" for name in weights if name not in expected]
        for name in expected.keys() & weights.keys():
            given, shape = weights[name], tuple(expected[name].shape)
            if tuple(given.shape) != shape:
                problems.append(f"wrong shape: {name} is {tuple(given.shape)}, expected {shape}")
            if fault := find_fault(given):
                problems.append(f"{fault}: {name}")
        if problems:
            raise ValueError("The backbone does not fit the configuration:\n  " + "\n  ".join(problems))
        return weights


def read_backbone(name_or_path: str | PathLike, family: Family, **hub_kwargs: Any) -> Backbone:
    """
    Reads a pre-trained ViT.

    Args:
        name_or_path: a local folder or a model on the Hub.
        family: the model type that it is for.
        hub_kwargs: how to reach the Hub, as for `from_pretrained`.

    Raises:
        ValueError: a kind of model that is not supported.
        OSError: no such folder or model, or no weights in it.
    """
    raw_config, _ = EomtConfig.get_config_dict(name_or_path, **hub_kwargs)
    kind, is_timm = read_backbone_kind(raw_config)
    model_type, found = family.config_class.model_type, find_model_type(kind, is_timm)
    if found != model_type:
        raise ValueError(
            f"{name_or_path} holds a {kind!r} model, which cannot be the backbone of an {model_type!r} model. "
            f"Supported are {family.describe_backbones()}." + (f" It is one for {found!r} models." if found else "")
        )
    weights = rename_backbone(read_weights(name_or_path, **hub_kwargs), family)
    try:
        if is_timm:
            settings, grid = read_timm_settings(weights, kind, raw_config)
            if family.rope is not None:
                separate_pairs(weights, settings["hidden_size"], settings["num_attention_heads"])
        else:
            settings, grid = read_settings(AutoConfig.from_pretrained(name_or_path, **hub_kwargs), family.config_class)
    except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"The configuration of {name_or_path} cannot be read: {error}") from error
    return _move_prefix_positions(Backbone(settings, weights, grid))


def read_backbone_settings(name_or_path: str | PathLike, config_class: type[EomtConfig]) -> dict[str, Any]:
    """Reads the fields that follow from the configuration of a backbone of Transformers, but for image sizes."""
    settings, _ = read_settings(AutoConfig.from_pretrained(name_or_path), config_class)
    return {name: value for name, value in settings.items() if name not in ("image_size", "patch_size")}


def rename_backbone(weights: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Gives a backbone's weights their names here; splits fused projections, leaves out heads and mask tokens."""
    names = [*family.timm_names.items(), *_BACKBONE_NAMES]
    if "norm.weight" not in weights:  # timm's pooling normalises what it has pooled, instead of the tokens
        names.insert(0, (r"^fc_norm\.", "norm."))
    renamed = {}
    for name, weight in weights.items():
        for pattern, replacement in names:
            here = replacement.format(patches=family.layers.patches, output=family.layers.attention_output)
            name = re.sub(pattern, here, name)
        if _NOT_OF_BACKBONE.match(name):
            continue
        if ".attn.qkv." in name and weight.ndim:
            for part, values in zip("qkv", weight.tensor_split(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.{part}_proj")] = values
        else:
            renamed[name] = weight
    return split_swiglu(renamed)


def read_settings(
    source: PreTrainedConfig, config_class: type[EomtConfig]
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Returns the fields that follow from a backbone's configuration, and the grid of its position embeddings."""
    own = {field.name for field in fields(config_class)} - {field.name for field in fields(PreTrainedConfig)}
    given: Any = source
    settings = {name: getattr(given, name) for name in own if hasattr(given, name)}
    if config_class.uses_rope:
        return {**settings, "rope_parameters": {"rope_type": "default", "rope_theta": given.rope_theta}}, None
    settings["attention_dropout"] = getattr(given, "attention_probs_dropout_prob", 0.0)
    if hasattr(given, "intermediate_size"):  # ViT and DeiT
        settings["mlp_ratio"] = _whole_ratio(given.intermediate_size, given.hidden_size)
    settings["num_register_tokens"] = getattr(given, "num_register_tokens", 0)
    # Patches that do not fill the image leave a margin there.
    (height, width), (patch_height, patch_width) = as_pair(given.image_size), as_pair(given.patch_size)
    return settings, (height // patch_height, width // patch_width)


def read_timm_settings(
    weights: Mapping[str, Tensor], architecture: str, timm_config: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """
    Returns the fields that follow from a timm ViT, and the grid of its position embeddings, None for a square one.

    Args:
        weights: its weights, which determine nearly all fields.
        architecture: its name.
        timm_config: its `config.json`, which may have the number of heads and the size of the images.

    Raises:
        ValueError: it is not a plain ViT.
    """
    is_gated = "layers.0.mlp.gate_proj.weight" in weights
    mlp = [f"layers.0.mlp.{layer}.weight" for layer in (("gate_proj", "down_proj") if is_gated else ("fc1", "fc2"))]
    kernel_name = "embeddings.patch_embeddings.projection.weight"
    needed = ("layernorm.weight", *mlp, "embeddings.cls_token", kernel_name)
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"{architecture} is not a plain ViT with a class token: it has no {', '.join(missing)}.")
    hidden_size, mlp_hidden_size = len(weights["layernorm.weight"]), len(weights[mlp[0]])
    if mlp_hidden_size != weights[mlp[1]].shape[1]:
        gates = "no gated MLPs, as EVA-02's are" if is_gated else "gated MLPs, which are supported in EVA-02 only"
        raise ValueError(f"{architecture} has {gates}.")
    blocks = {int(match[1]) for name in weights if (match := re.match(r"layers\.(\d+)\.", name))}
    heads = {1280: 16, 1408: 16, 1664: 16}.get(hidden_size, hidden_size // 64)  # ViT-H, -g and -G; 64 channels else
    registers = weights.get("embeddings.register_tokens")
    model_args = timm_config.get("model_args") or {}
    settings = {
        "hidden_size": hidden_size,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": model_args.get("num_heads", heads),
        "num_channels": weights[kernel_name].shape[1],
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "layer_norm_eps": 1e-6,
    }
    if is_gated:
        settings["intermediate_size"] = mlp_hidden_size
        settings["use_mlp_norm"] = "layers.0.mlp.norm.weight" in weights
    else:
        settings["mlp_ratio"] = _whole_ratio(mlp_hidden_size, hidden_size)
    size = model_args.get("img_size") or ((timm_config.get("pretrained_cfg") or {}).get("input_size") or [0])[1:]
    return settings, _find_timm_grid(weights, as_pair(size) if size else (0, 0), weights[kernel_name])


def _find_timm_grid(
    weights: Mapping[str, Tensor], image_size: tuple[int, int], kernel: Tensor
) -> tuple[int, int] | None:
    """Returns the patch grid of images of this size, if the position embeddings are of that grid."""
    (height, width), (patch_height, patch_width) = image_size, tuple(kernel.shape[-2:])
    grid = height // patch_height, width // patch_width
    num_prefix = weights["position_embeddings"].shape[-2] - math.prod(grid) if "position_embeddings" in weights else -1
    return grid if num_prefix in (0, 1, 2) else None


def separate_pairs(weights: dict[str, Tensor], hidden_size: int, num_heads: int) -> None:
    """
    Moves channels of queries and keys to where they are turned here: timm's EVA-02 turns a head's channels in pairs of
    neighbours, `(2 * i, 2 * i + 1)`, [`apply_rope`] in pairs `(i, i + head_dim / 2)`. Their products stay the same.
    """
    if hidden_size % (2 * num_heads):
        raise ValueError(f"{num_heads} heads of {hidden_size} channels: each head must have pairs of them to turn.")
    for name, weight in weights.items():
        if re.search(r"\.[qk]_proj\.", name) and weight.shape[:1] == (hidden_size,):
            weights[name] = weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _whole_ratio(intermediate_size: int, hidden_size: int) -> int:
    if intermediate_size % hidden_size:
        raise ValueError(
            f"The backbone's MLPs are {intermediate_size} wide, which is not a multiple of its hidden_size "
            f"{hidden_size}: not supported."
        )
    return intermediate_size // hidden_size


def _move_prefix_positions(backbone: Backbone) -> Backbone:
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
    if positions.shape[-1] != backbone.settings["hidden_size"]:
        raise ValueError(
            f"Position embeddings of {positions.shape[-1]} numbers do not fit hidden_size="
            f"{backbone.settings['hidden_size']}."
        )
    if num_prefix > 0:
        weights["embeddings.cls_token"] = weights["embeddings.cls_token"] + positions[0]
    if distillation is not None:
        position = positions[1] if num_prefix == 2 else torch.zeros_like(positions[0])
        weights["embeddings.register_tokens"] = distillation + position
        backbone.settings["num_register_tokens"] = 1
    weights["embeddings.position_embeddings.weight"] = positions[num_prefix:]
    return backbone


def resample_patch_kernel(kernel: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """
    Resamples a patch embedding's kernel to another patch size, so that it sees in a resized patch what it saw in the
    original one: FlexiViT, https://arxiv.org/abs/2212.08013, section 3.4.

    Args:
        kernel: `(hidden_size, num_channels, old_height, old_width)`.
        patch_size: new `(height, width)` in pixels.

    Returns:
        `(hidden_size, num_channels, height, width)`, in the dtype of `kernel`.
    """
    old_size = tuple(kernel.shape[-2:])
    if old_size == tuple(patch_size):
        return kernel
    # Resizing a patch is linear: column i of its matrix is the resized patch that is 1 at pixel i only.
    pixels = torch.eye(math.prod(old_size)).view(-1, 1, *old_size)
    resized = F.interpolate(pixels, size=patch_size, mode="bicubic", antialias=True, align_corners=False)
    inverse = torch.linalg.pinv(resized.flatten(1).double())  # (new pixels, old pixels)
    new_kernel = kernel.flatten(2).double() @ inverse.T
    return new_kernel.unflatten(2, tuple(patch_size)).to(kernel.dtype)


def find_file(name_or_path: str | PathLike, file_name: str, subfolder: str = "", **hub_kwargs: Any) -> Path | None:
    """
    Returns a file of a folder or of a model on the Hub, downloaded; None if there is no such file.

    Raises:
        OSError: the Hub cannot be reached, and nothing of the model is in its cache.
    """
    if Path(name_or_path).is_dir():
        path = Path(name_or_path, subfolder, file_name)
        return path if path.is_file() else None
    name = str(name_or_path)
    try:
        return Path(HfApi().hf_hub_download(name, file_name, subfolder=subfolder or None, **hub_kwargs))
    except LocalEntryNotFoundError as error:  # what was downloaded of a model is taken for all of it
        in_cache = {key: value for key, value in hub_kwargs.items() if key in ("revision", "cache_dir")}
        try:
            HfApi().snapshot_download(name, local_files_only=True, **in_cache)
        except LocalEntryNotFoundError:
            raise OSError(
                f"{name} is no folder, nothing of it is in the Hub's cache, and the Hub cannot be reached: {error}"
            ) from error
        return None
    except EntryNotFoundError:
        return None


def find_weights(name_or_path: str | PathLike, **hub_kwargs: Any) -> list[Path]:
    """Returns the files of weights of a folder or of a model on the Hub: one or several, of one format, or none."""
    for whole, index_name in zip(("model.safetensors", "pytorch_model.bin"), INDICES, strict=True):
        if path := find_file(name_or_path, whole, **hub_kwargs):
            return [path]
        if index := find_file(name_or_path, index_name, **hub_kwargs):
            shards = {name: find_file(name_or_path, name, **hub_kwargs) for name in read_index(index)}
            if missing := [name for name, path in shards.items() if path is None]:
                raise OSError(f"{name_or_path} has no {', '.join(missing)}, which {index_name} names.")
            return [path for path in shards.values() if path is not None]
    return []


def read_weights(name_or_path: str | PathLike, **hub_kwargs: Any) -> dict[str, Tensor]:
    """Reads the weights of a folder or of a model on the Hub: safetensors, or a `.bin` of tensors only."""
    paths = find_weights(name_or_path, **hub_kwargs)
    if not paths:
        raise OSError(f"{name_or_path} has no model.safetensors and no pytorch_model.bin, whole or sharded.")
    return {name: weight for path in paths for name, weight in read_weight_file(path).items()}


def read_index(path: str | PathLike) -> list[str]:
    """Returns the files that an index of sharded weights names; raises a ValueError for what is no index."""
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
    """Reads the tensors of a `.safetensors` file, or of a PyTorch file that holds nothing but tensors."""
    if not Path(path).is_file():
        raise OSError(f"{path} is not a file.")
    is_safetensors = str(path).endswith(".safetensors")
    try:
        weights: Any = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is something else makes the two readers raise
        kind = "safetensors" if is_safetensors else "PyTorch weights"
        raise ValueError(f"{path} cannot be read as {kind}: {error}") from error
    if isinstance(weights, dict) and not is_safetensors:
        weights = weights.get("state_dict", weights)
    check_tensors(weights, str(path))
    return weights


def check_tensors(weights: Any, what: str) -> None:
    """Raises a ValueError that begins with `what` unless `weights` maps names to tensors."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"{what} holds {type(weights).__name__}: expected a dictionary from names to tensors.")
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise ValueError(f"{what} has {type(weight).__name__} at {name!r:.80}: expected names and tensors only.")


def find_fault(weight: Tensor) -> str | None:
    """Says why a tensor cannot be a weight; None if it can."""
    if not weight.is_floating_point():
        return f"{weight.dtype} instead of floating point numbers"
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return None if wide.isfinite().all() else "not finite (nan or inf)"

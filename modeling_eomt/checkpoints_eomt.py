"""The model types, and what their weights are called in checkpoints.

A new model type is one entry of `FAMILIES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from .configuration_eomt import EomtConfig, EomtDinov3Config


class LayerNames(NamedTuple):
    """What Transformers' own class of a model type calls the layers that not all types name alike."""

    patches: str  # below `embeddings`
    attention_output: str
    mlp: tuple[str, str]


@dataclass(frozen=True)
class Family:
    """
    A model type.

    Args:
        config_class: its configuration.
        layers: the names of its layers, here and in Transformers.
        has_fused_swiglu: whether its SwiGLU layers have two generations of names, see [`split_swiglu`].
    """

    config_class: type[EomtConfig]
    layers: LayerNames
    has_fused_swiglu: bool = False


FAMILIES = {
    "eomt": Family(
        config_class=EomtConfig,
        layers=LayerNames("patch_embeddings.projection", "out_proj", ("fc1", "fc2")),
        has_fused_swiglu=True,
    ),
    "eomt_dinov3": Family(
        config_class=EomtDinov3Config,
        layers=LayerNames("patch_embeddings", "o_proj", ("up_proj", "down_proj")),
    ),
}


def get_family(config: EomtConfig) -> Family:
    """Returns the model type of a configuration, or of the one that its class extends."""
    model_types = (getattr(base, "model_type", None) for base in type(config).__mro__)
    return next(FAMILIES[model_type] for model_type in model_types if model_type in FAMILIES)


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


def split_swiglu_before_loading(module: Any, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """[`split_swiglu`] as a hook of `load_state_dict`, for the weights whose names begin with `prefix`."""
    own = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    state_dict.update(split_swiglu(own))


def saves_fused_swiglu(config: EomtConfig) -> bool:
    """Whether the installed Transformers' own class has the earlier names of the SwiGLU layers."""
    version = tuple(int(number) for number in transformers.__version__.split(".")[:2])
    return config.uses_gated_mlp and get_family(config).has_fused_swiglu and version < (5, 18)


def legacy_swiglu_conversions() -> list[Any]:
    """[`split_swiglu`] for `from_pretrained`."""
    conversions: list[Any] = [
        WeightConverter(
            source_patterns=f"mlp.weights_in.{kind}",
            target_patterns=[f"mlp.gate_proj.{kind}", f"mlp.up_proj.{kind}"],
            operations=[Chunk(dim=0)],
        )
        for kind in ("weight", "bias")
    ]
    return [*conversions, WeightRenaming("mlp.weights_out", "mlp.down_proj")]

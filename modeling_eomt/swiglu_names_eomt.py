"""The two names of SwiGLU layers (DINOv2 giant) in checkpoints.

Transformers 5.17 and earlier have one `weights_in` for gate and value, and `weights_out`; later versions have
`gate_proj`, `up_proj` and `down_proj` and cannot read the earlier ones. Here both load.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from .configuration_eomt import EomtConfig


def uses_legacy_swiglu_names(config: EomtConfig) -> bool:
    """Whether the installed Transformers' own class has the earlier names for this model's layers."""
    version = tuple(int(number) for number in transformers.__version__.split(".")[:2])
    return config.uses_gated_mlp and not config.uses_rope and version < (5, 18)


def legacy_swiglu_conversions() -> list[Any]:
    """What `from_pretrained` does to the earlier names."""
    conversions: list[Any] = [
        WeightConverter(
            source_patterns=f"mlp.weights_in.{kind}",
            target_patterns=[f"mlp.gate_proj.{kind}", f"mlp.up_proj.{kind}"],
            operations=[Chunk(dim=0)],
        )
        for kind in ("weight", "bias")
    ]
    return [*conversions, WeightRenaming("mlp.weights_out", "mlp.down_proj")]


def read_legacy_swiglu_names(module: Any, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """What `load_state_dict` does to the earlier names of one layer, whose names begin with `prefix`."""
    for kind in ("weight", "bias"):
        if (fused := state_dict.pop(f"{prefix}weights_in.{kind}", None)) is not None:
            state_dict[f"{prefix}gate_proj.{kind}"], state_dict[f"{prefix}up_proj.{kind}"] = fused.chunk(2)
        if (down := state_dict.pop(f"{prefix}weights_out.{kind}", None)) is not None:
            state_dict[f"{prefix}down_proj.{kind}"] = down


def with_legacy_swiglu_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model under the earlier names."""
    renamed = {}
    for name, weight in state_dict.items():
        if ".mlp.gate_proj." in name:
            up = state_dict[name.replace("gate_proj", "up_proj")]
            renamed[name.replace("gate_proj", "weights_in")] = torch.cat([weight, up])
        elif ".mlp.up_proj." not in name:
            renamed[re.sub(r"\.mlp\.down_proj\.", ".mlp.weights_out.", name)] = weight
    return renamed

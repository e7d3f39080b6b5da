"""Learning rates: layer-wise decay over the ViT, two-stage warm-up, polynomial decay.

Section 4.1 of the paper: the new parameters warm up first while the ViT waits, then the ViT does.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from modeling_eomt.checkpoints_eomt import is_backbone


def layerwise_learning_rates(
    model: PreTrainedModel, learning_rate: float, layer_decay: float, decay_query_blocks: bool = True
) -> dict[str, float]:
    """
    Returns the base learning rate of every parameter.

    Block i of n has `learning_rate * layer_decay ** (n - 1 - i)`, the embeddings that of block 0; the final norm and
    everything outside the ViT has `learning_rate`.

    Args:
        model: an EoMT model.
        learning_rate: rate of the last block and of the new parameters.
        layer_decay: factor per block, 1 for none.
        decay_query_blocks: whether the blocks that process the queries decay too; otherwise they all have
            `learning_rate`.

    Returns:
        Parameter name -> learning rate.
    """
    num_layers, num_blocks = model.config.num_hidden_layers, model.config.num_blocks
    rates = {}
    for name, _ in model.named_parameters():
        layer = num_layers - 1
        if name.startswith("embeddings."):
            layer = 0
        elif match := re.match(r"layers\.(\d+)\.", name):
            layer = int(match[1])
        undecayed = not decay_query_blocks and layer >= num_layers - num_blocks
        rates[name] = learning_rate * (1.0 if undecayed else layer_decay ** (num_layers - 1 - layer))
    return rates


def two_stage_warmup_poly(
    step: int, total_steps: int, warmup_steps: tuple[int, int], power: float, is_backbone: bool
) -> float:
    """
    Returns the factor on a base learning rate at a step. Another warm-up or decay replaces this function.

    Args:
        step: optimiser steps done so far.
        total_steps: optimiser steps of the whole training.
        warmup_steps: lengths of the new parameters' linear warm-up, during which the ViT stands still, and of the
            ViT's, which follows.
        power: exponent of the polynomial decay to 0 that follows a warm-up.
        is_backbone: whether the parameter belongs to the ViT.
    """
    start, length = (warmup_steps[0], warmup_steps[1]) if is_backbone else (0, warmup_steps[0])
    if step < start:
        return 0.0
    if step < start + length:
        return (step - start) / length
    return (1.0 - min((step - start - length) / max(total_steps - start - length, 1), 1.0)) ** power


def create_scheduler(optimizer: Optimizer, total_steps: int, warmup_steps: tuple[int, int], power: float) -> LambdaLR:
    """Returns the schedule of the groups of [`parameter_groups`], after [`two_stage_warmup_poly`]."""

    def create_multiplier(is_backbone: bool) -> Any:
        return lambda step: two_stage_warmup_poly(step, total_steps, warmup_steps, power, is_backbone)

    return LambdaLR(optimizer, [create_multiplier(group["is_backbone"]) for group in optimizer.param_groups])


def freeze(model: PreTrainedModel, backbone: bool, num_layers: int) -> None:
    """
    Excludes parameters from training.

    Args:
        model: an EoMT model.
        backbone: exclude the whole ViT.
        num_layers: exclude the ViT's embeddings and this many of its first blocks, if it is not 0.

    Raises:
        ValueError: the ViT has fewer blocks.
    """
    if num_layers > model.config.num_hidden_layers:
        raise ValueError(f"freeze_layers={num_layers}, but the ViT has {model.config.num_hidden_layers} blocks.")
    first = ("embeddings.", *(f"layers.{index}." for index in range(num_layers))) if num_layers else ()
    for name, parameter in model.named_parameters():
        if name.startswith(first) or (backbone and is_backbone(name)):
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, rates: dict[str, float], weight_decay: float) -> Iterator[dict[str, Any]]:
    """
    Groups the parameters for an optimiser: by their learning rate and the part of the model.

    Args:
        model: the model.
        rates: parameter name -> learning rate.
        weight_decay: weight decay of all groups.

    Yields:
        `params`, `lr`, `weight_decay`, `is_backbone` and `name` of each group: "new" outside the ViT, else its first
        part, such as "layers.3".
    """
    groups: dict[tuple[bool, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((is_backbone(name), rates[name]), []).append((name, parameter))
    for (backbone, rate), named in groups.items():
        first = re.match(r"layers\.\d+|\w+", named[0][0])
        yield {
            "params": [parameter for _, parameter in named],
            "lr": rate,
            "weight_decay": weight_decay,
            "is_backbone": backbone,
            "name": first[0] if backbone and first else "new",
        }

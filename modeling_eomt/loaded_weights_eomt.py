"""What a checkpoint must hold: all of the model's weights and no others, in their shapes, and finite."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


# What depends on the classes, and may be new where other classes are asked for.
_OF_CLASSES = ("class_predictor.weight", "class_predictor.bias", "criterion.empty_weight")
_LISTED = 20  # weights of a kind that an error names


def check_loaded_weights(model: Any, loaded: Any, load_config: Any) -> None:
    """
    Checks what Transformers has just loaded into a model.

    Args:
        model: the model; what was not loaded is on the meta device.
        loaded: Transformers' account of it, with names of `missing_keys` and `unexpected_keys`, and with
            `mismatched_keys`, each a name, the shape in the checkpoint and that in the model.
        load_config: how it was loaded.

    Raises:
        ValueError: weights that are missing, unexpected, of another shape, except for the class head where
            `ignore_mismatched_sizes` asks for another, or not finite, all listed.
    """
    if load_config.hf_quantizer is not None and load_config.hf_quantizer.pre_quantized:
        return  # weights have other names and parts there, which the library that wrote them knows
    loaded = copy.copy(loaded)
    model._adjust_missing_and_unexpected_keys(loaded)  # what a subclass says may be missing or unexpected
    mismatched = sorted(loaded.mismatched_keys)
    if load_config.ignore_mismatched_sizes:
        mismatched = [entry for entry in mismatched if entry[0] not in _OF_CLASSES]
    problems = [
        *_listed("missing", sorted(loaded.missing_keys)),
        *_listed("unexpected", sorted(loaded.unexpected_keys)),
        *_listed(
            "wrong shape",
            [f"{name} is {tuple(given)}, expected {tuple(expected)}" for name, given, expected in mismatched],
        ),
        *_listed("cannot be converted", [f"{name}: {why}" for name, why in loaded.conversion_errors.items()]),
        *_listed("error", loaded.error_msgs),
        *_listed("not finite (nan or inf)", not_finite(model)),
    ]
    if problems:
        hint = ""
        if len(problems) == len(mismatched) and {name for name, _, _ in mismatched} <= set(_OF_CLASSES):
            hint = "\nFor other classes than the checkpoint's give id2label and ignore_mismatched_sizes=True."
        raise ValueError(
            f"The weights of {load_config.pretrained_model_name_or_path} are not those of the model that its "
            "configuration describes:\n  " + "\n  ".join(problems) + hint
        )


def not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers with nan or inf in them, of those that are neither sharded nor offloaded."""
    tensors = [
        (name, tensor.detach())
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if type(tensor) in (Tensor, nn.Parameter) and tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1
        if not tensor.is_meta
    ]
    if not tensors:
        return []
    # A sum is not finite if anything in it is not; one transfer for each device, and no copies of the weights.
    sums = [tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)) for _, tensor in tensors]
    devices = {total.device for total in sums}
    finite = all(
        torch.stack([total.double() for total in sums if total.device == device]).isfinite().all()
        for device in devices
    )
    return [] if finite else [name for name, tensor in tensors if not tensor.isfinite().all()]


def _listed(what: str, entries: Iterable[str]) -> list[str]:
    """One line for each, and one for those that are too many."""
    lines = [f"{what}: {entry}" for entry in entries]
    return lines[:_LISTED] + ([f"{what}: {len(lines) - _LISTED} more"] if len(lines) > _LISTED else [])


__all__ = ["check_loaded_weights", "not_finite"]

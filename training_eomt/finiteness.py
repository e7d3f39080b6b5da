"""NaN and infinity in outputs, gradients and weights: they end a training before anything is saved."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


_MAX_NAMED = 20  # images, or weights


def find_not_finite(outputs: Any) -> list[int]:
    """
    Returns the indices of the images of a batch for which the model's outputs contain NaN or infinity. Images that are
    split have several inputs, which `patch_offsets` assigns to them.
    """
    logits = (outputs.masks_queries_logits.flatten(1), outputs.class_queries_logits.flatten(1))
    # NaN is both the largest and the smallest.
    are_finite = torch.stack([each.amax(1).isfinite() & each.amin(1).isfinite() for each in logits]).all(0)
    offsets = getattr(outputs, "patch_offsets", None)
    image_of_input = range(len(are_finite)) if offsets is None else [int(offset[0]) for offset in offsets]
    return sorted(
        {image for image, is_finite in zip(image_of_input, are_finite.tolist(), strict=True) if not is_finite}
    )


class GradientNorms:
    """The norms of gradients that are not known to be finite yet.

    A device computes a norm some time after the call. It is therefore read when the next step has waited for the
    device anyway, and before anything is saved or evaluated.
    """

    def __init__(self) -> None:
        self._unchecked: list[tuple[int, Sequence[str], Any]] = []

    def add(self, step: int, images: Sequence[str], norm: Any) -> None:
        """Adds the norm, a number or a tensor of one, of a step (the first being 1) on the images with these names."""
        self._unchecked.append((step, images, norm))

    def check(self) -> None:
        """Raises a `FloatingPointError` that names the step and its images if a norm is not finite."""
        while self._unchecked:
            step, images, norm = self._unchecked.pop(0)
            value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
            if not abs(value) < float("inf"):
                raise FloatingPointError(
                    f"Step {step}: the gradient is not finite, its norm is {value}. The images: {_listed(images)}. "
                    "Nothing of this step is saved. Look at these images and their annotations, or lower "
                    "learning_rate."
                )


@torch.no_grad()
def check_finite_weights(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raises a `FloatingPointError` that names the weights that are not finite; nothing was saved yet."""
    weights = [
        (name, value.to_local() if hasattr(value, "to_local") else value)
        for name, value in named
        if value.is_floating_point()
    ]
    if not weights:
        return
    is_finite = torch.stack([value.isfinite().all() for _, value in weights]).tolist()
    if damaged := [name for (name, _), finite in zip(weights, is_finite, strict=True) if not finite]:
        raise FloatingPointError(
            f"{len(damaged)} of {len(weights)} weights are not finite, and are not saved: {_listed(damaged)}."
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more

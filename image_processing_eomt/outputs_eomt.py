"""What post-processing is given, checked: a model's outputs and the sizes of the images they are of."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor


MAX_OUTPUT_PIXELS = 2**30  # of one result


def check_outputs(outputs: Any) -> None:
    """
    Raises a `ValueError` unless these are the logits of a model.

    Args:
        outputs: has `class_queries_logits` `(batch, num_queries, num_classes + 1)` and `masks_queries_logits`
            `(batch, num_queries, mask_height, mask_width)`, which may also be a sequence of `batch` tensors.
    """
    for name in ("masks_queries_logits", "class_queries_logits"):
        if not hasattr(outputs, name):
            raise ValueError(f"outputs must be what the model returned; {type(outputs).__name__} has no {name}.")
    classes, masks = outputs.class_queries_logits, outputs.masks_queries_logits
    if not isinstance(classes, Tensor) or not classes.is_floating_point() or classes.ndim != 3 or classes.shape[2] < 2:
        raise ValueError(
            "class_queries_logits must be floating point of shape (batch, num_queries, num_classes + 1), got "
            f"{_described(classes)}."
        )
    if isinstance(masks, Tensor) and masks.ndim == 4:
        each = masks.unbind()
    else:
        each = tuple(masks) if isinstance(masks, Sequence) else ()
    if len(each) != len(classes) or not all(_are_masks(one, classes.shape[1]) for one in each):
        raise ValueError(
            "masks_queries_logits must be floating point of shape (batch, num_queries, height, width), with batch and "
            f"num_queries as in class_queries_logits, {tuple(classes.shape[:2])}, got {_described(masks)}."
        )


def _are_masks(logits: Any, num_queries: int) -> bool:
    is_tensor = isinstance(logits, Tensor) and logits.is_floating_point() and logits.ndim == 3
    return is_tensor and len(logits) == num_queries and min(logits.shape[1:]) > 0


def check_finite(class_scores: Tensor, mask_logits: Tensor) -> None:
    """
    Raises a `ValueError` for predictions that are not numbers: those of a model with broken weights or inputs.

    Args:
        class_scores: of any shape, from 0 to 1.
        mask_logits: of any shape.
    """
    # The sum of what is not finite is not finite. One question to the device, and one pass over the masks.
    if not (class_scores.sum(dtype=torch.float32) + mask_logits.sum(dtype=torch.float32)).isfinite():
        raise ValueError(
            "The model's predictions are not finite (NaN or infinite): its weights may be damaged, overflow in half "
            "precision (use bfloat16 or float32), or it was given pixels that are not finite."
        )


def checked_sizes(target_sizes: Any) -> list[tuple[int, int]]:
    """
    One `(height, width)` per image.

    Raises:
        ValueError: these are no sizes.
    """
    if isinstance(target_sizes, Tensor):
        target_sizes = target_sizes.tolist()
    try:
        given = [size.tolist() if isinstance(size, Tensor) else tuple(size) for size in target_sizes]
    except TypeError as error:
        raise ValueError(
            f"target_sizes must be a (height, width) in pixels for each image, got {target_sizes!r:.100}."
        ) from error
    for index, size in enumerate(given):
        is_size = isinstance(size, list | tuple) and len(size) == 2 and all(_is_edge(edge) for edge in size)
        if not is_size or size[0] * size[1] > MAX_OUTPUT_PIXELS:
            raise ValueError(
                f"Target size {index} must be (height, width) in pixels, whole numbers from 1 and together at most "
                f"{MAX_OUTPUT_PIXELS:,} pixels, got {size!r:.100}."
            )
    return [(int(height), int(width)) for height, width in given]


def _is_edge(edge: Any) -> bool:
    if isinstance(edge, Tensor) and edge.ndim == 0:
        edge = edge.item()
    is_number = isinstance(edge, Real) and not isinstance(edge, bool)
    return is_number and bool(edge >= 1 and edge % 1 == 0)


def _described(value: Any) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__

"""Segmentation maps (one integer per pixel) as the masks and classes the loss wants."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def as_label_maps(segmentation_maps: Any) -> list[Tensor]:
    """
    A map, a list of maps or a stack of maps as a list of `(height, width)` int64 tensors.

    Maps are PIL images, NumPy arrays or tensors of integers.

    Raises:
        ValueError: a map is not two-dimensional or does not hold integers.
    """
    if not isinstance(segmentation_maps, list | tuple):
        is_stack = getattr(segmentation_maps, "ndim", 2) == 3
        segmentation_maps = list(segmentation_maps) if is_stack else [segmentation_maps]
    return [_as_label_map(label_map, index) for index, label_map in enumerate(segmentation_maps)]


def _as_label_map(label_map: Any, index: int) -> Tensor:
    if not isinstance(label_map, Tensor):
        array = np.asarray(label_map)
        if array.ndim != 2 or array.dtype.kind not in "biu":
            raise ValueError(_not_a_map(index, array.shape, array.dtype))
        return torch.from_numpy(array.astype(np.int64))
    if label_map.ndim != 2 or label_map.is_floating_point():
        raise ValueError(_not_a_map(index, tuple(label_map.shape), label_map.dtype))
    return label_map.to(torch.int64)


def _not_a_map(index: int, shape: tuple[int, ...], dtype: Any) -> str:
    hint = " Decode coloured PNGs first, for COCO with R + 256 G + 65536 B." if len(shape) == 3 else ""
    return f"Segmentation map {index} must be (height, width) integers, got shape {shape} of {dtype}.{hint}"


def resize_nearest(label_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of a `(height, width)` map, exact for every integer; pixel centres as in PIL."""
    rows, columns = (
        ((torch.arange(new, device=label_map.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for old, new in zip(label_map.shape, size)
    )
    return label_map[rows][:, columns]


def masks_and_classes(
    label_map: Tensor,
    id_to_class: Mapping[int, int] | None,
    ignore_index: int | None,
    do_reduce_labels: bool,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """
    One mask and one class per id in a map.

    Pixels equal to `ignore_index` belong to nothing, unless `id_to_class` gives that id a class. With
    `do_reduce_labels`, neither does what is 0 (as an id or as a class), and every other class is one less. Padding
    belongs to no mask.

    Args:
        label_map: `(height, width)` int64 ids.
        id_to_class: class of each id; None if the ids are classes.
        size: `(padded height, padded width)` of the masks, padded at the bottom and on the right.

    Returns:
        `(num_targets, *size)` bool masks and `(num_targets,)` int64 classes, by ascending id.

    Raises:
        KeyError: an id is not in `id_to_class`.
    """
    ids: list[int] = torch.unique(label_map).tolist()
    kept_ids, classes = [], []
    for id_ in ids:
        has_class = id_to_class is not None and id_ in id_to_class
        if (id_ == ignore_index and not has_class) or (do_reduce_labels and id_ == 0):
            continue
        label = id_ if id_to_class is None else id_to_class[id_]
        if label == ignore_index or (do_reduce_labels and label == 0):
            continue
        kept_ids.append(id_)
        classes.append(label - 1 if do_reduce_labels else label)

    device = label_map.device
    masks = label_map == torch.tensor(kept_ids, dtype=torch.int64, device=device)[:, None, None]
    masks = F.pad(masks, (0, size[1] - label_map.shape[1], 0, size[0] - label_map.shape[0]))
    return masks, torch.tensor(classes, dtype=torch.int64, device=device)

"""Segmentation maps (one integer per pixel) as the masks and classes the loss wants."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor


MAX_IDS = 10_000  # in one map; every id has a mask of the image's size


def as_label_maps(segmentation_maps: Any) -> list[Tensor]:
    """
    A map, a list of maps or a stack of maps as a list of tensors.

    Maps are PIL images, NumPy arrays or tensors of integers. In a list, an entry may be a stack of masks too.

    Returns:
        For each image `(height, width)` int64 or `(num_masks, height, width)` bool.

    Raises:
        ValueError: an entry is neither.
    """
    if not isinstance(segmentation_maps, list | tuple):
        is_stack = getattr(segmentation_maps, "ndim", 2) == 3
        segmentation_maps = list(segmentation_maps) if is_stack else [segmentation_maps]
    return [_as_label_map(label_map, index) for index, label_map in enumerate(segmentation_maps)]


def _as_label_map(label_map: Any, index: int) -> Tensor:
    if not isinstance(label_map, Tensor):
        array = np.asarray(label_map)
        if array.dtype.kind not in "biu":
            raise ValueError(_not_a_map(index, array.shape, array.dtype))
        label_map = torch.from_numpy(array if array.dtype == bool else array.astype(np.int64))
    if label_map.ndim == 3 and label_map.dtype == torch.bool:
        return label_map
    if label_map.ndim != 2 or label_map.is_floating_point() or label_map.is_complex():
        raise ValueError(_not_a_map(index, tuple(label_map.shape), label_map.dtype))
    return label_map.to(torch.int64)


def _not_a_map(index: int, shape: tuple[int, ...], dtype: Any) -> str:
    hint = " Decode coloured PNGs first, for COCO with R + 256 G + 65536 B." if len(shape) == 3 else ""
    return (
        f"Segmentation map {index} must be (height, width) integers or (num_masks, height, width) bool, got shape "
        f"{shape} of {dtype}.{hint}"
    )


def resize_nearest(label_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of `(..., height, width)`, exact for every integer; pixel centres as in PIL."""
    rows, columns = (
        ((torch.arange(new, device=label_map.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for old, new in zip(label_map.shape[-2:], size)
    )
    return label_map[..., rows, :][..., columns]


def masks_and_classes(
    label_map: Tensor, id_to_class: Mapping[int, int] | None, ignore_index: int | None, do_reduce_labels: bool
) -> tuple[Tensor, Tensor]:
    """
    One mask and one class per id in a map.

    Pixels equal to `ignore_index` belong to nothing, unless `id_to_class` gives that id a class. With
    `do_reduce_labels`, neither does what is 0 (as an id or as a class), and every other class is one less.

    Args:
        label_map: `(height, width)` int64 ids, or `(num_masks, height, width)` bool masks with their indices as ids:
            then an id means nothing in itself, only its class is compared with `ignore_index` and 0.
        id_to_class: class of each id; None if the ids are classes.

    Returns:
        `(num_targets, height, width)` bool masks and `(num_targets,)` int64 classes, by ascending id. There is no
        target without a pixel.

    Raises:
        KeyError: an id is not in `id_to_class`.
        ValueError: a class is negative or no whole number, or there are more ids than a segmentation has.
    """
    is_stack = label_map.ndim == 3
    present = torch.nonzero(label_map.flatten(1).any(dim=1)).squeeze(1) if is_stack else torch.unique(label_map)
    if len(present) > MAX_IDS:
        raise ValueError(
            f"A segmentation map has {len(present)} different ids, at most {MAX_IDS} are possible: is it an image?"
        )
    kept_ids, classes = [], []
    for id_ in present.tolist():
        if not is_stack:
            has_class = id_to_class is not None and id_ in id_to_class
            if (id_ == ignore_index and not has_class) or (do_reduce_labels and id_ == 0):
                continue
        label = id_ if id_to_class is None else id_to_class[id_]
        if not isinstance(label, Integral):
            raise ValueError(f"The class of id {id_} must be a whole number, got {label!r:.100}.")
        label = int(label)
        if label == ignore_index or (do_reduce_labels and label == 0):
            continue
        label = label - 1 if do_reduce_labels else label
        if label < 0:
            raise ValueError(f"Id {id_} would be of class {label}: classes are 0 or more. Set it as ignore_index?")
        kept_ids.append(id_)
        classes.append(label)

    ids = torch.tensor(kept_ids, dtype=torch.int64, device=label_map.device)
    masks = label_map[ids] if is_stack else label_map == ids[:, None, None]
    return masks, torch.tensor(classes, dtype=torch.int64, device=label_map.device)

"""Run-length encoding of masks as COCO's tools write it."""

from typing import Any

import torch
from torch import Tensor


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """
    Masks as COCO's compressed run lengths, which `pycocotools.mask` reads and JSON can hold.

    Args:
        masks: `(num_masks, height, width)` bool.

    Returns:
        For each mask `{"size": [height, width], "counts": str}`.
    """
    size = list(masks.shape[1:])
    return [{"size": size, "counts": _compressed(_run_lengths(mask))} for mask in masks]


def _run_lengths(mask: Tensor) -> list[int]:
    """Lengths of the runs of equal pixels down the columns of `(height, width)`, of False first (maybe 0)."""
    pixels = mask.T.flatten()
    ends = torch.nonzero(pixels[1:] != pixels[:-1]).squeeze(1) + 1
    edges = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(pixels))])
    lengths: list[int] = edges.diff().tolist()
    return [0, *lengths] if bool(pixels[0]) else lengths


def _compressed(lengths: list[int]) -> str:
    """
    COCO's text form: from the third length on the difference to the last but one, five bits to a character from the
    lowest on, a sixth bit where more follow, counted from the character "0".
    """
    characters = []
    for index, length in enumerate(lengths):
        rest = length - lengths[index - 2] if index > 2 else length
        while True:
            bits = rest & 31
            rest >>= 5
            # Done when what is left is only the sign, which the highest of the five bits repeats.
            is_last = rest == (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits if is_last else bits | 32)))
            if is_last:
                break
    return "".join(characters)

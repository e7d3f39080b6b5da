"""Resizing of images of bytes within a graph, to the byte as torchvision does it on a CPU.

No operator of a runtime has torchvision's arithmetic: whole numbers, with weights of 16 bits. Here an axis is resized
by products of matrices, one for each block of new rows with the old rows that it is made of. Exact as long as no side
becomes less than a hundredth of what it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .decoder import BILINEAR


BLOCK = 16  # new rows of a matrix product: fewer old rows are read twice, more meet a weight of zero
MAX_PRECISION = 22  # bits behind the point of a weight
POWERS = 2.0 ** torch.arange(MAX_PRECISION + 1, dtype=torch.float64)


def resize(image: Tensor, size: tuple[int, int], resample: int) -> Tensor:
    """
    Resizes with antialiasing in two passes with bytes between, the width first, see `decoder.resize`.

    Args:
        image: `(height, width, channels)` uint8.
        size: `(height, width)` of the result; in a graph they may be open.
        resample: `decoder.BILINEAR` or `decoder.BICUBIC`.
    """
    height, width = size
    columns = image.transpose(0, 1)  # (width, height, channels)
    image = resize_rows(columns.flatten(1), width, resample).unflatten(1, columns.shape[1:]).transpose(0, 1)
    return resize_rows(image.flatten(1), height, resample).unflatten(1, image.shape[1:])


def resize_rows(image: Tensor, num_rows: int, resample: int) -> Tensor:
    """Resizes the first axis of `(old_rows, columns)` uint8."""
    sources, weights, scale = block_weights(image.shape[0], num_rows, resample, image.device)
    rows = image.index_select(0, sources.flatten()).unflatten(0, sources.shape).float()
    # Both bytes of the weights, so that float32 holds all sums exactly.
    upper = (weights / 256).round()
    parts = torch.cat((upper, weights - 256 * upper), dim=1).float() @ rows
    upper_values, lower_values = parts.double().split(BLOCK, dim=1)  # (num_blocks, BLOCK, columns)
    values = (256 * upper_values + lower_values) / scale + 0.5
    return values.clamp(0, 255).to(torch.uint8).flatten(0, 1)[:num_rows]


def block_weights(
    old_rows: int, num_rows: int, resample: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Returns what blocks of new rows are made of.

    Returns:
        `(num_blocks, span)` int64, the old rows that each block spans; `(num_blocks, BLOCK, span)` float64, whole
        numbers of 16 bits: their weights, in the last block for the last row again and again; and what a weight of 1
        is in these numbers.
    """
    # Step by step in float64, as torchvision computes: weights are rounded in the end.
    ratio = torch.full((), old_rows, dtype=torch.float64, device=device) / num_rows
    stretch = ratio.clamp(min=1)
    support = stretch * (1 if resample == BILINEAR else 2)
    num_blocks = (num_rows + BLOCK - 1) // BLOCK
    places = torch.arange(num_blocks * BLOCK, device=device).clamp(max=num_rows - 1)
    centers = (ratio * (places.double() + 0.5)).unflatten(0, (num_blocks, BLOCK))
    starts = (centers - support + 0.5).long().clamp(min=0)
    stops = (centers + support + 0.5).long().clamp(max=old_rows)
    span = (stops - starts[:, :1]).max()
    sources = starts[:, :1] + torch.arange(span, device=device)
    distance = ((sources[:, None] - centers[..., None] + 0.5) * (1 / stretch)).abs()
    weights = (1 - distance).clamp(min=0) if resample == BILINEAR else weigh_cubically(distance)
    is_outside = (sources[:, None] < starts[..., None]) | (sources[:, None] >= stops[..., None])
    weights = weights.masked_fill(is_outside, 0)
    weights = weights / weights.cumsum(dim=-1)[..., -1, None]  # summed in order, as torchvision does
    # As many bits as leave the largest weight in 16 bits.
    powers = POWERS.to(device)
    fits = (weights.max() * powers[1:] + 0.5).floor() < 2**15
    scale = powers.index_select(0, fits.sum()[None])
    weights = weights * scale
    weights = (weights + torch.where(weights < 0, -0.5, 0.5)).trunc()
    return sources.clamp(max=old_rows - 1), weights, scale


def weigh_cubically(distance: Tensor) -> Tensor:
    """Returns Keys' cubic kernel with a = -0.5 at distances from its center."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))

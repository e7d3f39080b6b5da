"""Learned position embeddings at any grid of patches, of operations that every runtime has.

The model resamples them by `interpolate`, bicubic and antialiased. TensorRT has no such `Resize`, and OpenVINO leaves
antialiasing out where it reads ONNX. Resampling is linear and separable: here it is two matrix products, with weights
that the graph computes of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeling_eomt.positions_eomt import EomtPositionEmbeddings

from .resizing import weigh_cubically


def resampling_weights(old_size: int, new_size: int, device: torch.device | None = None) -> Tensor:
    """
    Returns what each of the old samples along an axis counts for each of the new ones, `(new_size, old_size)`.

    As `torch.nn.functional.interpolate` with `mode="bicubic"`, `antialias=True` and `align_corners=False`: Keys' cubic
    kernel with a = -0.5, as wide as the new samples are apart.

    Args:
        old_size: number of samples there are.
        new_size: number of samples there will be; in a graph it may be open.
        device: of the result.
    """
    # In the old samples' coordinates; tensors, since numbers that depend on an open size are not in every runtime.
    spacing = (torch.full((), float(old_size), device=device) / new_size).clamp(min=1.0)
    centers = (torch.arange(new_size, device=device) + 0.5) / new_size * old_size
    distance = ((torch.arange(old_size, device=device) + 0.5 - centers[:, None]) / spacing).abs()
    weights = weigh_cubically(distance)
    return weights / weights.sum(dim=1, keepdim=True)


class ResampledPositions(nn.Module):
    """Stands in for [`EomtPositionEmbeddings`] in a graph for any size of images."""

    def __init__(self, positions: EomtPositionEmbeddings):
        super().__init__()
        self.weight = positions.weight
        self.trained_grid = positions.trained_grid

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Embeddings of a `(rows, columns)` grid, `(rows * columns, hidden_size)`."""
        embeddings = self.weight.unflatten(0, self.trained_grid)
        of_rows, of_columns = (
            resampling_weights(old, new, embeddings.device) for old, new in zip(self.trained_grid, grid)
        )
        by_row = torch.tensordot(of_rows, embeddings, dims=1)
        by_column = torch.matmul(of_columns, by_row)
        return by_column.flatten(0, 1)

"""Deformable attention, in plain PyTorch.

Reference: "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021,
https://arxiv.org/abs/2010.04159, section 4.1, equation 3.
"""

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention


Shape = tuple[int, int]  # rows and columns of a map


def centres(shapes: list[Shape], like: Tensor) -> Tensor:
    """
    Where the tokens of maps are: x and y of their centres in fractions of width and height, `(1, num_tokens, 2)`.

    Args:
        shapes: of the maps, whose tokens are in a row.
        like: gives device and dtype.
    """
    points = []
    for rows, columns in shapes:
        y = (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) / rows
        x = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) / columns
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(points)[None]


class DeformableAttention(nn.Module):
    """Each query reads a few points near its own place off each of several maps, and averages them.

    Args:
        hidden_size: width of queries, maps and result.
        num_heads: number of heads.
        num_levels: number of maps.
        num_points: points per head and map.
        value_ratio: width of what is read, over `hidden_size`.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, num_levels: int, num_points: int = 4, value_ratio: float = 0.5
    ) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        value_size = int(hidden_size * value_ratio)
        self.sampling_offsets = nn.Linear(hidden_size, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(hidden_size, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(hidden_size, value_size)
        self.output_proj = nn.Linear(value_size, hidden_size)

    @torch.no_grad()
    def initialize(self) -> None:
        """Each head looks into a direction of its own, its points 1, 2, 3... pixels away, all with the same weight."""
        angles = torch.arange(self.num_heads) * (2.0 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # (heads, 2), on a square's border
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * distances[None, None, :, None]  # (heads, 1, points, 2)
        init.zeros_(self.sampling_offsets.weight)
        init.copy_(self.sampling_offsets.bias, offsets.expand(-1, self.num_levels, -1, -1).flatten())
        init.zeros_(self.attention_weights.weight)
        init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            init.xavier_uniform_(projection.weight)
            init.zeros_(projection.bias)

    def forward(self, queries: Tensor, places: Tensor, maps: Tensor, shapes: list[Shape]) -> Tensor:
        """
        Args:
            queries: `(batch, num_queries, hidden_size)`.
            places: x and y of each query in fractions of width and height, `(1, num_queries, 2)`.
            maps: tokens of all maps in a row, `(batch, num_tokens, hidden_size)`.
            shapes: rows and columns of each map.

        Returns:
            `(batch, num_queries, hidden_size)`.
        """
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        values = self.value_proj(maps).unflatten(-1, (heads, -1))
        offsets = self.sampling_offsets(queries).unflatten(-1, (heads, levels, points, 2))  # in pixels of a map
        weights = self.attention_weights(queries).unflatten(-1, (heads, levels * points)).softmax(-1)
        # Sizes are numbers, not a tensor that would be copied to the device and keep CUDA graphs away.
        locations = [
            places[:, :, None, None] + torch.stack([x / columns, y / rows], dim=-1)
            for (rows, columns), x, y in zip(shapes, *(each.unbind(3) for each in offsets.unbind(-1)), strict=True)
        ]
        weights = weights.unflatten(-1, (levels, points))
        read = multi_scale_deformable_attention(values, shapes, torch.stack(locations, dim=3), weights)
        return self.output_proj(read)

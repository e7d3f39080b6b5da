"""Positions of the patches: learned embeddings (DINOv2) and rotary ones (DINOv3), at any patch grid.

Nothing is cached between forward passes: of a pass, computing rotary embeddings takes less than 0.1 % of the time on a
CPU (0.4 ms of 3 s, DINOv3-S at 640x640), resampling learned ones at most 0.6 % (10 ms of 1.7 s, DINOv2-S at 512x768).

Reference: "DINOv2", https://arxiv.org/abs/2304.07193; "DINOv3", https://arxiv.org/abs/2508.10104, section 3.2.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig, patch_grid
from .random_eomt import StepRandomness


def resample_grid(embeddings: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """
    Resamples position embeddings to another grid: bicubic, antialiased, in float32.

    Args:
        embeddings: `(old_rows * old_columns, hidden_size)`.
        old_grid, new_grid: `(rows, columns)`.

    Returns:
        `(new_rows * new_columns, hidden_size)`, in the dtype of `embeddings`.
    """
    # In a graph for any size the comparison would fix the size. There the old grid is resampled to itself, exactly.
    is_fixed = not any(isinstance(size, torch.SymInt) for size in new_grid)
    if is_fixed and old_grid == new_grid:
        return embeddings
    old = embeddings.float().unflatten(0, old_grid).permute(2, 0, 1)  # (hidden_size, rows, columns)
    new = F.interpolate(old[None], size=new_grid, mode="bicubic", antialias=True, align_corners=False)
    return new[0].flatten(1).T.to(embeddings.dtype)


class EomtPositionEmbeddings(nn.Embedding):
    """Learned position embeddings of a grid of patches."""

    def __init__(self, config: EomtConfig):
        self.trained_grid = patch_grid(config.image_size, config.patch_size)
        super().__init__(self.trained_grid[0] * self.trained_grid[1], config.hidden_size)

    def forward(self, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Embeddings of a `(rows, columns)` grid, `(rows * columns, hidden_size)`: resampled unless it is the trained
        one."""
        return resample_grid(self.weight, self.trained_grid, grid)

    @torch.no_grad()
    def set_trained_grid(self, grid: tuple[int, int]) -> None:
        """Resamples the embeddings once and for all."""
        resampled = resample_grid(self.weight, self.trained_grid, grid).contiguous()
        self.weight = nn.Parameter(resampled, requires_grad=self.weight.requires_grad)
        self.num_embeddings = len(self.weight)
        self.trained_grid = grid


class EomtRope(nn.Module):
    """Rotary position embeddings of the patches: half of a head's channels turn by row, half by column.

    In training, the coordinates may be shifted, stretched and scaled at random, see [`EomtDinov3Config`].

    Args:
        config: an [`EomtDinov3Config`].
    """

    def __init__(self, config: Any):
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.theta = float(config.rope_parameters["rope_theta"])
        self.shift = config.pos_embed_shift
        self.jitter = config.pos_embed_jitter
        self.rescale = config.pos_embed_rescale

    def forward(
        self, grid: tuple[int, int], num_other_tokens: int, device: torch.device, random: StepRandomness | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            grid: rows and columns of the patch grid.
            num_other_tokens: number of tokens before the patches, which are not turned.
            device: device of the result.
            random: moves the coordinates of each image in training; None leaves them.

        Returns:
            Cosines and sines, `(num_other_tokens + rows * columns, head_dim)` float32 each, with a leading
            `(batch, 1)` if `random` is given.
        """
        with torch.autocast(device.type, enabled=False):
            # Centres of the patches; the image reaches from -1 to 1 along each axis.
            axes = [(torch.arange(size, device=device) + 0.5) / size * 2.0 - 1.0 for size in grid]
            coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)  # (patches, 2)
            if random is not None:
                coordinates = self.augment(coordinates, random)
            exponents = torch.arange(0, 1, 4 / self.head_dim, device=device, dtype=torch.float32)
            frequencies = 2.0 * math.pi / self.theta**exponents  # (head_dim / 4,)
            angles = (coordinates[..., None] * frequencies).flatten(-2).tile(2)  # (..., patches, head_dim)
            angles = F.pad(angles, (0, 0, num_other_tokens, 0))  # an angle of 0 leaves a token as it is
            return angles.cos(), angles.sin()

    def augment(self, coordinates: Tensor, random: StepRandomness) -> Tensor:
        """
        Shifts, jitters and rescales coordinates `(patches, 2)`, each by one draw for all patches of an image.

        Returns:
            `(batch, 1, patches, 2)`.
        """
        draws = random.coordinate_draws()
        shift, jitter, rescale = draws.split([2, 2, 1], dim=-1)
        coordinates = coordinates.expand(draws.shape[0], 1, -1, -1)
        if self.shift is not None:
            coordinates = coordinates + shift * self.shift
        if self.jitter is not None:
            coordinates = coordinates * (jitter * math.log(self.jitter)).exp()
        if self.rescale is not None:
            coordinates = coordinates * (rescale * math.log(self.rescale)).exp()
        return coordinates


def apply_rope(tokens: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """
    Rotates the channel pairs `(i, i + head_dim / 2)` of `(batch, heads, num_tokens, head_dim)`. Cosines and sines of
    the angles are `(num_tokens, head_dim)` or, if each image has its own, `(batch, 1, num_tokens, head_dim)`.
    """
    # Slices, not `chunk`: ExecuTorch cannot resize a list of tensors, and so fails in a dynamic batch.
    half = tokens.shape[-1] // 2
    first, second = tokens[..., :half], tokens[..., half:]
    turned = torch.cat([-second, first], dim=-1)
    return tokens * cosines.to(tokens.dtype) + turned * sines.to(tokens.dtype)

"""Where a patch is: learned position embeddings (DINOv2) and rotary ones (DINOv3), at any patch grid.

Reference: "DINOv2", https://arxiv.org/abs/2304.07193; "DINOv3", https://arxiv.org/abs/2508.10104, section 3.2.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig, patch_grid
from .random_eomt import COORDINATES, uniform


class GridCache:
    """What was last computed for each of a few patch grids; forgotten when what it was computed from changes."""

    MAX_GRIDS = 8

    def __init__(self) -> None:
        self.entries: dict[tuple[int, int], tuple[Any, Any]] = {}

    def get(self, grid: tuple[int, int], source: Any) -> Any:
        """What was stored for `grid`, or None if nothing was or it came from another `source`."""
        stored_source, value = self.entries.get(grid, (None, None))
        return value if stored_source == source else None

    def store(self, grid: tuple[int, int], source: Any, value: Any) -> None:
        if len(self.entries) >= self.MAX_GRIDS:
            self.entries.clear()
        self.entries[grid] = (source, value)

    def clear(self) -> None:
        self.entries.clear()

    def __deepcopy__(self, memo: Any) -> "GridCache":
        return GridCache()

    def __reduce__(self) -> tuple[Any, ...]:
        return GridCache, ()


def resample_grid(embeddings: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """
    Position embeddings of another grid: bicubic, antialiased, in float32.

    Args:
        embeddings: `(old_rows * old_columns, hidden_size)`.
        old_grid, new_grid: `(rows, columns)`.

    Returns:
        `(new_rows * new_columns, hidden_size)`, in the dtype of `embeddings`.
    """
    if old_grid == new_grid:
        return embeddings
    old = embeddings.float().unflatten(0, old_grid).permute(2, 0, 1)  # (hidden_size, rows, columns)
    new = F.interpolate(old[None], size=new_grid, mode="bicubic", antialias=True, align_corners=False)
    return new[0].flatten(1).T.to(embeddings.dtype)


class EomtPositionEmbeddings(nn.Embedding):
    """Learned position embeddings of a grid of patches."""

    def __init__(self, config: EomtConfig):
        self.trained_grid = patch_grid(config.image_size, config.patch_size)
        super().__init__(self.trained_grid[0] * self.trained_grid[1], config.hidden_size)
        self.cache = GridCache()

    def forward(self, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Embeddings of a `(rows, columns)` grid, `(rows * columns, hidden_size)`.

        Exact at the trained grid, resampled at any other; without gradients that is done once per grid.
        """
        if grid == self.trained_grid:
            return self.weight
        needs_gradient = torch.is_grad_enabled() and self.weight.requires_grad
        if needs_gradient or torch.compiler.is_compiling() or self.weight.is_inference():
            return resample_grid(self.weight, self.trained_grid, grid)
        source = (self.weight.data_ptr(), self.weight._version, self.weight.dtype, self.weight.device)
        resampled = self.cache.get(grid, source)
        if resampled is None:
            with torch.inference_mode(False), torch.no_grad():
                resampled = resample_grid(self.weight, self.trained_grid, grid)
            self.cache.store(grid, source, resampled)
        return resampled

    def train(self, mode: bool = True) -> "EomtPositionEmbeddings":
        self.cache.clear()  # also after changes that leave no trace, such as those to `weight.data`
        return super().train(mode)

    @torch.no_grad()
    def set_trained_grid(self, grid: tuple[int, int]) -> None:
        """Resamples the embeddings for good."""
        resampled = resample_grid(self.weight, self.trained_grid, grid).contiguous()
        self.weight = nn.Parameter(resampled, requires_grad=self.weight.requires_grad)
        self.num_embeddings = len(self.weight)
        self.trained_grid = grid
        self.cache.clear()


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
        self.cache = GridCache()

    def forward(
        self, grid: tuple[int, int], num_prefix_tokens: int, device: torch.device, image_seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            grid: rows and columns of the patch grid.
            num_prefix_tokens: number of tokens before the patches; they are not turned.
            device: where the result is needed.
            image_seeds: `(batch,)` int64, in training, where each image has coordinates of its own.

        Returns:
            Cosines and sines, `(num_prefix_tokens + rows * columns, head_dim)` float32 each; with seeds
            `(batch, 1, num_prefix_tokens + rows * columns, head_dim)`.
        """
        if image_seeds is not None or torch.compiler.is_compiling():
            return self.compute(grid, num_prefix_tokens, device, image_seeds)
        source = (num_prefix_tokens, device)
        rope = self.cache.get(grid, source)
        if rope is None:
            with torch.inference_mode(False), torch.no_grad():
                rope = self.compute(grid, num_prefix_tokens, device)
            self.cache.store(grid, source, rope)
        return rope

    def compute(
        self, grid: tuple[int, int], num_prefix_tokens: int, device: torch.device, image_seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Arguments and result of `forward`."""
        with torch.autocast(device.type, enabled=False):
            # Centres of the patches; the image reaches from -1 to 1 along each axis.
            axes = [(torch.arange(size, device=device) + 0.5) / size * 2.0 - 1.0 for size in grid]
            coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)  # (patches, 2)
            if image_seeds is not None:
                coordinates = self.augment(coordinates, image_seeds)
            exponents = torch.arange(0, 1, 4 / self.head_dim, device=device, dtype=torch.float32)
            frequencies = 2.0 * math.pi / self.theta**exponents  # (head_dim / 4,)
            angles = (coordinates[..., None] * frequencies).flatten(-2).tile(2)  # (..., patches, head_dim)
            angles = F.pad(angles, (0, 0, num_prefix_tokens, 0))  # an angle of 0 leaves a token as it is
            return angles.cos(), angles.sin()

    def augment(self, coordinates: Tensor, image_seeds: Tensor) -> Tensor:
        """
        Shifts, jitters and rescales coordinates, each by one draw for all patches of an image.

        Args:
            coordinates: `(patches, 2)`.
            image_seeds: `(batch,)` int64.

        Returns:
            `(batch, 1, patches, 2)`.
        """
        draws = 2.0 * uniform(image_seeds, COORDINATES, (1, 1, 5)) - 1.0
        shift, jitter, rescale = draws.split([2, 2, 1], dim=-1)
        coordinates = coordinates.expand(len(image_seeds), 1, -1, -1)
        if self.shift is not None:
            coordinates = coordinates + shift * self.shift
        if self.jitter is not None:
            coordinates = coordinates * (jitter * math.log(self.jitter)).exp()
        if self.rescale is not None:
            coordinates = coordinates * (rescale * math.log(self.rescale)).exp()
        return coordinates


def apply_rope(tokens: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """
    Turns the channel pairs `(i, i + head_dim / 2)` of `(batch, heads, num_tokens, head_dim)` by their angles, whose
    cosines and sines are `(num_tokens, head_dim)` or, if each image has its own, `(batch, 1, num_tokens, head_dim)`.
    """
    first, second = tokens.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return tokens * cosines.to(tokens.dtype) + turned * sines.to(tokens.dtype)

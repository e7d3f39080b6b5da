"""The plain Vision Transformer: embeddings and blocks.

Parameter names are those of Transformers' own EoMT, so that checkpoints move both ways.

Reference: "DINOv2: Learning Robust Visual Features without Supervision", https://arxiv.org/abs/2304.07193, and
"Vision Transformers Need Registers", https://arxiv.org/abs/2309.16588.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_eomt import EomtConfig, as_pair, patch_grid


class EomtPatchEmbeddings(nn.Module):
    """Non-overlapping patches of an image, projected to tokens."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.patch_size = as_pair(config.patch_size)
        self.num_channels = config.num_channels
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """
        Args:
            pixel_values: `(batch, num_channels, height, width)`.

        Returns:
            `(batch, hidden_size, height / patch_height, width / patch_width)`.

        Raises:
            ValueError: wrong number of channels, or a size that the patch size does not divide.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"pixel_values must be (batch, num_channels, height, width), got shape {tuple(pixel_values.shape)}."
            )
        num_channels, height, width = pixel_values.shape[1:]
        if num_channels != self.num_channels:
            raise ValueError(f"The model takes {self.num_channels} channels, pixel_values has {num_channels}.")
        if height % self.patch_size[0] or width % self.patch_size[1]:
            raise ValueError(
                f"pixel_values of height x width {height}x{width} cannot be cut into patches of "
                f"{self.patch_size[0]}x{self.patch_size[1]} pixels: both sizes must be divisible."
            )
        return self.projection(pixel_values.to(self.projection.weight.dtype))


class EomtPositionEmbeddings(nn.Embedding):
    """Learned position embeddings of a grid of patches."""

    def __init__(self, config: EomtConfig):
        self.trained_grid = patch_grid(config.image_size, config.patch_size)
        super().__init__(self.trained_grid[0] * self.trained_grid[1], config.hidden_size)

    def forward(self, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Embeddings of a `(rows, columns)` grid, `(rows * columns, hidden_size)`.

        Exact at the trained grid, resampled (bicubic, antialiased, in float32) at any other.
        """
        if grid == self.trained_grid:
            return self.weight
        trained = self.weight.float().unflatten(0, self.trained_grid).permute(2, 0, 1)  # (hidden_size, rows, columns)
        resampled = F.interpolate(trained[None], size=grid, mode="bicubic", antialias=True, align_corners=False)
        return resampled[0].flatten(1).T.to(self.weight.dtype)

    @torch.no_grad()
    def set_trained_grid(self, grid: tuple[int, int]) -> None:
        """Resamples the embeddings for good."""
        self.weight = nn.Parameter(self(grid).contiguous(), requires_grad=self.weight.requires_grad)
        self.num_embeddings = len(self.weight)
        self.trained_grid = grid


class EomtEmbeddings(nn.Module):
    """Class token, register tokens and patch tokens; position embeddings on the patches only."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.num_prefix_tokens = 1 + config.num_register_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, config.hidden_size))
        self.patch_embeddings = EomtPatchEmbeddings(config)
        self.position_embeddings = EomtPositionEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """
        Args:
            pixel_values: `(batch, num_channels, height, width)`.

        Returns:
            The tokens `(batch, num_prefix_tokens + rows * columns, hidden_size)`, prefix first, and the patch grid
            `(rows, columns)`.
        """
        patches = self.patch_embeddings(pixel_values)
        batch_size, _, rows, columns = patches.shape
        patches = patches.flatten(2).transpose(1, 2) + self.position_embeddings((rows, columns))
        prefix = torch.cat([self.cls_token, self.register_tokens], dim=1).expand(batch_size, -1, -1)
        return self.dropout(torch.cat([prefix, patches], dim=1)), (rows, columns)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, with a boolean mask; returns `(batch, rows, heads, head_dim)` and the probabilities."""
    scores = (query @ key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    output = F.dropout(probabilities, p=dropout, training=module.training) @ value
    return output.transpose(1, 2), probabilities


class EomtAttention(nn.Module):
    """Self-attention in which query rows may be restricted to the patches of their predicted mask.

    Patch and prefix rows are never masked, so they take the fused unmasked kernel; only the `num_queries` rows that
    need it carry a mask. Memory for masks is therefore `queries x tokens`, not `tokens x tokens`.
    """

    is_causal = False

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor, query_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            tokens: `(batch, num_tokens, hidden_size)`, queries first.
            query_mask: `(batch, num_queries, num_tokens)` bool, True where attention is allowed, or None.

        Returns:
            `(batch, num_tokens, hidden_size)` and the attention probabilities `(batch, heads, num_tokens,
            num_tokens)`, which only the eager implementation has.
        """
        # (batch, heads, num_tokens, head_dim)
        query, key, value = (
            projection(tokens).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if query_mask is None:
            output, probabilities = self.attend(query, key, value, None)
        else:
            num_queries = query_mask.shape[1]
            masked = self.attend(query[:, :, :num_queries], key, value, query_mask[:, None])
            unmasked = self.attend(query[:, :, num_queries:], key, value, None)
            output = torch.cat([masked[0], unmasked[0]], dim=1)
            probabilities = None if masked[1] is None else torch.cat([masked[1], unmasked[1]], dim=2)
        return self.out_proj(output.flatten(2)), probabilities

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
        """Rows of `query` attend to all of `key`; returns `(batch, rows, heads, head_dim)` and the probabilities."""
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.dropout if self.training else 0.0
        return attention(self, query, key, value, mask, scaling=self.scaling, dropout=dropout, is_causal=False)


class EomtMLP(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.hidden_size * config.mlp_ratio)
        self.fc2 = nn.Linear(config.hidden_size * config.mlp_ratio, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(tokens)))


class EomtLayerScale(nn.Module):
    """A learned factor per channel of a residual branch."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((config.hidden_size,), float(config.layerscale_value)))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.lambda1


class EomtDropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch of whole samples with probability `rate`."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * keep / (1.0 - self.rate)


class EomtLayer(GradientCheckpointingLayer):
    """A pre-norm transformer block with LayerScale."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = EomtAttention(config)
        self.layer_scale1 = EomtLayerScale(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = EomtMLP(config)
        self.layer_scale2 = EomtLayerScale(config)
        self.drop_path = EomtDropPath(config.drop_path_rate)

    def forward(self, tokens: Tensor, query_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            tokens: `(batch, num_tokens, hidden_size)`, queries first.
            query_mask: `(batch, num_queries, num_tokens)` bool, True where attention is allowed, or None.

        Returns:
            The tokens, same shape, and the attention probabilities (see [`EomtAttention`]).
        """
        attended, probabilities = self.attention(self.norm1(tokens), query_mask)
        tokens = tokens + self.drop_path(self.layer_scale1(attended))
        tokens = tokens + self.drop_path(self.layer_scale2(self.mlp(self.norm2(tokens))))
        return tokens, probabilities

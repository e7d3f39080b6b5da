"""The plain Vision Transformer: embeddings and blocks, of DINOv2, DINOv3 and EVA-02.

All families are one implementation. The names of some layers depend on the family: parameters have the names of
Transformers' own EoMT, so that checkpoints move both ways.

Reference: "DINOv2: Learning Robust Visual Features without Supervision", https://arxiv.org/abs/2304.07193, "Vision
Transformers Need Registers", https://arxiv.org/abs/2309.16588, "DINOv3", https://arxiv.org/abs/2508.10104, and
"EVA-02: A Visual Representation for Neon Genesis", https://arxiv.org/abs/2303.11331.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_eomt import EomtAttention
from .checkpoints_eomt import get_family
from .configuration_eomt import EomtConfig, as_pair
from .kernels_eomt import EomtLinear, recomputed
from .positions_eomt import EomtPositionEmbeddings


# Activations of one operation, of which PyTorch keeps the argument and nothing else for the backward pass.
KEEP_ARGUMENT = ("gelu", "gelu_pytorch_tanh", "silu", "swish")


class EomtPatchProjection(nn.Conv2d):
    """Non-overlapping patches of an image, projected to tokens."""

    def __init__(self, config: EomtConfig):
        patch_size = as_pair(config.patch_size)
        super().__init__(config.num_channels, config.hidden_size, kernel_size=patch_size, stride=patch_size)

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
        if num_channels != self.in_channels:
            raise ValueError(f"The model takes {self.in_channels} channels, pixel_values has {num_channels}.")
        if height % self.kernel_size[0] or width % self.kernel_size[1]:
            raise ValueError(
                f"pixel_values of height x width {height}x{width} cannot be cut into patches of "
                f"{self.kernel_size[0]}x{self.kernel_size[1]} pixels: both sizes must be divisible."
            )
        # Views only: cut into patches and joined again, which fails for other sizes in exported graphs too. One axis
        # after the other: Core ML takes tensors of at most five.
        patches = pixel_values.unflatten(3, (-1, self.kernel_size[1])).flatten(3, 4)
        patches = patches.unflatten(2, (-1, self.kernel_size[0])).flatten(2, 3)
        return super().forward(patches.to(self.weight.dtype))


class EomtEmbeddings(nn.Module):
    """Class token, register tokens and patch tokens; learned position embeddings, if any, on the patches only."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.num_prefix_tokens = 1 + config.num_register_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, config.hidden_size))
        projection = EomtPatchProjection(config)
        is_nested = get_family(config).layers.patches == "patch_embeddings.projection"
        self.patch_embeddings = nn.Sequential(OrderedDict(projection=projection)) if is_nested else projection
        self.position_embeddings = EomtPositionEmbeddings(config) if config.learns_positions else None
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
        patches = patches.flatten(2).transpose(1, 2)
        if self.position_embeddings is not None:
            patches = patches + self.position_embeddings((rows, columns))
        prefix = torch.cat([self.cls_token, self.register_tokens], dim=1).expand(batch_size, -1, -1)
        return self.dropout(torch.cat([prefix, patches], dim=1)), (rows, columns)


class EomtMLP(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.input_name, self.output_name = get_family(config).layers.mlp
        bias = getattr(config, "mlp_bias", True)
        self.add_module(self.input_name, EomtLinear(config.hidden_size, config.mlp_hidden_size, bias=bias))
        self.add_module(self.output_name, EomtLinear(config.mlp_hidden_size, config.hidden_size, bias=bias))
        self.activation = ACT2FN[config.mlp_activation]
        self.keeps_argument = config.mlp_activation in KEEP_ARGUMENT

    def forward(self, tokens: Tensor) -> Tensor:
        fc1, fc2 = getattr(self, self.input_name), getattr(self, self.output_name)
        return fc2(recomputed(self.activation, fc1(tokens), is_one_operation=self.keeps_argument))


class EomtGatedMLP(nn.Module):
    """An MLP whose hidden layer is multiplied with an activated gate (SwiGLU when the activation is SiLU), and in some
    EVA-02 normalised."""

    output_name = "down_proj"

    def __init__(self, config: EomtConfig):
        super().__init__()
        bias = getattr(config, "mlp_bias", True)  # which is DINOv3's
        self.gate_proj = EomtLinear(config.hidden_size, config.mlp_hidden_size, bias=bias)
        self.up_proj = EomtLinear(config.hidden_size, config.mlp_hidden_size, bias=bias)
        self.down_proj = EomtLinear(config.mlp_hidden_size, config.hidden_size, bias=bias)
        self.activation = ACT2FN[config.mlp_activation]
        has_norm = getattr(config, "use_mlp_norm", False)
        self.norm = nn.LayerNorm(config.mlp_hidden_size, eps=config.layer_norm_eps) if has_norm else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.down_proj(recomputed(self.act, self.gate_proj(tokens), self.up_proj(tokens)))

    def act(self, gate: Tensor, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(gate) * hidden)


class EomtLayerScale(nn.Module):
    """A learned factor per channel of a residual branch."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((config.hidden_size,), float(config.layerscale_value)))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.lambda1

    @torch.no_grad()
    def fuse_into(self, linear: nn.Linear) -> None:
        """For inference: makes the linear layer before this one do its work."""
        for parameter in linear.parameters():
            scaled = parameter.float() * self.lambda1.float().view(-1, *[1] * (parameter.ndim - 1))
            parameter.copy_(scaled)


class EomtDropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch of whole images with probability `rate`."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, draws: Tensor | None) -> Tensor:
        """
        Args:
            branch: `(batch, num_tokens, hidden_size)`.
            draws: `(batch,)`, a uniformly distributed number in [0, 1) per image; None drops nothing.
        """
        if draws is None:
            return branch
        return branch * (draws >= self.rate)[:, None, None] / (1.0 - self.rate)


class EomtLayer(GradientCheckpointingLayer):
    """A pre-norm transformer block, with LayerScale except in EVA-02."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        scale = EomtLayerScale if config.uses_layer_scale else nn.Identity
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = EomtAttention(config)
        self.layer_scale1 = scale(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp: EomtGatedMLP | EomtMLP = EomtGatedMLP(config) if config.uses_gated_mlp else EomtMLP(config)
        self.layer_scale2 = scale(config)
        self.drop_path = EomtDropPath(config.drop_path_rate)

    def fuse(self) -> None:
        """For inference: fewer and larger steps that give the same."""
        self.attention.fuse()
        for scale, before in (self.layer_scale1, self.attention), (self.layer_scale2, self.mlp):
            if isinstance(scale, EomtLayerScale):
                scale.fuse_into(getattr(before, before.output_name))
        self.layer_scale1 = self.layer_scale2 = nn.Identity()

    def forward(
        self,
        tokens: Tensor,
        query_mask: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
        branch_draws: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            tokens: `(batch, num_tokens, hidden_size)`, queries first.
            query_mask: `(batch, num_queries, num_tokens)` or None, as for [`EomtAttention`].
            rope: cosines and sines or None, as for [`EomtAttention`].
            branch_draws: `(2, batch)`, for attention and MLP the random numbers of [`EomtDropPath`], or None.

        Returns:
            The tokens, same shape, and the attention probabilities (see [`EomtAttention`]).
        """
        attention_draws, mlp_draws = (None, None) if branch_draws is None else branch_draws
        attended, probabilities = self.attention(self.norm1(tokens), query_mask, rope)
        tokens = tokens + self.drop_path(self.layer_scale1(attended), attention_draws)
        tokens = tokens + self.drop_path(self.layer_scale2(self.mlp(self.norm2(tokens))), mlp_draws)
        return tokens, probabilities

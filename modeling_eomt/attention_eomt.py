"""Self-attention of the blocks, with masks for the query rows alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints_eomt import get_family
from .configuration_eomt import EomtConfig
from .kernels_eomt import ALL_ATTENTION_FUNCTIONS, EomtLinear
from .positions_eomt import apply_rope


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
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        width = config.hidden_size
        # DINOv3 says of each projection whether it has a bias, DINOv2 has them all, EVA-02 all but the keys'.
        self.q_proj = EomtLinear(width, width, bias=getattr(config, "query_bias", True))
        self.k_proj = EomtLinear(width, width, bias=getattr(config, "key_bias", True))
        self.v_proj = EomtLinear(width, width, bias=getattr(config, "value_bias", True))
        self.output_name = get_family(config).layers.attention_output
        self.add_module(self.output_name, EomtLinear(width, width, bias=getattr(config, "proj_bias", True)))
        self.qkv_proj: EomtLinear | None = None  # the three in one, after `fuse`

    def forward(
        self, tokens: Tensor, query_mask: Tensor | None = None, rope: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            tokens: `(batch, num_tokens, hidden_size)`, queries first.
            query_mask: `(batch, num_queries, num_tokens)` bool, True where attention is allowed, or None.
            rope: cosines and sines of the rotary position embeddings, `(num_tokens, head_dim)` or, if each image has
                its own, `(batch, 1, num_tokens, head_dim)` each, or None.

        Returns:
            `(batch, num_tokens, hidden_size)` and the attention probabilities `(batch, heads, num_tokens,
            num_tokens)`, which only the eager implementation has.
        """
        # (batch, heads, num_tokens, head_dim)
        query, key, value = (
            each.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for each in self.project(tokens)
        )
        if rope is not None:
            query, key = apply_rope(query, *rope), apply_rope(key, *rope)
        if query_mask is None:
            output, probabilities = self.attend(query, key, value)
        else:
            num_queries = query_mask.shape[1]
            masked, of_masked = self.attend(query[:, :, :num_queries], key, value, query_mask[:, None])
            others, of_others = self.attend(query[:, :, num_queries:], key, value)
            output = torch.cat([masked, others], dim=1)
            probabilities = None
            if of_masked is not None and of_others is not None:
                probabilities = torch.cat([of_masked, of_others], dim=2)
        return getattr(self, self.output_name)(output.flatten(2)), probabilities

    def project(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Returns queries, keys and values of the tokens, `(batch, num_tokens, hidden_size)` each."""
        if self.qkv_proj is None:
            return self.q_proj(tokens), self.k_proj(tokens), self.v_proj(tokens)
        return self.qkv_proj(tokens).chunk(3, dim=-1)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Rows of `query` attend to all of `key`; returns `(batch, rows, heads, head_dim)` and the probabilities."""
        implementation = self.config._attn_implementation
        if mask is not None and implementation != "eager":
            implementation = "sdpa"  # flash and flex attention do not take a boolean mask; its rows are few
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        dropout = self.dropout if self.training else 0.0
        return attention(self, query, key, value, mask, scaling=self.scaling, dropout=dropout, is_causal=False)

    @torch.no_grad()
    def fuse(self) -> None:
        """For inference: one matrix product instead of three."""
        projections = [self.q_proj, self.k_proj, self.v_proj]
        weight = torch.cat([projection.weight for projection in projections])
        self.qkv_proj = EomtLinear(weight.shape[1], weight.shape[0], device="meta")
        self.qkv_proj.weight = nn.Parameter(weight, requires_grad=False)
        self.qkv_proj.bias = nn.Parameter(
            torch.cat([bias_or_zeros(each) for each in projections]), requires_grad=False
        )
        del self.q_proj, self.k_proj, self.v_proj


def bias_or_zeros(linear: nn.Linear) -> Tensor:
    """The bias of a linear layer, `(out_features,)`, zeros where it has none."""
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias

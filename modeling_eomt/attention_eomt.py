"""Self-attention of the blocks: masks for the query rows alone, and the fastest way to compute the rest."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .checkpoints_eomt import get_family
from .configuration_eomt import EomtConfig
from .linear_eomt import EomtLinear, onednn_pays
from .positions_eomt import apply_rope


BYTES_AT_ONCE = 2**21  # of an attention matrix, so that they stay in the cache


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


def pays_by_head(*tensors: Tensor) -> bool:
    """Whether `attention_by_head` can take the place of PyTorch's fused attention, and is faster."""
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not needs_gradient and onednn_pays(tensors[0])


def attention_by_head(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """
    Attention as matrix products of oneDNN, one head after the other; for CPUs, and without gradients.

    Rounded like eager attention: scores and probabilities have the dtype of the arguments.

    Args:
        query: `(batch, heads, rows, head_dim)`.
        key: `(batch, heads, num_tokens, head_dim)`.
        value: `(batch, heads, num_tokens, head_dim)`.
        scaling: factor on the scores.

    Returns:
        `(batch, rows, heads, head_dim)`.
    """
    batch_size, num_heads, num_rows, head_dim = query.shape
    output = query.new_empty(batch_size, num_rows, num_heads, head_dim)
    query, key, value = (query * scaling).contiguous(), key.contiguous(), value.transpose(2, 3).contiguous()
    rows_at_once = max(1, BYTES_AT_ONCE // (key.shape[2] * key.element_size()))
    for image in range(batch_size):
        for head in range(num_heads):
            keys, values = key[image, head].to_mkldnn(), value[image, head].to_mkldnn()
            for start in range(0, num_rows, rows_at_once):
                rows = slice(start, start + rows_at_once)
                probabilities = F.linear(query[image, head, rows].to_mkldnn(), keys).softmax(dim=-1)
                output[image, rows, head] = F.linear(probabilities, values).to_dense()
    return output


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
        # DINOv3 says of each projection whether it has a bias, DINOv2 has them all.
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
        if self.qkv_proj is None:
            projected = self.q_proj(tokens), self.k_proj(tokens), self.v_proj(tokens)
        else:
            projected = self.qkv_proj(tokens).chunk(3, dim=-1)
        # (batch, heads, num_tokens, head_dim)
        query, key, value = (each.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for each in projected)
        if rope is not None:
            query, key = apply_rope(query, *rope), apply_rope(key, *rope)
        if query_mask is None:
            output, probabilities = self.attend(query, key, value, None)
        else:
            num_queries = query_mask.shape[1]
            masked = self.attend(query[:, :, :num_queries], key, value, query_mask[:, None])
            unmasked = self.attend(query[:, :, num_queries:], key, value, None)
            output = torch.cat([masked[0], unmasked[0]], dim=1)
            probabilities = None if masked[1] is None else torch.cat([masked[1], unmasked[1]], dim=2)
        return getattr(self, self.output_name)(output.flatten(2)), probabilities

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

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
        """Rows of `query` attend to all of `key`; returns `(batch, rows, heads, head_dim)` and the probabilities."""
        implementation = self.config._attn_implementation
        if mask is not None and implementation != "eager":
            implementation = "sdpa"  # flash and flex attention do not take a boolean mask; its rows are few
        dropout = self.dropout if self.training else 0.0
        is_plain = implementation == "sdpa" and mask is None and dropout == 0.0
        if is_plain and pays_by_head(query, key, value):
            return attention_by_head(query, key, value, self.scaling), None
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        return attention(self, query, key, value, mask, scaling=self.scaling, dropout=dropout, is_causal=False)


def bias_or_zeros(linear: nn.Linear) -> Tensor:
    """The bias of a linear layer, `(out_features,)`, zeros where it has none."""
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias

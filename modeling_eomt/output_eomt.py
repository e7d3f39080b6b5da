"""What an EoMT model returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class EomtForUniversalSegmentationOutput(ModelOutput):
    """
    Output of [`EomtForUniversalSegmentation`], to be given to the image processor's `post_process_*` methods.

    Args:
        loss (`torch.Tensor`, *optional*):
            Weighted sum of all terms of `loss_dict`, a scalar; present when labels are given.
        class_queries_logits (`torch.Tensor` of shape `(batch, num_queries, num_labels + 1)`):
            Class logits of each query; the last class is "no object".
        masks_queries_logits (`torch.Tensor` of shape `(batch, num_queries, height / 4, width / 4)`):
            Mask logits of each query.
        last_hidden_state (`torch.Tensor` of shape `(batch, num_tokens, hidden_size)`):
            Tokens after the final layer norm: queries, prefix tokens, patches.
        hidden_states (`tuple[torch.Tensor]`, *optional*):
            With `output_hidden_states=True`: the tokens before the first block and after each block.
        attentions (`tuple[torch.Tensor]`, *optional*):
            With `output_attentions=True` and eager attention: `(batch, heads, tokens, tokens)` of each block.
        patch_offsets (`list[torch.Tensor]`, *optional*):
            As given, for window-split images: `(image, start, end)` of each window.
        loss_dict (`dict[str, torch.Tensor]`, *optional*):
            Unweighted terms: `loss_mask`, `loss_dice` and `loss_cross_entropy` of the last prediction, the same with
            `_0`, `_1`... for the predictions before the query blocks, earliest first.
        auxiliary_logits (`list[dict[str, torch.Tensor]]`, *optional*):
            With `output_auxiliary_logits=True`: `masks_queries_logits` and `class_queries_logits` predicted before
            each masked block, in order.
    """

    loss: Tensor | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    patch_offsets: list[Tensor] | None = None
    loss_dict: dict[str, Tensor] | None = None
    auxiliary_logits: list[dict[str, Tensor]] | None = None

"""EoMT: a plain Vision Transformer that segments images with a few learnable queries.

Reference: "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, https://arxiv.org/abs/2503.19108, section 3.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_eomt import EomtConfig, as_pair, patch_grid
from .loss_eomt import EomtLoss
from .mask_module_eomt import EomtMaskHead, EomtScaleBlock
from .vit_eomt import EomtEmbeddings, EomtLayer, EomtLayerScale, EomtPositionEmbeddings


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


class EomtPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the names Transformers needs to load, split and save EoMT models."""

    config: EomtConfig
    config_class = EomtConfig
    base_model_prefix = "eomt"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _no_split_modules = ["EomtLayer"]  # noqa: RUF012
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises the parameters that belong to `module` itself; loaded ones are left alone.

        Linear layers, convolutions and queries start as PyTorch starts them, as in the original.
        """
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1.0 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, EomtEmbeddings):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            init.trunc_normal_(module.register_tokens, std=self.config.initializer_range)
        elif isinstance(module, EomtPositionEmbeddings):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Embedding):  # the queries
            init.normal_(module.weight)
        elif isinstance(module, EomtLayerScale):
            init.constant_(module.lambda1, self.config.layerscale_value)
        elif isinstance(module, EomtLoss):
            init.copy_(module.empty_weight, module.initial_empty_weight())
        elif isinstance(module, EomtForUniversalSegmentation):
            init.ones_(module.attn_mask_probs)


class EomtForUniversalSegmentation(EomtPreTrainedModel):
    """
    EoMT for panoptic, instance and semantic segmentation.

    The first blocks of the ViT process class, register and patch tokens. Before the last `config.num_blocks` blocks,
    learnable queries are put in front of them. A class head reads a class and the mask module a mask off each query.

    In training, the attention of a query in a query block may be restricted to the mask it predicts just before that
    block; `mask_probabilities` says how often, per block. In evaluation a block is masked only at exactly 1.

    Args:
        config ([`EomtConfig`]): the configuration.
    """

    def __init__(self, config: EomtConfig):
        if config.use_swiglu_ffn:
            raise ValueError("use_swiglu_ffn=True (DINOv2 giant) is not supported yet.")
        super().__init__(config)
        self.embeddings = EomtEmbeddings(config)
        self.layers = nn.ModuleList(EomtLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.query = nn.Embedding(config.num_queries, config.hidden_size)
        self.upscale_block = EomtScaleBlock(config)
        self.mask_head = EomtMaskHead(config)
        self.class_predictor = nn.Linear(config.hidden_size, (config.num_labels or 0) + 1)
        self.criterion = EomtLoss.from_config(config)
        # The stored form of `mask_probabilities`. Computation uses the Python floats, never this tensor.
        self.register_buffer("attn_mask_probs", torch.ones(config.num_blocks))
        self.attn_mask_probs: Tensor
        self._mask_probabilities = [1.0] * config.num_blocks
        self.register_load_state_dict_post_hook(lambda module, _: module._read_mask_probabilities())
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads a model as `PreTrainedModel.from_pretrained` does, its mask probabilities included."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._read_mask_probabilities()
        return loaded

    def _read_mask_probabilities(self) -> None:
        self._mask_probabilities = self.attn_mask_probs.tolist()

    @property
    def mask_probabilities(self) -> list[float]:
        """Per query block, earliest first: how often a query's attention is restricted to its mask in training."""
        return list(self._mask_probabilities)

    def set_mask_probabilities(self, probabilities: list[float]) -> None:
        """
        Sets the probability of masking of each query block.

        Args:
            probabilities: `config.num_blocks` numbers in [0, 1], earliest block first.

        Raises:
            ValueError: wrong number of probabilities, or one outside of [0, 1].
        """
        probabilities = [float(probability) for probability in probabilities]
        if len(probabilities) != self.config.num_blocks or not all(0.0 <= p <= 1.0 for p in probabilities):
            raise ValueError(
                f"Expected {self.config.num_blocks} mask probabilities in [0, 1], one per query block, got "
                f"{probabilities}."
            )
        self._mask_probabilities = probabilities
        with torch.no_grad():
            self.attn_mask_probs.copy_(torch.tensor(probabilities))

    def set_image_size(self, image_size: int | tuple[int, int]) -> None:
        """
        Prepares the model for training at another size: resamples the position embeddings once.

        Args:
            image_size: height and width of the training images in pixels, one int for a square.

        Raises:
            ValueError: the patch size does not divide it.
        """
        grid = patch_grid(image_size, self.config.patch_size)
        if as_pair(image_size) != as_pair(self.config.image_size):
            self.embeddings.position_embeddings.set_trained_grid(grid)
            self.config.image_size = image_size

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: list[Tensor] | None = None,
        class_labels: list[Tensor] | None = None,
        patch_offsets: list[Tensor] | None = None,
        output_auxiliary_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> EomtForUniversalSegmentationOutput | tuple:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, height, width)`):
                Normalised images; height and width divisible by the patch size.
            mask_labels (`list[torch.Tensor]`, *optional*):
                Per image `(num_targets, height, width)`, bool, uint8 or float. An image without targets is legal.
            class_labels (`list[torch.Tensor]`, *optional*):
                Per image `(num_targets,)` int64, the class of each mask.
            patch_offsets (`list[torch.Tensor]`, *optional*):
                Positions of the windows of window-split images; returned as given.
            output_auxiliary_logits (`bool`, *optional*, defaults to `False`):
                Whether to return the predictions made before the query blocks.
            output_hidden_states (`bool`, *optional*):
                Whether to return the tokens after every block.
            output_attentions (`bool`, *optional*):
                Whether to return the attention probabilities of every block (eager attention only).
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return an output object instead of a tuple.

        Returns:
            [`EomtForUniversalSegmentationOutput`].

        Raises:
            `ValueError`: an image size that the patch size does not divide, or targets that do not fit.
        """
        if (mask_labels is None) != (class_labels is None):
            raise ValueError("mask_labels and class_labels must be given together.")
        for index, masks in enumerate(mask_labels or []):
            if masks.shape[-2:] != pixel_values.shape[-2:]:
                raise ValueError(
                    f"mask_labels[{index}] is {tuple(masks.shape[-2:])} and pixel_values "
                    f"{tuple(pixel_values.shape[-2:])} (height, width): masks must have their picture's size."
                )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        tokens, grid = self.embeddings(pixel_values)
        first_query_block = len(self.layers) - self.config.num_blocks
        supervise_all = self.training and mask_labels is not None
        predictions: list[tuple[Tensor, Tensor]] = []  # (mask logits, class logits)
        hidden_states = [tokens] if output_hidden_states else None
        attentions: list[Any] | None = [] if output_attentions else None

        for index, layer in enumerate(self.layers):
            query_block = index - first_query_block
            query_mask = None
            if query_block == 0:
                queries = self.query.weight.expand(len(tokens), -1, -1).to(tokens.dtype)
                tokens = torch.cat([queries, tokens], dim=1)
            if query_block >= 0:
                probability = self._mask_probabilities[query_block]
                masked = probability > 0.0 if self.training else probability == 1.0
                if masked or supervise_all:
                    predictions.append(self.predict(self.layernorm(tokens), grid))
                if masked:
                    query_mask = self.query_attention_mask(predictions[-1][0].detach(), grid, probability)
            tokens, probabilities = layer(tokens, query_mask)
            if hidden_states is not None:
                hidden_states.append(tokens)
            if attentions is not None:
                attentions.append(probabilities)

        sequence_output = self.layernorm(tokens)
        predictions.append(self.predict(sequence_output, grid))

        loss = loss_dict = None
        if mask_labels is not None and class_labels is not None:
            loss, loss_dict = self.compute_loss(predictions, mask_labels, class_labels)
        output = EomtForUniversalSegmentationOutput(
            loss=loss,
            class_queries_logits=predictions[-1][1],
            masks_queries_logits=predictions[-1][0],
            last_hidden_state=sequence_output,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
            patch_offsets=patch_offsets,
            loss_dict=loss_dict,
            auxiliary_logits=[
                {"masks_queries_logits": masks, "class_queries_logits": classes} for masks, classes in predictions[:-1]
            ]
            if output_auxiliary_logits
            else None,
        )
        return output.to_tuple() if return_dict is False else output

    def predict(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """
        Masks and classes of the queries.

        Args:
            tokens: `(batch, num_queries + num_prefix_tokens + num_patches, hidden_size)`, normalised.
            grid: rows and columns of the patch grid.

        Returns:
            Mask logits `(batch, num_queries, height / 4, width / 4)` and class logits
            `(batch, num_queries, num_labels + 1)`.
        """
        queries = tokens[:, : self.config.num_queries]
        patches = tokens[:, self.config.num_queries + self.embeddings.num_prefix_tokens :]
        features = patches.transpose(1, 2).unflatten(2, grid)  # (batch, hidden_size, rows, columns)
        features = self.upscale_block(features)
        mask_logits = torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), features)
        return mask_logits, self.class_predictor(queries)

    def query_attention_mask(self, mask_logits: Tensor, grid: tuple[int, int], probability: float) -> Tensor:
        """
        Where each query may attend: to all queries and prefix tokens, and to the patches of its mask.

        Args:
            mask_logits: `(batch, num_queries, height / 4, width / 4)`.
            grid: rows and columns of the patch grid.
            probability: how likely a query is restricted at all; the others may attend everywhere.

        Returns:
            `(batch, num_queries, num_tokens)` bool, True where attention is allowed.
        """
        allowed = F.interpolate(mask_logits, size=grid, mode="bilinear", align_corners=False).flatten(2) > 0
        if probability < 1.0:
            allowed |= torch.rand(allowed.shape[:2], device=allowed.device)[:, :, None] > probability
        return F.pad(allowed, (self.config.num_queries + self.embeddings.num_prefix_tokens, 0), value=True)

    def compute_loss(
        self, predictions: list[tuple[Tensor, Tensor]], mask_labels: list[Tensor], class_labels: list[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all loss terms, and the unweighted terms by name (see the output's `loss_dict`)."""
        terms = self.criterion.for_predictions(predictions, mask_labels, class_labels)
        suffixes = [f"_{index}" for index in range(len(terms) - 1)] + [""]
        loss_dict = {
            f"{name}{suffix}": value
            for suffix, term in zip(reversed(suffixes), reversed(terms), strict=True)
            for name, value in term.items()
        }
        weights = {
            "loss_mask": self.config.mask_weight,
            "loss_dice": self.config.dice_weight,
            "loss_cross_entropy": self.config.class_weight,
        }
        return sum(weights[name] * value for term in terms for name, value in term.items()), loss_dict  # type: ignore


EomtForUniversalSegmentation.register_for_auto_class("AutoModelForUniversalSegmentation")

__all__ = ["EomtForUniversalSegmentation", "EomtForUniversalSegmentationOutput", "EomtPreTrainedModel"]

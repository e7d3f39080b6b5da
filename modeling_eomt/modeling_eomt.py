"""EoMT: a plain Vision Transformer that segments images with a few learnable queries.

Reference: "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, https://arxiv.org/abs/2503.19108, section 3.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .checkpoints_eomt import get_family
from .configuration_eomt import EomtConfig, EomtDinov3Config, EomtEva02Config, as_pair, patch_grid
from .loss_eomt import EomtLoss
from .mask_module_eomt import EomtMaskHead, EomtScaleBlock, MaskProbabilitiesMixin
from .pretrained_eomt import EomtForUniversalSegmentationOutput, EomtPreTrainedModel
from .random_eomt import StepRandomness
from .vit_eomt import EomtEmbeddings, EomtLayer


class SharedInputs(NamedTuple):
    """What every block of a forward pass gets besides the tokens.

    Args:
        grid: rows and columns of the patch grid.
        rope: cosines and sines of all tokens, queries included, see [`EomtRope`]; None without them.
        masked_queries: in training, the queries that each query block masks, `(num_blocks, batch, num_queries)` bool.
        branch_draws: in training with stochastic depth, see [`EomtDropPath`], `(num_hidden_layers, 2, batch)`.
    """

    grid: tuple[int, int]
    rope: tuple[Tensor, Tensor] | None
    masked_queries: Tensor | None
    branch_draws: Tensor | list[None]


class EomtForUniversalSegmentation(MaskProbabilitiesMixin, EomtPreTrainedModel):
    """
    EoMT for panoptic, instance and semantic segmentation.

    The first blocks of the ViT process class, register and patch tokens; learnable queries join them in the last
    `config.num_blocks` blocks. A class head reads a class and the mask module a mask off each query.

    In training, the attention of a query in a query block may be restricted to the mask it predicts just before that
    block; `mask_probabilities` says how often, per block. In evaluation a block is masked only at exactly 1.

    Args:
        config: an [`EomtConfig`].
    """

    gradient_checkpointing = False

    def __init__(self, config: EomtConfig):
        super().__init__(config)
        self.embeddings = EomtEmbeddings(config)
        rope = get_family(config).rope
        self.rope_embeddings = None if rope is None else rope(config)
        self.layers = nn.ModuleList(EomtLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.query = nn.Embedding(config.num_queries, config.hidden_size)
        self.upscale_block = EomtScaleBlock(config)
        self.mask_head = EomtMaskHead(config)
        self.class_predictor = nn.Linear(config.hidden_size, (config.num_labels or 0) + 1)
        self.criterion = EomtLoss.from_config(config)
        self.create_mask_probabilities(config.num_blocks)
        self.post_init()

    def set_image_size(self, image_size: int | tuple[int, int]) -> None:
        """
        Prepares the model for training at another size: resamples the position embeddings, if it has any, once. The
        image processor is another object: give it the same `size`.

        Args:
            image_size: height and width of the training images in pixels, one int for a square.

        Raises:
            ValueError: the patch size does not divide it.
        """
        grid = patch_grid(image_size, self.config.patch_size)
        if as_pair(image_size) != as_pair(self.config.image_size):
            if self.embeddings.position_embeddings is not None:
                self.embeddings.position_embeddings.set_trained_grid(grid)
            self.config.image_size = image_size

    @torch.no_grad()
    def set_num_queries(self, num_queries: int) -> None:
        """
        Changes the number of queries: keeps the first ones, and initialises those that are new.

        Args:
            num_queries: the most segments the model can find in an image, at least 1.
        """
        kept = self.config.num_queries
        self.config.num_queries = num_queries  # which checks it
        queries = torch.randn(num_queries, self.config.hidden_size).to(self.query.weight)
        queries[:kept] = self.query.weight[:num_queries]
        self.query.weight = nn.Parameter(queries, requires_grad=self.query.weight.requires_grad)
        self.query.num_embeddings = num_queries

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: list[Tensor] | None = None,
        class_labels: list[Tensor] | None = None,
        patch_offsets: list[Tensor] | None = None,
        output_auxiliary_logits: bool | None = None,
        image_seeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EomtForUniversalSegmentationOutput:
        r"""
        Args:
            pixel_values: `(batch, num_channels, height, width)`, normalised images; height and width divisible by the
                patch size.
            mask_labels: per image `(num_targets, height, width)`, bool, uint8 or float. An image without targets is
                legal.
            class_labels: per image `(num_targets,)` int64, the class of each mask.
            patch_offsets: positions of the windows of window-split images; returned as given.
            output_auxiliary_logits: whether to return the predictions before the query blocks: in training with labels
                all, otherwise those before masked blocks.
            image_seeds: `(batch,)`, one int64 per image. The random numbers of an image (which queries are masked,
                which branches stochastic depth drops, how rotary positions are moved, at which points masks are
                compared) depend on its seed alone, not on the rest of the batch, so that a step has the same loss and
                gradients however its images are split. Dropout alone, which no published model has, draws from torch's
                generator. By default the seeds are drawn from that; in evaluation without labels nothing is drawn.
            kwargs:
                `output_hidden_states`, `output_attentions` (eager attention only) and `return_dict`, as in every model
                of Transformers. `num_items_in_batch`, `(2,)`: number of images and of masks that the loss is averaged
                over if this batch is part of a larger one, see [`count_items`]; by default this batch's, over all
                processes.

        Returns:
            [`EomtForUniversalSegmentationOutput`].

        Raises:
            ValueError: an image size that the patch size does not divide, or targets or seeds that do not fit.
            NonFinitePredictionsError: labels are given, and predictions are not finite.
        """
        if (mask_labels is None) != (class_labels is None):
            raise ValueError("mask_labels and class_labels must be given together.")
        labels = None
        if mask_labels is not None and class_labels is not None:
            labels = mask_labels, class_labels
            for index, masks in enumerate(mask_labels):
                if masks.shape[-2:] != pixel_values.shape[-2:]:
                    raise ValueError(
                        f"mask_labels[{index}] is {tuple(masks.shape[-2:])} and pixel_values "
                        f"{tuple(pixel_values.shape[-2:])} (height, width): masks must have their image's size."
                    )
        return self._forward(pixel_values, labels, patch_offsets, output_auxiliary_logits, image_seeds, **kwargs)

    # Not on `forward` itself: torch 2.6 cannot compile a decorator of another module as the outermost function.
    @capture_outputs(tie_last_hidden_states=False)
    def _forward(
        self,
        pixel_values: Tensor,
        labels: tuple[list[Tensor], list[Tensor]] | None,
        patch_offsets: list[Tensor] | None,
        output_auxiliary_logits: bool | None,
        image_seeds: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EomtForUniversalSegmentationOutput:
        """Runs the forward pass; hidden states and attentions are collected on request."""
        random = None
        if self.training or labels is not None:
            random = StepRandomness(image_seeds, pixel_values.shape[0], pixel_values.device)
        predictions: list[dict[str, Tensor]] = []

        tokens, shared = self.encode(pixel_values, random if self.training else None)
        tokens = self.add_queries(tokens)
        for index in range(self.config.num_blocks):
            mask_logits = None
            # In training the loss compares a prediction before each block; on request, those before masked blocks.
            if (self.training and labels is not None) or (output_auxiliary_logits and self.masks_queries(index)):
                predictions.append(self.predict(self.layernorm(tokens), shared.grid))
                mask_logits = predictions[-1]["masks_queries_logits"].detach()
            tokens = self.query_block(index, tokens, shared, mask_logits)
        tokens = self.layernorm(tokens)
        predictions.append(self.predict(tokens, shared.grid))

        loss = loss_dict = None
        if labels is not None:
            terms = self.criterion.for_predictions(predictions, *labels, kwargs.get("num_items_in_batch"), random)
            loss, loss_dict = self.criterion.weighted_sum(terms)
        return EomtForUniversalSegmentationOutput(
            **predictions[-1],  # type: ignore[arg-type]
            loss=loss,
            loss_dict=loss_dict,
            last_hidden_state=tokens,
            patch_offsets=patch_offsets,
            auxiliary_logits=predictions[:-1] if output_auxiliary_logits else None,
        )

    def encode(self, pixel_values: Tensor, random: StepRandomness | None) -> tuple[Tensor, SharedInputs]:
        """
        Runs the blocks of the plain ViT.

        Args:
            pixel_values: `(batch, num_channels, height, width)`.
            random: the random numbers of a training step; None in evaluation.

        Returns:
            The tokens `(batch, num_prefix_tokens + num_patches, hidden_size)`, and what the query blocks get besides
            them.
        """
        num_queries, num_layers = self.config.num_queries, len(self.layers)
        tokens, grid = self.embeddings(pixel_values)
        rope = vit_rope = masked_queries = None
        branch_draws: Tensor | list[None] = [None] * num_layers
        if random is not None:
            masked_queries = random.masked_queries(self.attn_mask_probs, num_queries)
            if self.config.drop_path_rate > 0:
                branch_draws = random.branch_draws(num_layers)
        if self.rope_embeddings is not None:
            rope = self.rope_embeddings(grid, num_queries + self.embeddings.num_prefix_tokens, tokens.device, random)
            vit_rope = rope[0][..., num_queries:, :], rope[1][..., num_queries:, :]
        for index in range(num_layers - self.config.num_blocks):
            tokens, _ = self.layers[index](tokens, None, vit_rope, branch_draws[index])
        return tokens, SharedInputs(grid, rope, masked_queries, branch_draws)

    def add_queries(self, tokens: Tensor) -> Tensor:
        """Puts the learnable queries in front of the tokens, `(batch, num_queries + num_tokens, hidden_size)`."""
        queries = self.query(torch.arange(self.config.num_queries, device=tokens.device)).to(tokens)
        return torch.cat([queries.expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def query_block(
        self, index: int, tokens: Tensor, shared: SharedInputs, mask_logits: Tensor | None = None
    ) -> Tensor:
        """
        Runs a block in which queries and patches attend to each other, masked queries to their predicted masks only.

        Args:
            index: number of the query block.
            tokens: `(batch, num_queries + num_prefix_tokens + num_patches, hidden_size)`.
            shared: what all blocks get.
            mask_logits: mask logits predicted from these tokens; None predicts them, if they are needed.

        Returns:
            The tokens, same shape.
        """
        query_mask = None
        if self.masks_queries(index):
            if mask_logits is None:
                with torch.no_grad():
                    mask_logits = self.predict_masks(self.layernorm(tokens), shared.grid, at_patches=True)
            masked_queries = None if shared.masked_queries is None else shared.masked_queries[index]
            query_mask = self.query_attention_mask(mask_logits, shared.grid, masked_queries)
        layer = len(self.layers) - self.config.num_blocks + index
        return self.layers[layer](tokens, query_mask, shared.rope, shared.branch_draws[layer])[0]

    def predict(self, tokens: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """
        Predicts masks and classes of the queries.

        Args:
            tokens: `(batch, num_queries + num_prefix_tokens + num_patches, hidden_size)`, normalised.
            grid: rows and columns of the patch grid.

        Returns:
            `masks_queries_logits`, `(batch, num_queries, height / 4, width / 4)`, and `class_queries_logits`,
            `(batch, num_queries, num_labels + 1)`.
        """
        if self.gradient_checkpointing and self.training:
            masks = self._gradient_checkpointing_func(self.predict_masks, tokens, grid)
        else:
            masks = self.predict_masks(tokens, grid)
        classes = self.class_predictor(tokens[:, : self.config.num_queries])
        return {"masks_queries_logits": masks, "class_queries_logits": classes}

    def predict_masks(self, tokens: Tensor, grid: tuple[int, int], at_patches: bool = False) -> Tensor:
        """
        Predicts masks as `predict` does, or, if `at_patches`, as they are after bilinear downsampling to the patch
        grid, `(batch, num_queries, rows, columns)`.
        """
        patches = tokens[:, self.config.num_queries + self.embeddings.num_prefix_tokens :]
        features = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # (batch, hidden_size, rows, columns)
        mask_embeddings = self.mask_head(tokens[:, : self.config.num_queries])
        return self.upscale_block(features, mask_embeddings, at_patches=at_patches)

    def query_attention_mask(
        self, mask_logits: Tensor, grid: tuple[int, int], masked_queries: Tensor | None = None
    ) -> Tensor:
        """
        Lets each query attend to all queries and prefix tokens, and to the patches of its mask.

        Args:
            mask_logits: `(batch, num_queries, rows, columns)`, or with more pixels, which are downsampled.
            grid: rows and columns of the patch grid.
            masked_queries: `(batch, num_queries)` bool, the queries that are restricted at all; None restricts all.

        Returns:
            `(batch, num_queries, num_tokens)` bool, True where attention is allowed.
        """
        if mask_logits.shape[-2:] != grid:
            mask_logits = F.interpolate(mask_logits, size=grid, mode="bilinear", align_corners=False)
        # Padded before they are compared: Core ML and TensorRT pad numbers only.
        num_others = self.config.num_queries + self.embeddings.num_prefix_tokens
        allowed = F.pad(mask_logits.flatten(2), (num_others, 0), value=1.0) > 0
        if masked_queries is not None:
            allowed = allowed | ~masked_queries[:, :, None]
        return allowed


class EomtDinov3ForUniversalSegmentation(EomtForUniversalSegmentation):
    """
    EoMT on a DINOv3 backbone: [`EomtForUniversalSegmentation`] with rotary position embeddings.

    Args:
        config: an [`EomtDinov3Config`].
    """

    config: EomtDinov3Config
    config_class = EomtDinov3Config
    base_model_prefix = "eomt_dinov3"


class EomtEva02ForUniversalSegmentation(EomtForUniversalSegmentation):
    """
    EoMT on an EVA-02 backbone: [`EomtForUniversalSegmentation`] with rotary position embeddings beside the learned
    ones, SwiGLU and no LayerScale. Transformers has no class for it: elsewhere it loads with `trust_remote_code`.

    Args:
        config: an [`EomtEva02Config`].
    """

    config: EomtEva02Config
    config_class = EomtEva02Config
    base_model_prefix = "eomt_eva02"


MODEL_CLASSES: dict[str, type[EomtForUniversalSegmentation]] = {
    model_class.config_class.model_type: model_class
    for model_class in (
        EomtForUniversalSegmentation,
        EomtDinov3ForUniversalSegmentation,
        EomtEva02ForUniversalSegmentation,
    )
}
"""The classes of the model types, by their names in configurations."""

for _model_class in MODEL_CLASSES.values():
    _model_class.register_for_auto_class("AutoModelForUniversalSegmentation")

__all__ = [
    "MODEL_CLASSES",
    "EomtDinov3ForUniversalSegmentation",
    "EomtEva02ForUniversalSegmentation",
    "EomtForUniversalSegmentation",
    "EomtForUniversalSegmentationOutput",
    "EomtPreTrainedModel",
]

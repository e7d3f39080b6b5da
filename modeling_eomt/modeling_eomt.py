"""EoMT: a plain Vision Transformer that segments images with a few learnable queries.

Reference: "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, https://arxiv.org/abs/2503.19108, section 3.
"""

import dataclasses
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .backbones_eomt import INDICES, read_backbone, read_index
from .configuration_eomt import (
    EomtConfig,
    EomtDinov3Config,
    as_pair,
    default_num_blocks,
    default_num_upscale_blocks,
    patch_grid,
)
from .loss_eomt import EomtLoss
from .mask_module_eomt import EomtMaskHead, EomtScaleBlock
from .output_eomt import EomtForUniversalSegmentationOutput
from .positions_eomt import EomtRope
from .pretrained_eomt import EomtPreTrainedModel
from .random_eomt import KEPT_BRANCHES, MASKED_QUERIES, image_seeds_or_new, uniform
from .vit_eomt import EomtEmbeddings, EomtLayer


def _read_mask_probabilities(model: "EomtForUniversalSegmentation", _: Any) -> None:
    model._read_mask_probabilities()


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

    gradient_checkpointing = False

    def __init__(self, config: EomtConfig):
        super().__init__(config)
        self.embeddings = EomtEmbeddings(config)
        self.rope_embeddings = EomtRope(config) if config.uses_rope else None
        self.layers = nn.ModuleList(EomtLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.query = nn.Embedding(config.num_queries, config.hidden_size)
        self.upscale_block = EomtScaleBlock(config)
        self.mask_head = EomtMaskHead(config)
        self.class_predictor = nn.Linear(config.hidden_size, (config.num_labels or 0) + 1)
        self.criterion = EomtLoss.from_config(config)
        # The stored form of `mask_probabilities`. What is computed depends on the Python floats only; this tensor is
        # merely compared with random numbers, so that a probability that changes does not compile the model anew.
        self.register_buffer("attn_mask_probs", torch.ones(config.num_blocks))
        self.attn_mask_probs: Tensor
        self._mask_probabilities = [1.0] * config.num_blocks
        self._masking = ("always",) * config.num_blocks
        self.register_load_state_dict_post_hook(_read_mask_probabilities)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """
        Loads a model as `PreTrainedModel.from_pretrained` does, its mask probabilities included.

        For other classes than the checkpoint's give `num_labels` or `id2label` and `ignore_mismatched_sizes=True`: all
        weights but the class head's are kept, and the report says so. For another image size or number of queries,
        load first and then use `set_image_size` or `set_num_queries`.

        Raises:
            ValueError: weights that are missing, unexpected, of another shape or not finite, listed; a configuration
                that cannot be.
        """
        source: Any = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        for name in INDICES if source is not None else ():
            if (index := Path(source, kwargs.get("subfolder") or "", name)).is_file():
                read_index(index)  # Transformers takes it as it is
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._read_mask_probabilities()
        if not model.criterion.empty_weight.is_meta:  # the configuration may have been given another weight
            model.criterion.empty_weight.copy_(model.criterion.initial_empty_weight())
        return loaded

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | PathLike,
        *,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int] = 16,
        num_queries: int = 200,
        num_blocks: int | None = None,
        id2label: dict[int, str] | None = None,
        hub_kwargs: dict[str, Any] | None = None,
        **config_overrides: Any,
    ) -> "EomtForUniversalSegmentation":
        """
        A new model on a pre-trained ViT: the backbone's weights, resampled to the sizes asked for, everything else
        initialised.

        Args:
            name_or_path: a folder or a model of the Hub: DINOv2 with or without registers, ViT (AugReg), DeiT, or a
                timm ViT (DeiT III, AugReg); for [`EomtDinov3ForUniversalSegmentation`] a DINOv3 ViT.
            image_size: height and width of the training images in pixels, one int for a square.
            patch_size: size of a patch in pixels; kernels of another size are resampled as in FlexiViT.
            num_queries: number of learnable queries.
            num_blocks: number of final blocks that process the queries; by default that of the published model of the
                same depth.
            id2label: names of the classes.
            hub_kwargs: how to reach the Hub, as for `from_pretrained`: `token`, `revision`, `cache_dir`,
                `local_files_only`, `subfolder`...
            config_overrides: more fields of the configuration. Those that are not overridden, dropout among them, are
                the backbone's own.

        Raises:
            ValueError: a kind of model that is not supported, weights that do not fit, or an override that is no field
                of the configuration.
            OSError: no such folder or model.
        """
        fields = {field.name for field in dataclasses.fields(cls.config_class)} | {"label2id", "num_labels"}
        if unknown := sorted(set(config_overrides) - fields):
            raise ValueError(f"{', '.join(unknown)}: no such field of {cls.config_class.__name__}.")
        backbone = read_backbone(name_or_path, cls.config_class.model_type, **(hub_kwargs or {}))
        settings = {**backbone.config, "image_size": image_size, "patch_size": patch_size, "num_queries": num_queries}
        settings["num_upscale_blocks"] = default_num_upscale_blocks(patch_size)
        if id2label is not None:
            settings["id2label"] = id2label
        settings |= config_overrides
        settings["num_blocks"] = (
            default_num_blocks(settings["num_hidden_layers"]) if num_blocks is None else num_blocks
        )
        model = cls(cls.config_class(**settings))
        backbone.load_into(model)
        return model

    def _read_mask_probabilities(self) -> None:
        if not self.attn_mask_probs.is_meta:
            self._use_mask_probabilities(self.attn_mask_probs.tolist())

    def _use_mask_probabilities(self, probabilities: list[float]) -> None:
        self._mask_probabilities = probabilities
        self._masking = tuple(
            "always" if probability >= 1.0 else "sometimes" if probability > 0.0 else "never"
            for probability in probabilities
        )

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
        self._use_mask_probabilities(probabilities)
        with torch.no_grad():
            self.attn_mask_probs.copy_(torch.tensor(probabilities))

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
            image_seeds (`torch.Tensor` of shape `(batch,)`, *optional*):
                One int64 per image. The random numbers of an image (which queries are masked, which branches
                stochastic depth drops, how rotary positions are moved, at which points masks are compared) depend on
                its seed alone, not on the rest of the batch, so that a step has the same loss and gradients however
                its images are split. Dropout alone, which no published model has, draws from torch's generator. By
                default the seeds are drawn from that; in evaluation without labels nothing is drawn.
            kwargs:
                `output_hidden_states`, `output_attentions` (eager attention only) and `return_dict`, as in every model
                of Transformers. `num_items_in_batch`, `(2,)`: number of images and of masks that the loss is averaged
                over if this batch is part of a larger one, see [`count_items`]; by default those of this batch, over
                all processes.

        Returns:
            [`EomtForUniversalSegmentationOutput`].

        Raises:
            `ValueError`: an image size that the patch size does not divide, or targets or seeds that do not fit.
            [`NonFinitePredictionsError`]: labels are given, and predictions are not finite.
        """
        if (mask_labels is None) != (class_labels is None):
            raise ValueError("mask_labels and class_labels must be given together.")
        for index, masks in enumerate([] if mask_labels is None else mask_labels):
            if masks.shape[-2:] != pixel_values.shape[-2:]:
                raise ValueError(
                    f"mask_labels[{index}] is {tuple(masks.shape[-2:])} and pixel_values "
                    f"{tuple(pixel_values.shape[-2:])} (height, width): masks must have their picture's size."
                )
        return self._forward(
            pixel_values, mask_labels, class_labels, patch_offsets, output_auxiliary_logits, image_seeds, **kwargs
        )

    # Not on `forward` itself: torch 2.6 cannot compile a decorator of another module as the outermost function.
    @capture_outputs(tie_last_hidden_states=False)
    def _forward(
        self,
        pixel_values: Tensor,
        mask_labels: list[Tensor] | None,
        class_labels: list[Tensor] | None,
        patch_offsets: list[Tensor] | None,
        output_auxiliary_logits: bool | None,
        image_seeds: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EomtForUniversalSegmentationOutput:
        """The forward pass, whose hidden states and attentions are collected on request."""
        tokens, grid = self.embeddings(pixel_values)
        if self.training or mask_labels is not None:
            image_seeds = image_seeds_or_new(image_seeds, len(pixel_values), tokens.device)
        training_seeds = image_seeds if self.training else None
        branch_draws, masked_queries = self._draw(training_seeds)
        rope = None
        if self.rope_embeddings is not None:
            rope = self.rope_embeddings(grid, self.embeddings.num_prefix_tokens, tokens.device, training_seeds)
        predict = self.predict
        if self.gradient_checkpointing and self.training:
            predict = partial(self._gradient_checkpointing_func, self.predict)
        first_query_block = len(self.layers) - self.config.num_blocks
        supervise_all = self.training and mask_labels is not None
        predictions: list[tuple[Tensor, Tensor]] = []  # (mask logits, class logits)

        for index, layer in enumerate(self.layers):
            query_block = index - first_query_block
            query_mask = None
            if query_block == 0:
                queries = self.query(torch.arange(self.config.num_queries, device=tokens.device))
                tokens = torch.cat([queries.to(tokens).expand(tokens.shape[0], -1, -1), tokens], dim=1)
                if rope is not None:  # queries are nowhere: an angle of 0
                    rope = (
                        F.pad(rope[0], (0, 0, len(queries), 0), value=1.0),
                        F.pad(rope[1], (0, 0, len(queries), 0)),
                    )
            if query_block >= 0:
                masking = self._masking[query_block]
                masked = masking != "never" if self.training else masking == "always"
                if supervise_all or (masked and output_auxiliary_logits):
                    predictions.append(predict(self.layernorm(tokens), grid))
                    mask_logits = predictions[-1][0].detach()
                elif masked:
                    with torch.no_grad():
                        mask_logits = self.predict_masks(self.layernorm(tokens), grid, at_patches=True)
                if masked:
                    is_masked = None if masked_queries is None else masked_queries[query_block]
                    query_mask = self.query_attention_mask(mask_logits, grid, is_masked)
            tokens, _ = layer(tokens, query_mask, rope, None if branch_draws is None else branch_draws[index])

        sequence_output = self.layernorm(tokens)
        predictions.append(predict(sequence_output, grid))

        loss = loss_dict = None
        if mask_labels is not None and class_labels is not None:
            loss, loss_dict = self.compute_loss(
                predictions, mask_labels, class_labels, kwargs.get("num_items_in_batch"), image_seeds
            )
        return EomtForUniversalSegmentationOutput(
            loss=loss,
            class_queries_logits=predictions[-1][1],
            masks_queries_logits=predictions[-1][0],
            last_hidden_state=sequence_output,
            patch_offsets=patch_offsets,
            loss_dict=loss_dict,
            auxiliary_logits=[
                {"masks_queries_logits": masks, "class_queries_logits": classes} for masks, classes in predictions[:-1]
            ]
            if output_auxiliary_logits
            else None,
        )

    def _draw(self, image_seeds: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """
        What is random in the blocks of a training step.

        Args:
            image_seeds: `(batch,)` int64; None in evaluation, where nothing is.

        Returns:
            The numbers that decide on the branches of each layer `(num_hidden_layers, 2, batch)`, and which queries
            are masked in each query block `(num_blocks, batch, num_queries)` bool; None for what is not random.
        """
        branch_draws = masked_queries = None
        if image_seeds is None:
            return branch_draws, masked_queries
        if self.config.drop_path_rate > 0:
            branch_draws = uniform(image_seeds, KEPT_BRANCHES, (len(self.layers), 2)).permute(1, 2, 0)
        if "sometimes" in self._masking:
            draws = uniform(image_seeds, MASKED_QUERIES, (self.config.num_blocks, self.config.num_queries))
            masked_queries = draws.transpose(0, 1) < self.attn_mask_probs[:, None, None]
        return branch_draws, masked_queries

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
        return self.predict_masks(tokens, grid), self.class_predictor(tokens[:, : self.config.num_queries])

    def predict_masks(self, tokens: Tensor, grid: tuple[int, int], at_patches: bool = False) -> Tensor:
        """
        Masks of the queries, as in `predict`, or, if `at_patches`, what bilinear downsampling to the patch grid would
        make of them, `(batch, num_queries, rows, columns)`.
        """
        patches = tokens[:, self.config.num_queries + self.embeddings.num_prefix_tokens :]
        features = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # (batch, hidden_size, rows, columns)
        mask_embeddings = self.mask_head(tokens[:, : self.config.num_queries])
        return self.upscale_block(features, mask_embeddings, at_patches=at_patches)

    def query_attention_mask(
        self, mask_logits: Tensor, grid: tuple[int, int], is_masked: Tensor | None = None
    ) -> Tensor:
        """
        Where each query may attend: to all queries and prefix tokens, and to the patches of its mask.

        Args:
            mask_logits: `(batch, num_queries, rows, columns)`, or with more pixels, which are downsampled.
            grid: rows and columns of the patch grid.
            is_masked: `(batch, num_queries)` bool, the queries that are restricted at all, the others may attend
                everywhere; None restricts all of them.

        Returns:
            `(batch, num_queries, num_tokens)` bool, True where attention is allowed.
        """
        if mask_logits.shape[-2:] != grid:
            mask_logits = F.interpolate(mask_logits, size=grid, mode="bilinear", align_corners=False)
        allowed = mask_logits.flatten(2) > 0
        if is_masked is not None:
            allowed = allowed | ~is_masked[:, :, None]
        return F.pad(allowed, (self.config.num_queries + self.embeddings.num_prefix_tokens, 0), value=True)

    def compute_loss(
        self,
        predictions: list[tuple[Tensor, Tensor]],
        mask_labels: list[Tensor],
        class_labels: list[Tensor],
        num_items_in_batch: Tensor | None = None,
        image_seeds: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all loss terms, and the unweighted terms by name (see the output's `loss_dict`)."""
        terms = self.criterion.for_predictions(predictions, mask_labels, class_labels, num_items_in_batch, image_seeds)
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


class EomtDinov3ForUniversalSegmentation(EomtForUniversalSegmentation):
    """
    EoMT on a DINOv3 backbone: [`EomtForUniversalSegmentation`] with rotary position embeddings.

    Args:
        config ([`EomtDinov3Config`]): the configuration.
    """

    config: EomtDinov3Config
    config_class = EomtDinov3Config
    base_model_prefix = "eomt_dinov3"


EomtForUniversalSegmentation.register_for_auto_class("AutoModelForUniversalSegmentation")
EomtDinov3ForUniversalSegmentation.register_for_auto_class("AutoModelForUniversalSegmentation")

__all__ = [
    "EomtDinov3ForUniversalSegmentation",
    "EomtForUniversalSegmentation",
    "EomtForUniversalSegmentationOutput",
    "EomtPreTrainedModel",
]

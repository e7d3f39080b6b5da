"""The baseline: a plain ViT with an adapter or a pyramid, and Mask2Former on top, steps 0 to 3.

From outside it is like [`EomtForUniversalSegmentation`]: the same arguments, outputs, loss and mask probabilities. The
ViT is this project's, and its weights have the same names. The loss is Mask2Former's, which EoMT uses unchanged, and
here too [`EomtLoss`] computes it: training differs in what the models compute and in nothing else.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForUniversalSegmentation
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from modeling_eomt import EomtForUniversalSegmentation, EomtForUniversalSegmentationOutput, EomtLoss
from modeling_eomt.mask_module_eomt import MaskProbabilitiesMixin
from modeling_eomt.pretrained_eomt import EomtPreTrainedModel
from modeling_eomt.random_eomt import StepRandomness
from modeling_eomt.vit_eomt import EomtEmbeddings, EomtLayer

from .adapter import Adapter, Injector, as_map
from .configuration import NUM_INTERACTIONS, STRIDES, BaselineConfig
from .deformable_attention import DeformableAttention
from .mask2former import Mask2FormerHead
from .pyramid import SimplePyramid


class BaselineForUniversalSegmentation(MaskProbabilitiesMixin, EomtPreTrainedModel):
    """
    ViT-Adapter + Mask2Former, or what is left of it at a step, see [`BaselineConfig`].

    `mask_probabilities` are those of the Transformer decoder's layers; as in EoMT a layer is masked in evaluation at 1
    only, and that is where they start.

    Args:
        config ([`BaselineConfig`]): the configuration.
    """

    config: BaselineConfig
    config_class = BaselineConfig
    base_model_prefix = "eomt_baseline"
    _auto_class = None
    _no_split_modules = ["EomtLayer", "Injector", "Extractor", "Mask2FormerHead"]  # noqa: RUF012

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.embeddings = EomtEmbeddings(config)
        self.layers = nn.ModuleList(EomtLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.step == 0:
            self.adapter = Adapter(config)
        elif config.step <= 2:
            self.pyramid = SimplePyramid(config, STRIDES)
        else:
            self.pyramid = SimplePyramid(config, (STRIDES[0], config.patch_size))  # type: ignore[arg-type]
        self.head = Mask2FormerHead(config)
        self.class_predictor = nn.Linear(self.head.config.hidden_dim, (config.num_labels or 0) + 1)
        self.criterion = EomtLoss.from_config(config)
        self.create_mask_probabilities(config.num_blocks)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DeformableAttention):
            module.initialize()
        elif isinstance(module, Injector):
            init.zeros_(module.gamma)
        elif isinstance(module, Adapter):
            init.normal_(module.level_embeddings)
        elif isinstance(module, nn.SyncBatchNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            for name, start in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
                init.constant_(module.get_buffer(name), start)

    @classmethod
    def from_backbone(cls, name_or_path: Any, *, num_blocks: int | None = 9, **kwargs: Any) -> Any:
        """As [`EomtPreTrainedModel.from_backbone`]; `num_blocks` are the Transformer decoder's layers, whatever the
        depth of the backbone."""
        return super().from_backbone(name_or_path, num_blocks=num_blocks, **kwargs)

    # The same arguments, checks and sizes as EoMT.
    forward = EomtForUniversalSegmentation.forward
    set_image_size = EomtForUniversalSegmentation.set_image_size
    get_input_embeddings = EomtForUniversalSegmentation.get_input_embeddings

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
        random = None
        if self.training or labels is not None:
            random = StepRandomness(image_seeds, pixel_values.shape[0], pixel_values.device)
        pyramid = self.make_pyramid(pixel_values, random if self.training else None)
        maps, mask_features = self.head.decode_pixels(pyramid)
        is_supervised = self.training and labels is not None
        queries, predictions = self.decode_queries(
            maps, mask_features, random if self.training else None, is_supervised or bool(output_auxiliary_logits)
        )

        loss = loss_dict = None
        if labels is not None:
            compared = predictions if is_supervised else predictions[-1:]
            terms = self.criterion.for_predictions(compared, *labels, kwargs.get("num_items_in_batch"), random)
            loss, loss_dict = self.criterion.weighted_sum(terms)
        return EomtForUniversalSegmentationOutput(
            **predictions[-1],  # type: ignore[arg-type]
            loss=loss,
            loss_dict=loss_dict,
            last_hidden_state=queries,
            patch_offsets=patch_offsets,
            auxiliary_logits=predictions[:-1] if output_auxiliary_logits else None,
        )

    def make_pyramid(self, pixel_values: Tensor, random: StepRandomness | None) -> list[Tensor]:
        """
        Runs the ViT, and the adapter or the pyramid.

        Args:
            pixel_values: `(batch, num_channels, height, width)`.
            random: the random numbers of a training step; None in evaluation.

        Returns:
            Maps of `hidden_size` channels, at 1/4, 1/8, 1/16 and 1/32 of the image's size, in step 3 at 1/4 and of the
            patch grid.
        """
        tokens, grid = self.embeddings(pixel_values)
        num_layers = len(self.layers)
        draws: Any = [None] * num_layers
        if random is not None and self.config.drop_path_rate > 0:
            draws = random.branch_draws(num_layers)

        def run_blocks(tokens: Tensor, first: int, last: int) -> Tensor:
            for index in range(first, last):
                tokens, _ = self.layers[index](tokens, None, None, draws[index])
            return tokens

        def read_patches(tokens: Tensor) -> Tensor:
            return as_map(self.layernorm(tokens)[:, self.embeddings.num_prefix_tokens :], grid)

        if self.config.step > 0:
            return self.pyramid(read_patches(run_blocks(tokens, 0, num_layers)))
        length = num_layers // NUM_INTERACTIONS
        finest, maps, shapes = self.adapter.start(pixel_values.to(tokens.dtype))
        features = []
        for index in range(NUM_INTERACTIONS):
            tokens = self.adapter.inject(index, tokens, grid, maps, shapes)
            tokens = run_blocks(tokens, index * length, (index + 1) * length)
            maps = self.adapter.extract(index, tokens, grid, maps, shapes)
            features.append(read_patches(tokens))
        return self.adapter.finish(finest, maps, shapes, features)

    def decode_queries(
        self, maps: list[Tensor], mask_features: Tensor, random: StepRandomness | None, keep_all: bool
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """
        Runs the Transformer decoder.

        Args:
            maps: what the queries attend to, a map per layer in turns.
            mask_features: what masks are read off.
            random: says which queries are masked in a training step; None in evaluation.
            keep_all: whether to predict before each layer too.

        Returns:
            The queries, `(batch, num_queries, channels)`, and predictions as of EoMT, the last one last.
        """
        transformer = self.head.transformer
        queries, query_positions, features, positions = transformer.start(maps)
        masked_queries = None
        if random is not None:  # (num_layers, batch * heads, num_queries, 1)
            masked_queries = random.masked_queries(self.attn_mask_probs, self.config.num_queries)
            num_heads = self.head.config.num_attention_heads
            masked_queries = masked_queries.repeat_interleave(num_heads, dim=1)[..., None]
        predictions = []

        def predict(queries: Tensor, index: int) -> Tensor:
            normalised = transformer.decoder.layernorm(queries)
            _, _, *size = maps[index % len(maps)].shape
            masks, hidden = transformer.predict_masks(normalised, mask_features, size)
            classes = self.class_predictor(normalised.transpose(0, 1))
            predictions.append({"masks_queries_logits": masks, "class_queries_logits": classes})
            return hidden

        for index, layer in enumerate(transformer.decoder.layers):
            hidden = predict(queries, index) if keep_all or self.masks_queries(index) else None
            if not self.masks_queries(index):
                hidden = None
            elif hidden is not None and masked_queries is not None:
                hidden = hidden & masked_queries[index]
            queries = layer(
                queries,
                index % len(maps),
                None,
                positions,
                query_positions,
                features,
                encoder_attention_mask=hidden,
            )[0]
        predict(queries, 0)
        return transformer.decoder.layernorm(queries).transpose(0, 1), predictions


AutoConfig.register(BaselineConfig.model_type, BaselineConfig)
AutoModel.register(BaselineConfig, BaselineForUniversalSegmentation)
AutoModelForUniversalSegmentation.register(BaselineConfig, BaselineForUniversalSegmentation)

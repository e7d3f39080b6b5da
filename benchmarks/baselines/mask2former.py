"""Mask2Former without its backbone: the pixel decoder and the Transformer decoder are Transformers' own.

Reference: "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022,
https://arxiv.org/abs/2112.01527, section 3.
"""

from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from .configuration import STRIDES, BaselineConfig


class TransformerDecoder(Mask2FormerTransformerModule):
    """Transformers' own decoder, whose queries may also see everything (they always are masked there), and which may
    have one scale instead of three.

    Args:
        in_features: channels of the maps.
        num_scales: maps that the layers attend to in turns.
        config: of Mask2Former.
    """

    def __init__(self, in_features: int, num_scales: int, config: Mask2FormerConfig) -> None:
        super().__init__(in_features, config)
        self.num_feature_levels = self.decoder.num_feature_levels = num_scales
        self.input_projections = nn.ModuleList(list(self.input_projections)[:num_scales])
        self.level_embed = nn.Embedding(num_scales, config.hidden_dim)

    def start(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """
        Args:
            maps: `(batch, in_features, rows, columns)` of each scale.

        Returns:
            Queries and their position embeddings, `(num_queries, batch, channels)`, and the maps and their position
            embeddings, `(rows * columns, batch, channels)` of each scale.
        """
        positions = [self.position_embedder(each.shape, each.device, each.dtype, None) for each in maps]
        features = [
            projection(each).flatten(2) + level[:, None]
            for projection, each, level in zip(self.input_projections, maps, self.level_embed.weight, strict=True)
        ]
        queries, query_positions = (
            embedding.weight[:, None].expand(-1, maps[0].shape[0], -1)
            for embedding in (self.queries_features, self.queries_embedder)
        )
        # (batch, channels, pixels) -> (pixels, batch, channels)
        return (
            queries,
            query_positions,
            [each.permute(2, 0, 1) for each in features],
            [each.flatten(2).permute(2, 0, 1) for each in positions],
        )

    def predict_masks(self, queries: Tensor, mask_features: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
        """
        Predicts the masks of normalised queries, and where queries must not look because of them.

        Returns:
            `(batch, num_queries, height / 4, width / 4)`, and `(batch * heads, num_queries, rows * columns)` bool for
            a map of rows and columns `size`; all False for a query with an empty mask, which sees everything.
        """
        masks, hidden = self.decoder.mask_predictor(queries, mask_features, size)
        return masks, hidden & ~hidden.all(-1, keepdim=True)


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """What Mask2Former makes of a backbone's pyramid. Starts as Transformers' own model does.

    Args:
        config: of the baseline. In steps 0 and 1 there is a pixel decoder.
    """

    def __init__(self, config: BaselineConfig) -> None:
        own = config.mask2former()
        super().__init__(own)
        num_scales = 1 if config.step == 3 else 3
        if config.step <= 1:
            self.pixel_decoder = Mask2FormerPixelDecoder(own, feature_channels=[config.hidden_size] * len(STRIDES))
            in_features = own.feature_size
        else:
            self.mask_projection = nn.Conv2d(config.hidden_size, own.mask_feature_size, kernel_size=1)
            in_features = config.hidden_size
        self.step = config.step
        self.transformer = TransformerDecoder(in_features, num_scales, own)
        self.post_init()

    def decode_pixels(self, pyramid: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """
        Args:
            pyramid: `(batch, hidden_size, rows, columns)` of each scale, the finest first.

        Returns:
            The maps that the queries attend to, the coarsest first, and the features that masks are read off,
            `(batch, channels, height / 4, width / 4)`.
        """
        if self.step <= 1:
            decoded = self.pixel_decoder(pyramid, output_hidden_states=False, output_attentions=False)
            return list(decoded.multi_scale_features), decoded.mask_features
        finest, *others = pyramid
        return others[::-1], self.mask_projection(finest)

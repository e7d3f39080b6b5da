"""The mask module: mask embeddings from the queries, pixel features from the patch tokens.

Together with the class head (one linear layer, kept on the model) this is all that EoMT adds to a ViT, section 3.2 of
the paper. Activations are GELU whatever the backbone uses, as in the original.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig
from .kernels_eomt import EomtDoubling, EomtLinear, einsum, in_bands, recomputed


class EomtMaskHead(nn.Module):
    """Three-layer MLP from query tokens to mask embeddings, `(batch, num_queries, hidden_size)` to the same."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.fc1 = EomtLinear(config.hidden_size, config.hidden_size)
        self.fc2 = EomtLinear(config.hidden_size, config.hidden_size)
        self.fc3 = EomtLinear(config.hidden_size, config.hidden_size)

    def forward(self, queries: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(queries)))))


class EomtLayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of `(batch, channels, height, width)`."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EomtScaleLayer(nn.Module):
    """Doubles height and width: transposed convolution, GELU, depthwise convolution, layer norm over the channels.

    Features lie in memory as tokens do, channels last, so that nothing is copied.
    """

    def __init__(self, config: EomtConfig):
        super().__init__()
        channels = config.hidden_size
        self.conv1 = EomtDoubling(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.layernorm2d = EomtLayerNorm2d(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """`(batch, channels, height, width)` to `(batch, channels, 2 * height, 2 * width)`."""
        return self.refine(self.conv1(features))

    @recomputed
    def refine(self, features: Tensor) -> Tensor:
        """What follows the transposed convolution, in its dtype, also under autocast."""
        return self.layernorm2d(self.conv2(F.gelu(features))).to(features.dtype)


class EomtScaleBlock(nn.Module):
    """Mask logits: patch features, upscaled by 2 for each of `num_upscale_blocks`, times the mask embeddings."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.block = nn.ModuleList(EomtScaleLayer(config) for _ in range(config.num_upscale_blocks))

    def forward(self, features: Tensor, mask_embeddings: Tensor, at_patches: bool = False) -> Tensor:
        """
        Args:
            features: `(batch, channels, rows, columns)`.
            mask_embeddings: `(batch, num_queries, channels)`.
            at_patches: whether to return the masks at the patches' resolution, as if they had been downsampled to it.
                They are linear in the features, so the features are, before they are multiplied.

        Returns:
            `(batch, num_queries, height, width)`, or `(batch, num_queries, rows, columns)`.
        """
        patch_size = 2 ** len(self.block)

        def read(features: Tensor) -> Tensor:
            if at_patches:
                grid = [size // patch_size for size in features.shape[-2:]]
                features = F.interpolate(features, size=grid, mode="bilinear")
            return einsum("bqc,bchw->bqhw", mask_embeddings.to(features.device), features)

        *earlier, last = nn.Identity(), *self.block
        for layer in earlier:
            features = layer(features)
        return in_bands(last, read, features, num_rows=max(1, patch_size // 2))

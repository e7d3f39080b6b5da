"""The mask module: mask embeddings from the queries, pixel features from the patch tokens.

Together with the class head (one linear layer, kept on the model) this is all that EoMT adds to a ViT, section 3.2 of
the paper. Activations are GELU whatever the backbone uses, as in the original.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig


class EomtMaskHead(nn.Module):
    """Three-layer MLP from query tokens to mask embeddings, `(batch, num_queries, hidden_size)` to the same."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.fc3 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(queries)))))


class EomtLayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of `(batch, channels, height, width)`."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EomtScaleLayer(nn.Module):
    """Doubles height and width: transposed convolution, GELU, depthwise convolution, layer norm."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        channels = config.hidden_size
        self.conv1 = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.layernorm2d = EomtLayerNorm2d(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """`(batch, channels, height, width)` to `(batch, channels, 2 * height, 2 * width)`."""
        return self.layernorm2d(self.conv2(F.gelu(self.conv1(features))))


class EomtScaleBlock(nn.Module):
    """Patch features, upscaled by 2 for each of `num_upscale_blocks`."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.block = nn.ModuleList(EomtScaleLayer(config) for _ in range(config.num_upscale_blocks))

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.block:
            features = layer(features)
        return features

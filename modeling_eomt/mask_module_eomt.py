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


class EomtDoubling(nn.ConvTranspose2d):
    """A transposed convolution whose 2x2 windows do not overlap: a matrix product, with channels last.

    As a convolution it takes twice as long to differentiate on a CPU.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=2, stride=2)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """`(batch, height, width, channels)` to `(batch, 2 * height, 2 * width, channels)`."""
        # The rows of the matrix are the four places in a window, then the channels.
        weight, bias = self.weight.permute(2, 3, 1, 0).flatten(0, 2), self.bias.repeat(4)  # type: ignore[union-attr]
        windows = F.linear(features, weight, bias).unflatten(-1, (2, 2, -1))  # (batch, height, width, 2, 2, channels)
        return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class EomtScaleLayer(nn.Module):
    """Doubles height and width: transposed convolution, GELU, depthwise convolution, layer norm over the channels.

    Channels come last, as in tokens, so that nothing is copied for the layer norm.
    """

    def __init__(self, config: EomtConfig):
        super().__init__()
        channels = config.hidden_size
        self.conv1 = EomtDoubling(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.layernorm2d = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """`(batch, height, width, channels)` to `(batch, 2 * height, 2 * width, channels)`."""
        features = F.gelu(self.conv1(features)).permute(0, 3, 1, 2)
        return self.layernorm2d(self.conv2(features).permute(0, 2, 3, 1))


class EomtScaleBlock(nn.Module):
    """Patch features, upscaled by 2 for each of `num_upscale_blocks`."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.block = nn.ModuleList(EomtScaleLayer(config) for _ in range(config.num_upscale_blocks))

    def forward(self, features: Tensor) -> Tensor:
        """`(batch, rows, columns, channels)` to the same with more rows and columns."""
        for layer in self.block:
            features = layer(features)
        return features

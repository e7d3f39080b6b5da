"""A pyramid of the plain ViT's last features, each scale by itself.

Reference: "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022,
https://arxiv.org/abs/2203.16527, section 3, "Simple feature pyramid", with the blocks of EoMT's mask module.
"""

from torch import Tensor, nn

from configuration_eomt.configuration_eomt import as_pair
from modeling_eomt.mask_module_eomt import EomtLayerNorm2d

from .configuration import BaselineConfig


class ScaleBlock(nn.Module):
    """Doubles or halves height and width: 2x2 convolution of stride 2, GELU, 3x3 depthwise convolution, layer norm."""

    def __init__(self, channels: int, doubles: bool) -> None:
        super().__init__()
        convolution = nn.ConvTranspose2d if doubles else nn.Conv2d
        self.resize = convolution(channels, channels, kernel_size=2, stride=2)
        self.activation = nn.GELU()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.norm = EomtLayerNorm2d(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.depthwise(self.activation(self.resize(features))))


class SimplePyramid(nn.Module):
    """Maps of `hidden_size` channels.

    Args:
        config: of the baseline.
        strides: pixels of the image per pixel of each map.
    """

    def __init__(self, config: BaselineConfig, strides: tuple[int, ...]) -> None:
        super().__init__()
        patch_size, _ = as_pair(config.patch_size)
        self.scales = nn.ModuleList()
        for stride in strides:
            larger, smaller = max(stride, patch_size), min(stride, patch_size)
            num_blocks = (larger // smaller).bit_length() - 1  # log2
            blocks = [ScaleBlock(config.hidden_size, doubles=stride < patch_size) for _ in range(num_blocks)]
            self.scales.append(nn.Sequential(*blocks))

    def forward(self, features: Tensor) -> list[Tensor]:
        """`(batch, hidden_size, rows, columns)` to a map for each stride."""
        return [scale(features) for scale in self.scales]

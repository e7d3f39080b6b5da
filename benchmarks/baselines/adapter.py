"""ViT-Adapter: a convolutional branch beside a plain ViT that exchanges features with it, and makes a pyramid of both.

Reference: "Vision Transformer Adapter for Dense Predictions", ICLR 2023, https://arxiv.org/abs/2205.08534, section 3,
with the settings that DINOv2 uses it with.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration import NUM_INTERACTIONS, BaselineConfig
from .deformable_attention import DeformableAttention, Shape, centres


STEM_WIDTH = 64
FEED_FORWARD_RATIO = 0.25
NUM_EXTRA_EXTRACTORS = 2  # after the last interaction
NUM_LEVELS = 3  # the maps at 1/8, 1/16 and 1/32 that are exchanged with the ViT
EPSILON = 1e-6  # of the layer norms


def as_map(tokens: Tensor, shape: Shape) -> Tensor:
    """`(batch, rows * columns, channels)` to `(batch, channels, rows, columns)`."""
    return tokens.transpose(1, 2).unflatten(2, shape)


def split_maps(tokens: Tensor, shapes: list[Shape]) -> list[Tensor]:
    """Tokens of several maps in a row to the maps, `(batch, channels, rows, columns)` each."""
    parts = tokens.split([rows * columns for rows, columns in shapes], dim=1)
    return [as_map(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def join_maps(maps: list[Tensor]) -> Tensor:
    """Maps `(batch, channels, rows, columns)` to the tokens of all of them in a row, `(batch, tokens, channels)`."""
    return torch.cat([each.flatten(2).transpose(1, 2) for each in maps], dim=1)


def convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A 3x3 convolution, batch norm over all processes, and ReLU."""
    kernel = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return [kernel, nn.SyncBatchNorm(outputs), nn.ReLU()]


class SpatialPrior(nn.Module):
    """Four maps of an image, at 1/4, 1/8, 1/16 and 1/32 of its size, by convolutions alone."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        width = STEM_WIDTH
        stem = convolution(config.num_channels, width, 2) + convolution(width, width, 1) + convolution(width, width, 1)
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(*convolution(inputs, outputs, 2)) for inputs, outputs in zip(widths, widths[1:])
        )
        self.projections = nn.ModuleList(nn.Conv2d(each, config.hidden_size, kernel_size=1) for each in widths)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """`(batch, num_channels, height, width)` to four maps of `hidden_size` channels."""
        maps = [self.stem(pixel_values)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [projection(features) for projection, features in zip(self.projections, maps)]


class ConvFeedForward(nn.Module):
    """An MLP with a 3x3 depthwise convolution over each map between its two layers."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        width = int(config.hidden_size * FEED_FORWARD_RATIO)
        self.fc1 = nn.Linear(config.hidden_size, width)
        self.depthwise = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.fc2 = nn.Linear(width, config.hidden_size)

    def forward(self, tokens: Tensor, shapes: list[Shape]) -> Tensor:
        """`(batch, num_tokens, hidden_size)` of maps of these shapes in a row, to the same."""
        maps = split_maps(self.fc1(tokens), shapes)
        return self.fc2(F.gelu(join_maps([self.depthwise(each) for each in maps])))


class Injector(nn.Module):
    """Gives the ViT what the maps know, times a factor per channel that starts at 0."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.value_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.attention = DeformableAttention(config.hidden_size, config.num_attention_heads, NUM_LEVELS)
        self.gamma = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, patches: Tensor, grid: Shape, maps: Tensor, shapes: list[Shape]) -> Tensor:
        """
        Args:
            patches: the ViT's patch tokens, `(batch, num_patches, hidden_size)`.
            grid: rows and columns of the patches.
            maps: tokens of the three maps in a row, `(batch, num_tokens, hidden_size)`.
            shapes: rows and columns of the maps.

        Returns:
            The patch tokens, same shape.
        """
        places = centres([grid], patches)
        return patches + self.gamma * self.attention(self.query_norm(patches), places, self.value_norm(maps), shapes)


class Extractor(nn.Module):
    """Gives the maps what the ViT knows. Arguments as of [`Injector`]; returns the maps' tokens."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.value_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.attention = DeformableAttention(config.hidden_size, config.num_attention_heads, num_levels=1)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.feed_forward = ConvFeedForward(config)

    def forward(self, patches: Tensor, grid: Shape, maps: Tensor, shapes: list[Shape]) -> Tensor:
        places = centres(shapes, maps)
        maps = maps + self.attention(self.query_norm(maps), places, self.value_norm(patches), [grid])
        return maps + self.feed_forward(self.feed_forward_norm(maps), shapes)


class Adapter(nn.Module):
    """ViT-Adapter without the ViT: `start`, then before each group of blocks `inject` and after it `extract`, then
    `finish`."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.num_prefix_tokens = 1 + config.num_register_tokens
        self.prior = SpatialPrior(config)
        self.level_embeddings = nn.Parameter(torch.zeros(NUM_LEVELS, config.hidden_size))
        self.injectors = nn.ModuleList(Injector(config) for _ in range(NUM_INTERACTIONS))
        extractors = [1] * (NUM_INTERACTIONS - 1) + [1 + NUM_EXTRA_EXTRACTORS]
        self.extractors = nn.ModuleList(
            nn.ModuleList(Extractor(config) for _ in range(number)) for number in extractors
        )  # of each interaction
        self.upscale = nn.ConvTranspose2d(config.hidden_size, config.hidden_size, kernel_size=2, stride=2)
        self.norms = nn.ModuleList(nn.SyncBatchNorm(config.hidden_size) for _ in range(1 + NUM_LEVELS))

    def start(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, list[Shape]]:
        """The map at 1/4, the tokens of the three others in a row, and the shapes of these."""
        finest, *others = self.prior(pixel_values)
        others = [each + level[:, None, None] for each, level in zip(others, self.level_embeddings)]
        return finest, join_maps(others), [(each.shape[2], each.shape[3]) for each in others]

    def inject(self, index: int, tokens: Tensor, grid: Shape, maps: Tensor, shapes: list[Shape]) -> Tensor:
        """The ViT's tokens, prefix tokens first, with what the maps know."""
        prefix, patches = self._split(tokens)
        return torch.cat([prefix, self.injectors[index](patches, grid, maps, shapes)], dim=1)

    def extract(self, index: int, tokens: Tensor, grid: Shape, maps: Tensor, shapes: list[Shape]) -> Tensor:
        """The maps' tokens with what the ViT knows."""
        _, patches = self._split(tokens)
        extractors: Any = self.extractors[index]
        for extractor in extractors:
            maps = extractor(patches, grid, maps, shapes)
        return maps

    def finish(self, finest: Tensor, maps: Tensor, shapes: list[Shape], features: list[Tensor]) -> list[Tensor]:
        """
        The pyramid.

        Args:
            finest: the map at 1/4.
            maps: tokens of the three others in a row.
            shapes: of these.
            features: patch features after each group of blocks, `(batch, hidden_size, rows, columns)`.

        Returns:
            Maps at 1/4, 1/8, 1/16 and 1/32, `hidden_size` channels each.
        """
        others = split_maps(maps, shapes)
        pyramid = [finest + self.upscale(others[0]), *others]
        resized = [
            F.interpolate(each, size=level.shape[2:], mode="bilinear", align_corners=False)
            for each, level in zip(features, pyramid, strict=True)
        ]
        return [norm(level + each) for norm, level, each in zip(self.norms, pyramid, resized)]

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]

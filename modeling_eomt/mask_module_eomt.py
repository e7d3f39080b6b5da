"""The mask module: mask embeddings from the queries, pixel features from the patch tokens.

Together with the class head (one linear layer, kept on the model) this is all that EoMT adds to a ViT, section 3.2 of
the paper. Activations are GELU whatever the backbone uses, as in the original.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig
from .recomputation_eomt import is_recording, without_keeping


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

    def forward(self, features: Tensor, patch_size: int | None = None) -> Tensor:
        """`(batch, height, width, channels)` to `(batch, 2 * height, 2 * width, channels)`, or as `refine`."""
        return self.refine(self.conv1(features), patch_size)

    def refine(self, pixels: Tensor, patch_size: int | None = None) -> Tensor:
        """
        What follows the transposed convolution.

        Args:
            pixels: `(batch, rows * patch_size, columns * patch_size, channels)`.
            patch_size: pixels along a side of a patch, even; where it is given, the result is downsampled bilinearly
                to the patch grid: it is the mean of the four pixels in the middle of each patch.

        Returns:
            The same shape, or `(batch, rows, columns, channels)`.
        """
        pixels = F.gelu(pixels)
        pixels = self.conv2(pixels.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if patch_size is None:
            return self.layernorm2d(pixels)
        middle = slice(patch_size // 2 - 1, patch_size // 2 + 1)
        pixels = pixels.unflatten(2, (-1, patch_size)).unflatten(1, (-1, patch_size))[:, :, middle, :, middle]
        return self.layernorm2d(pixels).mean((2, 4))


class EomtScaleBlock(nn.Module):
    """Mask logits: patch features, upscaled by 2 for each of `num_upscale_blocks`, times the mask embeddings.

    In training the backward pass computes all but the matrix products anew: of the features at four times the patches'
    resolution, four tensors that are larger than anything else in a step, only one is kept until then.
    """

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.block = nn.ModuleList(EomtScaleLayer(config) for _ in range(config.num_upscale_blocks))

    def forward(self, features: Tensor, mask_embeddings: Tensor, at_patches: bool = False) -> Tensor:
        """
        Args:
            features: `(batch, rows, columns, channels)`.
            mask_embeddings: `(batch, num_queries, channels)`.
            at_patches: whether to give the masks at the patches' resolution, as if they had been downsampled to it.
                They are linear in the features, so the features are, before they are multiplied.

        Returns:
            `(batch, num_queries, height, width)`, or `(batch, num_queries, rows, columns)`.
        """
        if at_patches or not is_recording():
            for index, layer in enumerate(self.block):
                is_last = index == len(self.block) - 1
                features = layer(features, 2 ** len(self.block) if at_patches and is_last else None)
            return mask_logits(features, mask_embeddings)
        refine: Callable[[Tensor], Tensor] = nn.Identity()
        for layer in self.block:
            features = without_keeping(refine, layer.conv1, (features,))  # type: ignore[arg-type]
            refine = layer.refine  # type: ignore[assignment]
        return without_keeping(refine, mask_logits, (features,), mask_embeddings)


def mask_logits(features: Tensor, mask_embeddings: Tensor) -> Tensor:
    """Features `(batch, height, width, channels)` and `(batch, num_queries, channels)` to a logit of each for each."""
    return torch.einsum("bqc,bhwc->bqhw", mask_embeddings.to(features.device), features)

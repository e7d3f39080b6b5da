"""The mask module: mask embeddings from the queries, pixel features from the patch tokens.

Together with the class head (one linear layer, kept on the model) this is all that EoMT adds to a ViT, section 3.2 of
the paper. Activations are GELU whatever the backbone uses, as in the original.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig
from .linear_eomt import EomtLinear, linear
from .recomputation_eomt import is_recording, without_keeping


BYTES_AT_ONCE = 2**23  # of features at the masks' resolution, in inference on a CPU


class EomtMaskHead(nn.Module):
    """Three-layer MLP from query tokens to mask embeddings, `(batch, num_queries, hidden_size)` to the same."""

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.fc1 = EomtLinear(config.hidden_size, config.hidden_size)
        self.fc2 = EomtLinear(config.hidden_size, config.hidden_size)
        self.fc3 = EomtLinear(config.hidden_size, config.hidden_size)

    def forward(self, queries: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(queries)))))


class EomtDoubling(nn.ConvTranspose2d):
    """A transposed convolution whose 2x2 windows do not overlap: a matrix product, with channels last.

    As a convolution it is faster on a CPU, but takes twice as long to differentiate.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=2, stride=2)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """`(batch, height, width, channels)` to `(batch, 2 * height, 2 * width, channels)`."""
        if features.device.type == "cpu" and not torch.is_grad_enabled():
            return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # The rows of the matrix are the four places in a window, then the channels.
        weight, bias = self.weight.permute(2, 3, 1, 0).flatten(0, 2), self.bias.repeat(4)  # type: ignore[union-attr]
        windows = linear(features, weight, bias).unflatten(-1, (2, 2, -1))  # (batch, height, width, 2, 2, channels)
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
        return self.refine(self.conv1(features))

    def refine(self, pixels: Tensor) -> Tensor:
        """What follows the transposed convolution, `(batch, height, width, channels)` to the same."""
        return self.layernorm2d(self.convolve(pixels))

    def convolve(self, pixels: Tensor) -> Tensor:
        """What is between the transposed convolution and the layer norm; same shapes."""
        return self.conv2(F.gelu(pixels).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def bands(self, features: Tensor, num_rows: int) -> Iterator[Tensor]:
        """What the layer norm takes, for `num_rows` rows of `features` at a time: `(batch, 2 * num_rows, ...)`."""
        height = features.shape[1]
        for start in range(0, height, num_rows):
            # With a row more on either side, for the depthwise convolution.
            first, end = max(0, start - 1), min(start + num_rows, height)
            pixels = self.convolve(self.conv1(features[:, first : end + 1]))
            yield pixels[:, 2 * (start - first) : 2 * (end - first)]


class EomtScaleBlock(nn.Module):
    """Mask logits: patch features, upscaled by 2 for each of `num_upscale_blocks`, times the mask embeddings.

    In training the backward pass computes all but the matrix products anew: of the features at four times the patches'
    resolution, four tensors that are larger than anything else in a step, only one is kept until then. In inference on
    a CPU they are computed in bands that stay in its cache.
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
        if self.block and (at_patches or not is_recording()):
            return self.in_bands(features, mask_embeddings, at_patches)
        refine: Callable[[Tensor], Tensor] = nn.Identity()
        for layer in self.block:
            features = without_keeping(refine, layer.conv1, (features,))  # type: ignore[arg-type]
            refine = layer.refine  # type: ignore[assignment]
        return without_keeping(refine, mask_logits, (features,), mask_embeddings)

    def in_bands(self, features: Tensor, mask_embeddings: Tensor, at_patches: bool) -> Tensor:
        """As `forward`, without an eye on training."""
        *earlier, last = self.block
        for layer in earlier:
            features = layer(features)
        patch_size = 2 ** len(self.block)
        num_rows = features.shape[1]
        if features.device.type == "cpu" and not torch.compiler.is_compiling():
            row_of_patches = 4 * features[:, : patch_size // 2].nbytes
            num_rows = patch_size // 2 * max(1, BYTES_AT_ONCE // row_of_patches)
        masks = []
        for pixels in last.bands(features, num_rows):  # type: ignore[operator]
            if at_patches:  # bilinear downsampling: the mean of the four pixels in the middle of each patch
                middle = slice(patch_size // 2 - 1, patch_size // 2 + 1)
                pixels = pixels.unflatten(2, (-1, patch_size)).unflatten(1, (-1, patch_size))[:, :, middle, :, middle]
            pixels = last.layernorm2d(pixels)  # type: ignore[operator]
            masks.append(mask_logits(pixels.mean((2, 4)) if at_patches else pixels, mask_embeddings))
        return masks[0] if len(masks) == 1 else torch.cat(masks, dim=2)


def mask_logits(features: Tensor, mask_embeddings: Tensor) -> Tensor:
    """Features `(batch, height, width, channels)` and `(batch, num_queries, channels)` to a logit of each for each."""
    return torch.einsum("bqc,bhwc->bqhw", mask_embeddings.to(features.device), features)

"""The mask module, section 3.2 of the paper, and how often its masks restrict attention in training, section 3.3.

[`EomtMaskHead`] makes mask embeddings of the queries; [`EomtScaleBlock`] upscales the patch features and multiplies
them with the mask embeddings. Together with the class head (one linear layer, kept on the model) this is all that EoMT
adds to a ViT. Activations are GELU whatever the backbone uses, as in the original.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig
from .kernels_eomt import EomtDoubling, EomtLinear, einsum, in_bands, is_recomputing, recomputed


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
    """Layer norm over the channels of `(batch, channels, height, width)`, in their dtype, also under autocast."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).to(features.dtype)


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
        if is_recomputing():
            return recomputed(self.refine, self.conv1(features))
        # In one expression nobody holds a result for longer than the next one takes.
        return self.layernorm2d(self.conv2(F.gelu(self.conv1(features))))

    def refine(self, features: Tensor) -> Tensor:
        """What follows the transposed convolution."""
        return self.layernorm2d(self.conv2(F.gelu(features)))


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
        upscaling = 2 ** len(self.block)

        def read(features: Tensor) -> Tensor:
            if at_patches:
                grid = [size // upscaling for size in features.shape[-2:]]
                features = F.interpolate(features, size=grid, mode="bilinear")
            return einsum("bqc,bchw->bqhw", mask_embeddings.to(features.device), features)

        *earlier, last = nn.Identity(), *self.block  # without upscaling the identity is the last
        for layer in earlier:
            features = layer(features)
        return in_bands(last, read, features, num_rows=max(1, upscaling // 2))


class BlockMasking(NamedTuple):
    """How often a query block masks its queries. The forward pass asks the flags alone, which change at 0 and 1 only,
    so that annealing the probability does not compile the model again."""

    probability: float
    in_training: bool
    in_evaluation: bool


class MaskProbabilitiesMixin(nn.Module):
    """Mask probabilities of a model: Python numbers, and the buffer that stores them, which random numbers are
    compared with on the device. The buffer is float32 whatever the model's dtype is; in 16 bits, 0.999 would be 1."""

    attn_mask_probs: Tensor

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads a model, see [`EomtPreTrainedModel.from_pretrained`], its mask probabilities included."""
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.read_mask_probabilities()
        return loaded

    def create_mask_probabilities(self, num_blocks: int) -> None:
        """Masks every query in all query blocks, until other probabilities are set or loaded."""
        self.register_buffer("attn_mask_probs", torch.ones(num_blocks, dtype=torch.float32))
        self.read_mask_probabilities()

    def read_mask_probabilities(self) -> None:
        """Takes over what the buffer stores, after loading."""
        stored = self.attn_mask_probs
        if stored.is_meta and (offloaded := getattr(getattr(self, "_hf_hook", None), "weights_map", None)):
            stored = offloaded["attn_mask_probs"]
        self._use_mask_probabilities([1.0] * len(stored) if stored.is_meta else stored.tolist())

    def _use_mask_probabilities(self, probabilities: list[float]) -> None:
        self._masking = [BlockMasking(p, in_training=p > 0.0, in_evaluation=p >= 1.0) for p in probabilities]

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.read_mask_probabilities()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        probabilities = self.attn_mask_probs
        super()._apply(*args, **kwargs)
        if self.attn_mask_probs.dtype != torch.float32:
            self.attn_mask_probs = probabilities.to(self.attn_mask_probs.device)
        return self

    @property
    def mask_probabilities(self) -> list[float]:
        """Per query block, earliest first: how often a query's attention is restricted to its mask in training."""
        return [block.probability for block in self._masking]

    def set_mask_probabilities(self, probabilities: list[float]) -> None:
        """
        Sets the probability of masking of each query block.

        Args:
            probabilities: `config.num_blocks` numbers in [0, 1], earliest block first.

        Raises:
            ValueError: wrong number of probabilities, or one outside of [0, 1].
        """
        probabilities = [float(probability) for probability in probabilities]
        num_blocks = len(self._masking)
        if len(probabilities) != num_blocks or not all(0.0 <= p <= 1.0 for p in probabilities):
            raise ValueError(
                f"Expected {num_blocks} mask probabilities in [0, 1], one per query block, got {probabilities}."
            )
        self._use_mask_probabilities(probabilities)
        with torch.no_grad():
            self.attn_mask_probs.copy_(torch.tensor(probabilities))

    def masks_queries(self, index: int) -> bool:
        """Whether queries may be masked in a query block: in training above 0, in evaluation at 1 only."""
        masking = self._masking[index]
        return masking.in_training if self.training else masking.in_evaluation

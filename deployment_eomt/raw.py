"""The raw graph: from normalised pixels to the logits of masks and classes."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from configuration_eomt.configuration_eomt import as_pair
from modeling_eomt import EomtForUniversalSegmentation

from .formats import Graph
from .positions import ResampledPositions


OUTPUTS = ("masks_queries_logits", "class_queries_logits")
# The axes of the pixel values that may be left open.
AXES = {"batch": 0, "height": 2, "width": 3}


class RawModule(nn.Module):
    """A model that returns what every runtime can: tensors by name, and no others than post-processing needs.

    Args:
        model: the model, in evaluation mode. It is left as it is.
        is_any_size: whether height or width are open, see [`ResampledPositions`].
    """

    def __init__(self, model: EomtForUniversalSegmentation, is_any_size: bool = False):
        super().__init__()
        if is_any_size and model.embeddings.position_embeddings is not None:
            weights = {id(weight): weight for weight in model.parameters()}
            model = copy.deepcopy(model, weights)  # which are not copied
            positions: Any = model.embeddings.position_embeddings
            model.embeddings.position_embeddings = ResampledPositions(positions)  # type: ignore[assignment]
        self.model = model
        self.eval()

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """
        Args:
            pixel_values: `(batch, 3, height, width)`, normalised.

        Returns:
            `masks_queries_logits`, `(batch, num_queries, height / 4, width / 4)`, and `class_queries_logits`,
            `(batch, num_queries, num_labels + 1)`.
        """
        outputs = self.model(pixel_values)
        return {name: outputs[name] for name in OUTPUTS}


def build_raw_graph(model: EomtForUniversalSegmentation, dynamic: Collection[str]) -> Graph:
    """
    Describes the raw graph of a model, at the size of images that it is made for.

    Args:
        model: the model, in evaluation mode.
        dynamic: the names in `AXES` that are left open. Heights and widths are multiples of the patch size.
    """
    height, width = as_pair(model.config.image_size)
    batch_size = 2 if "batch" in dynamic else 1  # torch.export takes a size of 1 for one that never changes
    axes = {axis: name for name, axis in AXES.items() if name in dynamic}
    return Graph(
        module=RawModule(model, is_any_size="height" in dynamic or "width" in dynamic),
        example_inputs={"pixel_values": torch.zeros(batch_size, model.config.num_channels, height, width)},
        dynamic_shapes={"pixel_values": axes},
        output_names=OUTPUTS,
        multiples=dict(zip(("height", "width"), as_pair(model.config.patch_size))),
    )

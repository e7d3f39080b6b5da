"""The raw graph: from normalised pixels to the logits of masks and classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from configuration_eomt.configuration_eomt import as_pair
from modeling_eomt import EomtForUniversalSegmentation

from .formats import Graph


INPUT = "pixel_values"
OUTPUTS = ("masks_queries_logits", "class_queries_logits")
# The axes of the input that may be left open, by the names that they have in graphs.
AXES = {"batch": 0, "height": 2, "width": 3}


class RawModule(nn.Module):
    """A model that returns what every runtime can: tensors by name, and no others than post-processing needs."""

    def __init__(self, model: EomtForUniversalSegmentation):
        super().__init__()
        self.model = model

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


def build_raw_graph(model: EomtForUniversalSegmentation, dynamic: tuple[str, ...]) -> Graph:
    """
    Describes the raw graph of a model, at the size of images that it is made for.

    Args:
        model: the model, in evaluation mode.
        dynamic: the names in `AXES` that are left open.
    """
    height, width = as_pair(model.config.image_size)
    # torch.export takes a size of 1 for one that never changes.
    batch_size = 2 if "batch" in dynamic else 1
    example = torch.zeros(batch_size, model.config.num_channels, height, width)
    return Graph(
        module=RawModule(model).eval(),
        example_inputs={INPUT: example},
        dynamic_shapes={INPUT: {axis: name for name, axis in AXES.items() if name in dynamic}},
        output_names=OUTPUTS,
    )

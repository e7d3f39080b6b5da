"""Exported folders in place of models: this project's pipeline on the graph of another runtime."""

from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor, EomtImageSegmentationPipeline
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentationOutput

from .predict import load_graph


class ExportedSegmenter(nn.Module):
    """
    The raw graph of an exported folder, called as the model that it was made of. Its outputs are on the CPU.

    Args:
        folder: the exported folder.

    Raises:
        OSError: the folder holds no export, or a file is missing.
        ValueError: the graph is not one of this project, or gives segments rather than logits.
        ImportError: the graph's runtime is not installed.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: str | PathLike):
        super().__init__()
        self.graph = load_graph(folder)
        if self.graph.description["kind"] != "raw":
            raise ValueError(
                f"{folder} holds a {self.graph.description['kind']} graph, which gives segments by itself: use its "
                "predict.py, or export it with kind='raw'."
            )
        model_type = EomtConfig.get_config_dict(folder)[0]["model_type"]
        self.config = MODEL_CLASSES[model_type].config_class.from_pretrained(folder)

    def forward(self, pixel_values: Tensor) -> EomtForUniversalSegmentationOutput:
        """
        Runs the graph, one input at a time if it was exported with a fixed batch size.

        Args:
            pixel_values: `(batch, 3, height, width)`.

        Returns:
            An output with `masks_queries_logits` and `class_queries_logits`.

        Raises:
            ValueError: the graph is not for inputs of this size.
        """
        batch = pixel_values.detach().float().cpu().numpy()
        is_open = "batch" in self.graph.description["dynamic"]
        parts = [batch] if is_open else np.split(batch, len(batch))
        outputs = [self.graph(pixel_values=part) for part in parts]
        masks, classes = (
            torch.from_numpy(np.concatenate([output[name] for output in outputs]))
            for name in ("masks_queries_logits", "class_queries_logits")
        )
        return EomtForUniversalSegmentationOutput(masks_queries_logits=masks, class_queries_logits=classes)


class ExportedPipeline(EomtImageSegmentationPipeline):
    """The project's pipeline; Transformers' own list of models for it has no exported ones."""

    def check_model_type(self, supported_models: Any) -> None:
        """Takes what `pipeline` gives it."""


def pipeline(folder: str | PathLike, **kwargs: Any) -> EomtImageSegmentationPipeline:
    """
    Returns this project's pipeline with an exported folder in place of a model: same calls, same results.

    Args:
        folder: the exported folder, of a raw graph in any format that runs on this machine.
        kwargs: what pipelines take: `batch_size`, and the settings of the task's post-processing.

    Raises what [`ExportedSegmenter`] raises.
    """
    model = ExportedSegmenter(folder)
    return ExportedPipeline(model=model, image_processor=EomtImageProcessor.from_pretrained(folder), **kwargs)

"""What several tests of image processing share."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil


class GoldenPanoptic(NamedTuple):
    """Pictures and logits, and what the original code makes of them."""

    settings: dict[str, Any]
    images: list[Image.Image]
    outputs: SimpleNamespace
    pixel_values: torch.Tensor
    segment_maps: list[torch.Tensor]
    class_maps: list[torch.Tensor]


@pytest.fixture
def golden_panoptic(golden: Path) -> GoldenPanoptic:
    with safe_open(golden / "processing.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["settings"])
        indices = range(len(settings["original_sizes"]))
        return GoldenPanoptic(
            settings,
            [Image.fromarray(file.get_tensor(f"image.{i}").permute(1, 2, 0).numpy()) for i in indices],
            SimpleNamespace(
                masks_queries_logits=file.get_tensor("panoptic.masks_queries_logits"),
                class_queries_logits=file.get_tensor("panoptic.class_queries_logits"),
            ),
            file.get_tensor("panoptic.pixel_values"),
            [file.get_tensor(f"panoptic.segment_map.{i}") for i in indices],
            [file.get_tensor(f"panoptic.class_map.{i}") for i in indices],
        )


@pytest.fixture(params=[EomtImageProcessor, EomtImageProcessorPil], ids=["torchvision", "pil"])
def backend(request: pytest.FixtureRequest) -> Any:
    """Each of the two image-processor classes."""
    return request.param


@pytest.fixture
def random_outputs() -> SimpleNamespace:
    """Logits of two images, 12 queries, 3 classes, of a model that saw 64x64 pixels."""
    return SimpleNamespace(
        masks_queries_logits=torch.randn(2, 12, 16, 16) * 4, class_queries_logits=torch.randn(2, 12, 4) * 3
    )

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


class GoldenProcessing(NamedTuple):
    """Images and logits, and the original code's results."""

    settings: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def images(self) -> list[Image.Image]:
        return [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in self.of_images("image")]

    def of_images(self, name: str) -> list[torch.Tensor]:
        """One tensor for each image."""
        return [self.tensors[f"{name}.{index}"] for index in range(len(self.settings["original_sizes"]))]

    def outputs(self, task: str) -> SimpleNamespace:
        """What a model returned."""
        names = ("masks_queries_logits", "class_queries_logits")
        return SimpleNamespace(**{name: self.tensors[f"{task}.{name}"] for name in names})


@pytest.fixture
def golden_processing(golden: Path) -> GoldenProcessing:
    with safe_open(golden / "processing.safetensors", "pt") as file:
        return GoldenProcessing(
            json.loads(file.metadata()["settings"]),
            {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
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

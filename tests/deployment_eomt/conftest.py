"""What several tests of deployment share: checkpoints, one of them with its graph, and a photograph."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TINY

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation


def make_model(config: EomtConfig, noise: float = 0.1) -> EomtForUniversalSegmentation:
    """A model whose weights are not those that models start with."""
    model = MODEL_CLASSES[config.model_type](config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=["tiny_config", "tiny_dinov3_config"], ids=["eomt", "eomt_dinov3"])
def model(request) -> EomtForUniversalSegmentation:
    """A tiny model of each family."""
    return make_model(request.getfixturevalue(request.param))


@pytest.fixture
def save_checkpoint(tiny_config, tiny_dinov3_config, tmp_path) -> Callable[..., Path]:
    """Writes a checkpoint whose weights are not those that models start with: family, mask probability, settings."""

    def save(family: str = "eomt", mask_probability: float = 0.0, **settings) -> Path:
        config = tiny_config if family == "eomt" else tiny_dinov3_config
        model = make_model(config)
        model.set_mask_probabilities([mask_probability] * config.num_blocks)
        model.save_pretrained(tmp_path / "model")
        EomtImageProcessor(**{"task": "panoptic", "size": 64, **settings}).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


class Export(NamedTuple):
    """A model's folder and that of its graph."""

    checkpoint: Path
    folder: Path

    def for_task(self, path: Path, task: str, **settings: Any) -> "Export":
        """Copies both, for another task: the raw graph is the same, only settings differ."""
        copied = Export(*(Path(shutil.copytree(one, path / one.name)) for one in self))
        EomtImageProcessor(task=task, size=64, **settings).save_pretrained(copied.checkpoint)
        shutil.copy(copied.checkpoint / "preprocessor_config.json", copied.folder)
        return copied


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A tiny model whose predictions differ from pixel to pixel and query to query, and its ONNX graph."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from deployment_eomt import export_model

    torch.manual_seed(0)
    config = EomtConfig(**TINY)
    path = tmp_path_factory.mktemp("exported")
    make_model(config, noise=0.3).save_pretrained(path / "model")
    EomtImageProcessor(task="panoptic", size=64).save_pretrained(path / "model")
    return Export(path / "model", export_model(path / "model", path / "graph"))


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """The file of an image of which no side is a window's, held sideways."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((150, 90), Image.Resampling.BICUBIC)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photograph.png", exif=exif)
    return tmp_path / "photograph.png"

"""Checkpoints that tests export."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from image_processing_eomt import EomtImageProcessor
from modeling_eomt import MODEL_CLASSES


@pytest.fixture
def save_checkpoint(tiny_config, tiny_dinov3_config, tmp_path) -> Callable[..., Path]:
    """Writes a checkpoint whose weights are not those that models start with: family, mask probability, settings."""

    def save(family: str = "eomt", mask_probability: float = 0.0, **settings) -> Path:
        config = tiny_config if family == "eomt" else tiny_dinov3_config
        model = MODEL_CLASSES[family](config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.set_mask_probabilities([mask_probability] * config.num_blocks)
        model.save_pretrained(tmp_path / "model")
        EomtImageProcessor(**{"task": "panoptic", "size": 64, **settings}).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save

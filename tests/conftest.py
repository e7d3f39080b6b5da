"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest
import torch

from configuration_eomt import EomtConfig, EomtDinov3Config


_SHARED = Path(os.environ.get("EOMT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not here; EOMT_TEST_DATA names the folder that holds it")
    return path


@pytest.fixture
def golden() -> Path:
    """Folder of the reference results; skips where they are not at hand."""
    return _existing(_SHARED / "golden")


@pytest.fixture
def coco_sample() -> Path:
    """Two COCO photographs with panoptic annotations; skips where they are not at hand."""
    return _existing(_SHARED / "data" / "coco_panoptic_sample")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny_config() -> EomtConfig:
    """A model small enough to run anywhere: 3 blocks, 2 of them with queries, 64x64 pixels."""
    return EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_blocks=2,
        num_queries=7,
        image_size=64,
        num_register_tokens=2,
        train_num_points=256,
        id2label={0: "cat", 1: "dog", 2: "sky"},
    )


@pytest.fixture
def tiny_dinov3_config() -> EomtDinov3Config:
    """The same with rotary position embeddings."""
    return EomtDinov3Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_blocks=2,
        num_queries=7,
        image_size=64,
        num_register_tokens=2,
        train_num_points=256,
        id2label={0: "cat", 1: "dog", 2: "sky"},
    )

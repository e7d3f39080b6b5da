"""The model that the examples are tried on."""

from pathlib import Path

import pytest

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder of a model that finds something everywhere."""
    folder = tmp_path_factory.mktemp("model")
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_blocks=1,
        num_queries=7,
        image_size=64,
        id2label={0: "cat", 1: "dog", 2: "the sky"},
    )
    EomtForUniversalSegmentation(config).save_pretrained(folder)
    EomtImageProcessor(size=64, threshold=0.0, overlap_mask_area_threshold=0.0).save_pretrained(folder)
    return folder

"""What tests of sharing share."""

import pytest

from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation


@pytest.fixture
def model(tiny_config):
    return EomtForUniversalSegmentation(tiny_config)


@pytest.fixture
def processor():
    return EomtImageProcessor(size=64, stuff_classes=[2])

"""Resampling weights, against PyTorch's own resampling."""

import pytest
import torch
import torch.nn.functional as F

from deployment_eomt.positions import ResampledPositions, resampling_weights
from modeling_eomt.positions_eomt import EomtPositionEmbeddings


@pytest.mark.parametrize("old_size", [2, 5, 14, 40])
@pytest.mark.parametrize("new_size", [1, 3, 5, 14, 64, 100])
def test_weights_are_those_of_bicubic_antialiased_resampling(old_size, new_size):
    samples = torch.randn(old_size, 8)
    expected = F.interpolate(samples[None, None], (new_size, 8), mode="bicubic", antialias=True)[0, 0]
    torch.testing.assert_close(resampling_weights(old_size, new_size) @ samples, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (9, 5)])
def test_positions_are_those_of_the_model(tiny_config, grid):
    positions = EomtPositionEmbeddings(tiny_config)
    torch.testing.assert_close(ResampledPositions(positions)(grid), positions(grid), rtol=1e-5, atol=1e-5)

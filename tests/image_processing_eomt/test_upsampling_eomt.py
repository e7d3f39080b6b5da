import pytest
import torch
import torch.nn.functional as F

from image_processing_eomt import upsampling_eomt
from image_processing_eomt.sizes_eomt import View
from image_processing_eomt.upsampling_eomt import interpolate_rows, upsampled_masks


@pytest.fixture
def small_bands(monkeypatch):
    """Bands of a few rows, so that there are many."""
    monkeypatch.setattr(upsampling_eomt, "BAND_NUMEL", {"cpu": 500, "other": 500})


def interpolated(images, size):
    return F.interpolate(images[None], size=size, mode="bilinear")[0]


@pytest.mark.parametrize("size", [(31, 45), (5, 3), (1, 1), (12, 40), (30, 9), (12, 9)])
def test_rows_are_those_of_pytorchs_interpolation(size):
    images = torch.randn(3, 12, 9)
    rows = torch.arange(size[0])[::2]
    part = interpolate_rows(lambda indices: images[:, indices], 12, rows, size)
    assert torch.allclose(part, interpolated(images, size)[:, rows], atol=1e-5)


def test_only_the_rows_that_are_needed_are_asked_for():
    asked = []

    def source(indices):
        asked.extend(indices.tolist())
        return torch.randn(1, len(indices), 4)

    interpolate_rows(source, 1000, torch.tensor([0, 1, 50]), (100, 4))
    assert asked == [4, 5, 14, 15, 504, 505]


@pytest.mark.parametrize("output_size", [(100, 77), (10, 200), (7, 5), (1, 1)])
def test_masks_are_upsampled_twice_without_their_padding(output_size, small_bands):
    logits, view = torch.randn(5, 8, 10), View((24, 40), (32, 40))
    expected = interpolated(interpolated(logits, (32, 40))[:, :24, :40], output_size)
    result = torch.full((5, *output_size), torch.nan)
    num_bands = 0
    for rows, band in upsampled_masks(logits, view, output_size):
        result[:, rows] = band
        num_bands += 1
    assert torch.allclose(result, expected, atol=1e-5)
    assert num_bands > 1 or output_size[0] < 8


def test_half_precision_becomes_single():
    (_, band), *_ = upsampled_masks(torch.randn(2, 4, 4).bfloat16(), View((16, 16), (16, 16)), (16, 16))
    assert band.dtype == torch.float32


def test_no_mask_is_fine():
    bands = list(upsampled_masks(torch.randn(0, 4, 4), View((16, 16), (16, 16)), (20, 30)))
    assert sum(band.shape[1] for _, band in bands) == 20
    assert all(band.shape[::2] == (0, 30) for _, band in bands)

"""Masks at the patches' resolution, in bands and in one, and what the mask module keeps for the backward pass."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measuring import peak_memory
from modeling_eomt import kernels_eomt
from modeling_eomt.mask_module_eomt import EomtScaleBlock, EomtScaleLayer


@pytest.fixture(params=[0, 1, 2, 3])
def scale_block(request, tiny_config):
    tiny_config.num_upscale_blocks = request.param
    return EomtScaleBlock(tiny_config)


def inputs(rows=5, columns=3):
    """Features of patches, channels last in memory as in the model, and embeddings of 7 queries."""
    return torch.randn(2, rows, columns, 32).permute(0, 3, 1, 2), torch.randn(2, 7, 32)


def test_masks_at_patches_are_the_masks_downsampled_and_so_are_their_gradients(scale_block):
    features, mask_embeddings = (tensor.requires_grad_() for tensor in inputs())
    parameters = [features, mask_embeddings, *scale_block.parameters()]
    masks = scale_block(features, mask_embeddings)
    at_patches = scale_block(features, mask_embeddings, at_patches=True)
    factor = 2 ** len(scale_block.block)
    assert masks.shape == (2, 7, 5 * factor, 3 * factor)
    downsampled = F.interpolate(masks, (5, 3), mode="bilinear")
    torch.testing.assert_close(at_patches, downsampled, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(result.square().mean(), parameters) for result in (downsampled, at_patches)]
    for expected, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("band_bytes", [1, 8000, kernels_eomt.BAND_BYTES])  # a row of patches each, several, in one
@pytest.mark.parametrize("at_patches", [False, True])
def test_masks_in_bands_are_the_masks(scale_block, band_bytes, at_patches, monkeypatch):
    features, mask_embeddings = inputs()
    expected = scale_block(features, mask_embeddings, at_patches=at_patches)
    monkeypatch.setattr(kernels_eomt, "BAND_BYTES", band_bytes)
    with torch.no_grad():
        torch.testing.assert_close(
            scale_block(features, mask_embeddings, at_patches=at_patches), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_features_that_are_kept(scale_block, autocast, monkeypatch):
    features, mask_embeddings = (tensor.requires_grad_() for tensor in inputs())
    parameters = [features, mask_embeddings, *scale_block.parameters()]
    gradients = []
    for recomputes in (False, True):
        monkeypatch.setattr(kernels_eomt, "RECOMPUTE_ACTIVATIONS", recomputes)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = scale_block(features, mask_embeddings).float().square().mean()
        gradients.append(torch.autograd.grad(loss, parameters))
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


def test_the_backward_pass_repeats_all_but_the_matrix_products(tiny_config):
    scale_block = EomtScaleBlock(tiny_config)
    calls: list[str] = []
    for name, module in scale_block.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name.split(".")[-1]))
    scale_block(*inputs()).mean().backward()
    assert calls.count("conv1") == 2  # as in the forward pass
    assert calls.count("conv2") == calls.count("layernorm2d") == 4


@pytest.mark.parametrize("autocast", [False, True])
def test_of_the_features_of_a_layer_one_tensor_is_kept(tiny_config, autocast, kept_sizes):
    scale_block = EomtScaleBlock(tiny_config)
    features, mask_embeddings = (tensor.requires_grad_() for tensor in inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        masks = scale_block(features, mask_embeddings)
    sizes = kept_sizes()
    assert [sizes.count(2 * 32 * rows * columns) for rows, columns in ((10, 6), (20, 12))] == [1, 1]
    masks.mean().backward()


@pytest.mark.parametrize(("with_gradients", "most"), [(False, 2.1), (True, 3.1)])
def test_upscaling_holds_no_map_for_longer_than_the_next_one_takes(tiny_config, with_gradients, most):
    layer = EomtScaleLayer(tiny_config)
    features = inputs(rows=64, columns=64)[0]
    with torch.set_grad_enabled(with_gradients):
        upscaled = layer(features)
        peak = peak_memory(lambda: layer(features), torch.device("cpu"))
    assert upscaled.nbytes < peak <= most * upscaled.nbytes

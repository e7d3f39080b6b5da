"""Masks at the patches' resolution, and what the mask module keeps for the backward pass."""

import pytest
import torch
import torch.nn.functional as F

from modeling_eomt import mask_module_eomt, recomputation_eomt
from modeling_eomt.mask_module_eomt import EomtScaleBlock


@pytest.fixture(params=[0, 1, 2, 3])
def scale_block(request, tiny_config):
    tiny_config.num_upscale_blocks = request.param
    return EomtScaleBlock(tiny_config)


def inputs():
    return torch.randn(2, 3, 5, 32), torch.randn(2, 7, 32)  # features of 3 x 5 patches, embeddings of 7 queries


@pytest.mark.parametrize("bytes_at_once", [1, mask_module_eomt.BYTES_AT_ONCE])  # in many bands, in one
def test_masks_at_patches_are_the_masks_downsampled_and_so_are_their_gradients(
    scale_block, bytes_at_once, monkeypatch
):
    monkeypatch.setattr(mask_module_eomt, "BYTES_AT_ONCE", bytes_at_once)
    features, mask_embeddings = (tensor.requires_grad_() for tensor in inputs())
    parameters = [features, mask_embeddings, *scale_block.parameters()]
    masks = scale_block(features, mask_embeddings)
    at_patches = scale_block(features, mask_embeddings, at_patches=True)
    factor = 2 ** len(scale_block.block)
    assert masks.shape == (2, 7, 3 * factor, 5 * factor)
    downsampled = F.interpolate(masks, (3, 5), mode="bilinear")
    torch.testing.assert_close(at_patches, downsampled, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(result.square().mean(), parameters) for result in (downsampled, at_patches)]
    for expected, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    with torch.no_grad():  # another way to the same
        torch.testing.assert_close(scale_block(features, mask_embeddings), masks, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_features_that_are_kept(scale_block, monkeypatch):
    features, mask_embeddings = (tensor.requires_grad_() for tensor in inputs())
    parameters = [features, mask_embeddings, *scale_block.parameters()]
    gradients = []
    for recomputes in (False, True):
        monkeypatch.setattr(recomputation_eomt, "is_recording", lambda recomputes=recomputes: recomputes)
        loss = scale_block(features, mask_embeddings).square().mean()
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

"""Position embeddings at any grid: learned ones resampled, rotary ones computed."""

import math

import pytest
import torch
import transformers

from modeling_eomt.positions_eomt import EomtEva02Rope, EomtPositionEmbeddings, EomtRope, apply_rope
from modeling_eomt.random_eomt import StepRandomness


@pytest.fixture
def learned(tiny_config):
    embeddings = EomtPositionEmbeddings(tiny_config)  # 4 x 4 patches
    torch.nn.init.normal_(embeddings.weight)
    return embeddings.requires_grad_(False)


def test_the_trained_grid_is_exact(learned):
    assert learned((4, 4)) is learned.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [(2, 8), (6, 6), (4, 3)])
def test_other_grids_are_resampled_in_float32(learned, grid, dtype):
    learned.to(dtype)
    image = learned.weight.float().T.reshape(1, 32, 4, 4)
    expected = torch.nn.functional.interpolate(image, grid, mode="bicubic", antialias=True).flatten(2)[0].T
    assert torch.equal(learned(grid), expected.to(dtype))


def test_changed_weights_are_resampled_again(learned):
    first = learned((2, 6)).clone()
    with torch.no_grad():
        learned.weight.mul_(2.0)
    torch.testing.assert_close(learned((2, 6)), 2.0 * first)
    learned.weight.data.mul_(2.0)  # as some implementations of averaged weights do
    torch.testing.assert_close(learned((2, 6)), 4.0 * first)


def test_another_trained_grid_has_the_resampled_embeddings(learned):
    expected = learned((3, 5))
    learned.set_trained_grid((3, 5))
    assert learned.weight.equal(expected) and learned((3, 5)) is learned.weight


def test_gradients_reach_resampled_embeddings(learned):
    learned.requires_grad_(True)
    with torch.no_grad():
        learned((2, 6))
    learned((2, 6)).sum().backward()
    assert learned.weight.grad.abs().sum() > 0


def test_what_inference_mode_resampled_can_be_trained_with(learned):
    with torch.inference_mode():
        learned((2, 6))
    factor = torch.ones(1, requires_grad=True)
    (learned((2, 6)) * factor).sum().backward()
    assert factor.grad is not None


def reference_rope(config, size):
    """Cosines and sines of Transformers' own DINOv3, `(patches, head_dim)` each."""
    theirs = transformers.DINOv3ViTConfig(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=1,
    )
    return transformers.DINOv3ViTModel(theirs).eval().rope_embeddings(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("grid", [(4, 4), (2, 7)])
def test_rotary_embeddings_equal_transformers_own(tiny_dinov3_config, grid):
    cosines, sines = EomtRope(tiny_dinov3_config).eval()(grid, 3, torch.device("cpu"))
    expected = reference_rope(tiny_dinov3_config, (grid[0] * 16, grid[1] * 16))
    torch.testing.assert_close(cosines[3:], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sines[3:], expected[1], rtol=1e-5, atol=1e-5)
    assert (cosines[:3] == 1).all() and (sines[:3] == 0).all()  # prefix tokens stay as they are


def test_eva02_counts_in_patches_of_its_pre_training_whatever_the_grid(tiny_eva02_config):
    """Of 16x16: the second of 8 rows lies where the third of 16 did. Heads of 16 channels have four frequencies."""
    rope = EomtEva02Rope(tiny_eva02_config)
    cosines, sines = rope((8, 32), 3, torch.device("cpu"))
    frequencies = 10000.0 ** -torch.tensor([0.0, 0.25, 0.5, 0.75])
    angles = torch.cat([2.0 * frequencies, 0.5 * frequencies]).tile(2)  # of row 1 and column 1
    torch.testing.assert_close(cosines[3 + 32 + 1], angles.cos())
    torch.testing.assert_close(sines[3 + 32 + 1], angles.sin())
    assert (cosines[:3] == 1).all() and (sines[:3] == 0).all()
    in_training, _ = rope((8, 32), 3, torch.device("cpu"), randomness(8, 9))
    assert in_training.equal(cosines)


def randomness(*seeds):
    return StepRandomness(torch.tensor(seeds), len(seeds), torch.device("cpu"))


@pytest.mark.parametrize(
    ("setting", "value"), [("pos_embed_shift", 0.3), ("pos_embed_jitter", 1.5), ("pos_embed_rescale", 3.0)]
)
def test_training_moves_the_coordinates_within_bounds(tiny_dinov3_config, setting, value):
    tiny_dinov3_config.pos_embed_rescale = None
    coordinates = torch.tensor([[0.5, -0.25], [1.0, 1.0]])
    assert torch.equal(EomtRope(tiny_dinov3_config).augment(coordinates, randomness(0))[0, 0], coordinates)
    setattr(tiny_dinov3_config, setting, value)
    moved = EomtRope(tiny_dinov3_config).augment(coordinates, randomness(*range(2000)))[:, 0]
    if setting == "pos_embed_shift":
        offsets = moved - coordinates
        assert offsets.abs().max() <= value and offsets.std().item() == pytest.approx(value / math.sqrt(3), rel=0.05)
        torch.testing.assert_close(offsets[:, 0], offsets[:, 1])  # one draw for all patches
    else:
        factors = (moved / coordinates).log() / math.log(value)
        assert factors.abs().max() <= 1 + 1e-5 and factors.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.05)
        torch.testing.assert_close(factors[:, 0], factors[:, 1], rtol=1e-3, atol=1e-4)
        same_for_both_axes = torch.allclose(factors[..., 0], factors[..., 1], atol=1e-4)
        assert same_for_both_axes == (setting == "pos_embed_rescale")


def test_each_image_is_moved_by_its_seed_and_none_without(tiny_dinov3_config):
    rope = EomtRope(tiny_dinov3_config)
    still, _ = rope((2, 2), 3, torch.device("cpu"))
    moved, _ = rope((2, 2), 3, torch.device("cpu"), randomness(8, 9, 8))
    assert still.shape == (3 + 4, 16) and moved.shape == (3, 1, 3 + 4, 16)
    assert moved[0].equal(moved[2]) and not moved[0].equal(moved[1])
    assert (moved[:, :, :3] == 1).all() and not moved[0, 0].equal(still)
    assert rope((2, 2), 3, torch.device("cpu"))[0].equal(still)


def test_turning_keeps_lengths_and_relative_angles():
    query, key = torch.randn(1, 1, 2, 8), torch.randn(1, 1, 2, 8)
    angles = torch.tensor([[0.3] * 8, [1.1] * 8])
    turned = apply_rope(query, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.norm(dim=-1), query.norm(dim=-1))
    shifted = [apply_rope(tokens, (angles + 0.7).cos(), (angles + 0.7).sin()) for tokens in (query, key)]
    plain = turned @ apply_rope(key, angles.cos(), angles.sin()).transpose(-1, -2)
    torch.testing.assert_close(shifted[0] @ shifted[1].transpose(-1, -2), plain)

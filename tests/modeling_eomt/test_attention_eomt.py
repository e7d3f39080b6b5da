"""Attention computed head by head is attention."""

import pytest
import torch
import torch.nn.functional as F

from modeling_eomt import EomtForUniversalSegmentation, attention_eomt, linear_eomt
from modeling_eomt.attention_eomt import attention_by_head


IN_BFLOAT16 = pytest.param(
    torch.bfloat16,
    0.05,
    marks=pytest.mark.skipif(
        not linear_eomt.onednn_computes(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor"
    ),
)


@pytest.mark.parametrize("num_rows", [3, 512, 1100])
def test_by_head_is_the_same_as_fused(num_rows):
    query, key, value = torch.randn(2, 3, num_rows, 8), torch.randn(2, 3, 70, 8), torch.randn(2, 3, 70, 8)
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2)
    output = attention_by_head(query, key, value, scaling=0.3)
    assert output.shape == (2, num_rows, 3, 8)
    torch.testing.assert_close(output, expected)


@pytest.fixture
def calls(monkeypatch):
    """The shapes of queries of which attention was computed by head, on a CPU for which that pays."""
    shapes = []

    def recorded(query, *arguments):
        shapes.append(tuple(query.shape[:3]))
        return attention_by_head(query, *arguments)

    monkeypatch.setattr(linear_eomt, "has_better_onednn", lambda: True)
    monkeypatch.setattr(attention_eomt, "attention_by_head", recorded)
    return shapes


@pytest.fixture
def model(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config).eval()
    model.set_mask_probabilities([0.0, 1.0])
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), IN_BFLOAT16])
def test_unmasked_rows_are_computed_by_head_where_it_pays(model, calls, dtype, tolerance):
    config, pixels = model.config, torch.randn(2, 3, 64, 64)
    expected = model(pixels).masks_queries_logits.detach()
    assert not calls  # it might have to be differentiated
    with torch.no_grad():
        masks = model.to(dtype)(pixels).masks_queries_logits.float()
    num_tokens = 16 + model.embeddings.num_prefix_tokens
    blocks = [num_tokens] * (config.num_hidden_layers - 2) + [num_tokens + config.num_queries, num_tokens]
    assert calls == [(2, config.num_attention_heads, rows) for rows in blocks]
    assert (masks - expected).norm() < tolerance * expected.norm()


def test_bfloat16_is_left_to_pytorch_where_onednn_has_none(model, calls, monkeypatch):
    monkeypatch.setattr(linear_eomt, "onednn_computes", lambda dtype: dtype == torch.float32)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels).masks_queries_logits
        calls.clear()
        masks = model.to(torch.bfloat16)(pixels).masks_queries_logits.float()
    assert not calls
    assert (masks - expected).norm() < 0.05 * expected.norm()


def test_other_attention_is_left_alone(model, calls):
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(pixels)
    for layer in model.layers:
        layer.attention.dropout = 0.1
    with torch.no_grad():
        model.train()(pixels)
        model.eval().set_attn_implementation("eager")
        model(pixels)
    assert not calls

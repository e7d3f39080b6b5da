"""Whatever computes it, it is the same; the faster way is measured, and nobody notices."""

import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from configuration_eomt import EomtDinov3Config, EomtEva02Config
from modeling_eomt import EomtForUniversalSegmentation, kernels_eomt
from modeling_eomt.kernels_eomt import (
    EomtDoubling,
    EomtLinear,
    attention_by_head,
    choose,
    find_quantizer,
    multiplies_by_head,
    multiplies_exactly,
)
from modeling_eomt.vit_eomt import EomtGatedMLP, EomtMLP


IN_BFLOAT16 = pytest.param(
    torch.bfloat16,
    0.05,
    marks=pytest.mark.skipif(not multiplies_by_head(torch.bfloat16), reason="no bfloat16 on this processor"),
)


@pytest.fixture(autouse=True)
def _no_choices(monkeypatch):
    monkeypatch.setattr(kernels_eomt, "_choices", {})


@pytest.fixture
def choices(monkeypatch):
    """Names of the functions that are chosen: always the other one, whatever the size."""
    names = []

    def choose_other(kernels, shapes, dtype, train):
        names.append(kernels[1].__name__)
        return kernels[1]

    monkeypatch.setattr(kernels_eomt, "WORTH_MEASURING", 1)
    monkeypatch.setattr(kernels_eomt, "choose", choose_other)
    return names


def work(milliseconds):
    """A function of a tensor that takes a while, and lists when it was called."""
    calls = []

    def kernel(tensor):
        calls.append(tensor)
        end = time.thread_time() + milliseconds / 1000
        while time.thread_time() < end:
            pass
        return 2 * tensor

    kernel.calls = calls
    return kernel


def test_another_function_is_chosen_where_it_is_clearly_faster():
    own, faster, slower, hardly_faster = work(5), work(1), work(20), work(4.6)
    assert choose((own, faster, slower), ((3,),), torch.float32, train=False) is faster
    assert len(slower.calls) == 2  # a slow one is not tried any longer
    assert choose((own, hardly_faster), ((3,),), torch.float32, train=False) is own


def test_the_same_is_measured_once_whatever_thread_asks():
    own, other = work(1), work(1)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(choose((own, other), ((3,),), torch.float32, train=True)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and len(set(answers)) == 1
    assert len(own.calls) == 1 + kernels_eomt.REPETITIONS
    choose((own, other), ((4,),), torch.float32, train=True)
    assert len(own.calls) == 2 * (1 + kernels_eomt.REPETITIONS)


def test_a_measurement_leaves_no_trace_in_what_surrounds_it():
    state = torch.get_rng_state()
    saved, modes = [], []

    def kernel(tensor):
        modes.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
        return tensor.exp()

    with (
        torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode(),
        torch.device("meta"),
    ):
        choose((kernel, torch.exp), ((3, 5),), torch.float32, train=True)
    assert set(modes) == {(True, False, False)}
    assert not saved
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(32,), (7, 32), (1, 1, 32), (2, 3, 5, 32)])
def test_a_linear_layer_as_a_convolution_gives_the_same_and_has_the_same_gradients(choices, shape, bias):
    layer = EomtLinear(32, 48, bias=bias)
    inputs = torch.randn(*shape, requires_grad=True)
    results = [layer(inputs), F.linear(inputs, layer.weight, layer.bias)]
    assert choices == ["linear_as_convolution"]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(result.sin().sum(), [inputs, *layer.parameters()]) for result in results]
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_sizes_that_are_measured_as_one():
    layer, classes = EomtLinear(1024, 1040), []

    def choose(kernels, shapes, dtype, train):
        classes.append((shapes, train))
        return kernels[0]

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(kernels_eomt, "choose", choose)
        for rows in (17, 32, 200, 257, 1000):
            layer(torch.randn(rows, 1024))
        layer(torch.randn(15, 1024))  # too small to be worth it
    assert classes == [(((rows, 1024), (1024, 1024)), False) for rows in (32, 32, 256, 256, 256)]


def test_linear_layers_are_pytorchs_own_where_there_is_no_choice(choices):
    inputs = torch.randn(7, 32)
    assert EomtLinear(32, 48)(inputs[:0]).shape == (0, 48)
    for dtype in (torch.float64, torch.bfloat16):
        EomtLinear(32, 48, dtype=dtype)(inputs.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert EomtLinear(32, 48)(inputs).dtype == torch.bfloat16
    torch.compile(EomtLinear(32, 48), backend="eager", fullgraph=True)(inputs)
    torch.export.export(EomtLinear(32, 48), (inputs,), strict=False)
    torch.jit.trace(EomtLinear(32, 48), inputs, check_trace=False)
    EomtLinear(32, 48, device="meta")(inputs.to("meta"))
    with FakeTensorMode():
        EomtLinear(32, 48)(torch.randn(7, 32))
    torch.use_deterministic_algorithms(True)
    try:
        EomtLinear(32, 48)(inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not choices


def test_a_quantised_layer_multiplies_as_it_was_told(choices):
    quantization = pytest.importorskip("torchao.quantization")
    if not multiplies_exactly(find_quantizer("int8")):
        pytest.skip("this processor has no instructions for exact sums of 8-bit products")
    layer, inputs = EomtLinear(32, 48), torch.randn(7, 32)
    expected = layer(inputs)
    choices.clear()
    quantization.quantize_(layer, quantization.Int8DynamicActivationInt8WeightConfig())
    assert (layer(inputs) - expected).norm() < 0.05 * expected.norm()
    assert not choices


@pytest.mark.parametrize("train", [False, True])
def test_doubling_is_a_transposed_convolution(train):
    doubling = EomtDoubling(8)
    features = torch.randn(2, 5, 3, 8).permute(0, 3, 1, 2)
    with torch.set_grad_enabled(train):
        doubled = doubling(features)
    assert doubled.shape == (2, 8, 10, 6)
    torch.testing.assert_close(doubled, nn.ConvTranspose2d.forward(doubling, features))


@pytest.mark.parametrize("num_rows", [3, 512, 1100])
def test_attention_by_head_is_the_same_as_fused(num_rows):
    query, key, value = torch.randn(2, 3, num_rows, 8), torch.randn(2, 3, 70, 8), torch.randn(2, 3, 70, 8)
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2)
    output = attention_by_head(query, key, value, scaling=0.3)
    assert output.shape == (2, num_rows, 3, 8)
    torch.testing.assert_close(output, expected)


@pytest.fixture
def by_head(choices, monkeypatch):
    """The shapes of queries of which attention was computed by head, on a CPU on which that is faster."""
    shapes = []

    def recorded(query, *arguments):
        shapes.append(tuple(query.shape[:3]))
        return attention_by_head(query, *arguments)

    monkeypatch.setattr(kernels_eomt, "attention_by_head", recorded)
    return shapes


@pytest.fixture
def model(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config).eval()
    model.set_mask_probabilities([0.0, 1.0])
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), IN_BFLOAT16])
def test_unmasked_rows_are_computed_by_head_where_that_is_faster(model, by_head, dtype, tolerance):
    config, pixels = model.config, torch.randn(2, 3, 64, 64)
    expected = model(pixels).masks_queries_logits.detach()
    assert not by_head  # it might have to be differentiated
    with torch.no_grad():
        masks = model.to(dtype)(pixels).masks_queries_logits.float()
    num_tokens = 16 + model.embeddings.num_prefix_tokens
    blocks = [num_tokens] * (config.num_hidden_layers - 2) + [num_tokens + config.num_queries, num_tokens]
    assert by_head == [(2, config.num_attention_heads, rows) for rows in blocks]
    assert (masks - expected).norm() < tolerance * expected.norm()


def test_bfloat16_is_left_to_pytorch_where_attention_by_head_has_none(model, by_head, monkeypatch):
    monkeypatch.setattr(kernels_eomt, "multiplies_by_head", lambda dtype: dtype == torch.float32)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels).masks_queries_logits
        by_head.clear()
        masks = model.to(torch.bfloat16)(pixels).masks_queries_logits.float()
    assert not by_head
    assert (masks - expected).norm() < 0.05 * expected.norm()


def test_other_attention_is_left_alone(model, by_head):
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(pixels)
    for layer in model.layers:
        layer.attention.dropout = 0.1
    with torch.no_grad():
        model.train()(pixels)
        model.eval().set_attn_implementation("eager")
        model(pixels)
    assert not by_head


def test_attention_that_a_user_registers_reaches_the_model_and_sdpa_stays_transformers_for_others(model, monkeypatch):
    calls = []

    def counted(module, query, key, value, attention_mask, **kwargs):
        calls.append(query.shape[2])
        return AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setattr(AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping))
    assert AttentionInterface()["sdpa"] is not kernels_eomt.sdpa_attention
    AttentionInterface.register("counted", counted)
    with torch.no_grad():
        expected = model(torch.ones(1, 3, 64, 64)).masks_queries_logits
        model.set_attn_implementation("counted")
        torch.testing.assert_close(model(torch.ones(1, 3, 64, 64)).masks_queries_logits, expected)
    assert calls == [19, 26, 19]  # rows of queries with a mask go to "sdpa"


MLPS = {
    "gelu": (EomtMLP, EomtDinov3Config, {}),
    "relu": (EomtMLP, EomtDinov3Config, {"hidden_act": "relu"}),
    "quick_gelu": (EomtMLP, EomtDinov3Config, {"hidden_act": "quick_gelu"}),
    "gated": (EomtGatedMLP, EomtEva02Config, {"use_mlp_norm": True}),
}


@pytest.fixture(params=list(MLPS))
def mlp(request):
    module, config, settings = MLPS[request.param]
    return module(config(hidden_size=8, intermediate_size=48, num_attention_heads=2, **settings))


@pytest.fixture
def tokens():
    return torch.randn(17, 8, requires_grad=True)


@pytest.mark.parametrize("autocast", [False, True])
def test_of_the_hidden_layer_of_an_mlp_what_goes_into_the_activation_is_kept(kept_sizes, mlp, tokens, autocast):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = mlp(tokens)
    assert kept_sizes().count(17 * 48) == (2 if isinstance(mlp, EomtGatedMLP) else 1)
    outputs.sum().backward()


def test_gradients_of_an_mlp_are_there_again_and_are_those_within_a_checkpoint(mlp, tokens, monkeypatch):
    variables = [tokens, *mlp.parameters()]
    monkeypatch.setattr(kernels_eomt, "RECOMPUTE_ACTIVATIONS", False)
    expected = torch.autograd.grad(mlp(tokens).sin().sum(), variables)
    monkeypatch.setattr(kernels_eomt, "RECOMPUTE_ACTIVATIONS", True)
    loss = mlp(tokens).sin().sum()
    twice = [torch.autograd.grad(loss, variables, retain_graph=True) for _ in range(2)]
    within = torch.autograd.grad(checkpoint(mlp, tokens, use_reentrant=False).sin().sum(), variables)
    for gradients in (*twice, within):
        for gradient, other in zip(gradients, expected, strict=True):
            assert torch.equal(gradient, other)


@pytest.mark.parametrize("mlp", ["gelu"], indirect=True)
def test_a_hidden_layer_that_is_changed_in_place_is_kept(mlp, tokens, monkeypatch):
    mlp.down_proj.register_forward_pre_hook(lambda module, arguments: (arguments[0].mul_(2),))
    gradients = []
    for recomputes in (False, True):
        monkeypatch.setattr(kernels_eomt, "RECOMPUTE_ACTIVATIONS", recomputes)
        gradients.append(torch.autograd.grad(mlp(tokens).sin().sum(), [tokens, *mlp.parameters()]))
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.parametrize("mlp", ["gelu"], indirect=True)
def test_an_activation_that_a_hook_has_caught_can_be_stored(mlp, tokens, tmp_path):
    caught = []
    mlp.activation.register_forward_hook(lambda module, arguments, output: caught.append(output))
    mlp(tokens)
    torch.save(caught, tmp_path / "caught.pt")
    assert torch.equal(torch.load(tmp_path / "caught.pt", weights_only=False)[0], caught[0])


@pytest.mark.parametrize("mlp", ["gelu"], indirect=True)
def test_an_mlp_whose_first_layer_is_frozen_keeps_what_the_second_needs(kept_sizes, mlp, tokens):
    mlp.up_proj.requires_grad_(False)
    outputs = mlp(tokens.detach())
    assert kept_sizes().count(17 * 48) == 1
    outputs.sum().backward()
    assert mlp.up_proj.weight.grad is None and mlp.down_proj.weight.grad is not None

"""A linear layer is one, whatever library computes it."""

import pytest
import torch
import torch.nn.functional as F

from modeling_eomt import linear_eomt
from modeling_eomt.inference_eomt import multiplies_exactly, quantizer
from modeling_eomt.linear_eomt import EomtLinear


@pytest.fixture
def convolutions(monkeypatch):
    """The dtypes of the convolutions that are computed, on a CPU for which they pay."""
    dtypes = []
    convolve = F.conv2d

    def recorded(inputs, *arguments):
        dtypes.append(inputs.dtype)
        return convolve(inputs, *arguments)

    monkeypatch.setattr(F, "conv2d", recorded)
    monkeypatch.setattr(linear_eomt, "has_better_onednn", lambda: True)
    return dtypes


@pytest.mark.parametrize(
    ("name", "has_wide_registers", "expected"),
    [("AMD EPYC 9655", True, True), ("AMD EPYC 7763", False, False), ("Intel(R) Xeon(R) Gold 6330", True, False)],
)
def test_onednn_is_for_processors_whose_instructions_the_other_library_leaves_alone(
    monkeypatch, name, has_wide_registers, expected
):
    capabilities = {"cpu_name": name, "avx512_f": has_wide_registers}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert linear_eomt.has_better_onednn.__wrapped__() == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not linear_eomt.has_better_onednn.__wrapped__()


def test_onednn_computes_what_it_says():
    for dtype in (torch.float32, torch.bfloat16):
        if linear_eomt.onednn_computes(dtype):
            matrix = torch.randn(16, 16, dtype=dtype)
            product = F.linear(matrix.to_mkldnn(), matrix.to_mkldnn()).to_dense()
            torch.testing.assert_close(product.float(), matrix.float() @ matrix.float().T, rtol=0.02, atol=0.1)
    assert linear_eomt.onednn_computes(torch.float32)
    assert not linear_eomt.onednn_computes(torch.float64)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(32,), (7, 32), (1, 1, 32), (2, 3, 5, 32)])
def test_as_a_convolution_it_gives_the_same_and_has_the_same_gradients(convolutions, shape, bias):
    layer = EomtLinear(32, 48, bias=bias)
    inputs = torch.randn(*shape, requires_grad=True)
    results = [layer(inputs), F.linear(inputs, layer.weight, layer.bias)]
    assert convolutions == [torch.float32]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(result.sin().sum(), [inputs, *layer.parameters()]) for result in results]
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_where_a_convolution_does_not_pay_there_is_none(convolutions):
    inputs = torch.randn(7, 32)
    EomtLinear(32, 10)(inputs)
    assert EomtLinear(32, 48)(inputs[:0]).shape == (0, 48)
    for dtype in (torch.float64, torch.bfloat16):
        EomtLinear(32, 48, dtype=dtype)(inputs.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert EomtLinear(32, 48)(inputs).dtype == torch.bfloat16
    torch.compile(EomtLinear(32, 48), backend="eager", fullgraph=True)(inputs)
    assert not convolutions


def test_a_quantised_layer_multiplies_as_it_was_told(convolutions):
    quantization = pytest.importorskip("torchao.quantization")
    if not multiplies_exactly(quantizer("int8")):
        pytest.skip("this processor has no instructions for exact sums of 8-bit products")
    layer, inputs = EomtLinear(32, 48), torch.randn(7, 32)
    expected = layer(inputs)
    convolutions.clear()
    quantization.quantize_(layer, quantization.Int8DynamicActivationInt8WeightConfig())
    assert (layer(inputs) - expected).norm() < 0.05 * expected.norm()
    assert not convolutions

"""A model that was made faster gives what it gave before."""

import pytest
import torch

from configuration_eomt import EomtConfig
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation, pretrained_eomt
from modeling_eomt.kernels_eomt import find_quantizer, measure_slowdown, multiplies_exactly


@pytest.fixture(params=["plain", "gated"])
def model(request, family_config):
    if family_config.model_type == "eomt":
        family_config.use_swiglu_ffn = request.param == "gated"
    elif family_config.model_type == "eomt_dinov3":
        family_config.use_gated_mlp = request.param == "gated"
    else:  # which has gates only
        family_config.use_mlp_norm = request.param == "plain"
    model = MODEL_CLASSES[family_config.model_type](family_config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # LayerScale that differs from channel to channel
    return model


def predictions(model):
    torch.manual_seed(1)
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 64, 96))
    return outputs.masks_queries_logits.float(), outputs.class_queries_logits.float()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_outputs_stay_the_same(model, probability):
    model.set_mask_probabilities([probability] * 2)
    expected = predictions(model.eval())
    assert model.train().optimize_for_inference() is model
    assert not model.training
    names = {name.rsplit(".", 2)[-2] for name, _ in model.layers.named_parameters()}
    assert "qkv_proj" in names and not names & {"q_proj", "k_proj", "v_proj", "layer_scale1", "layer_scale2"}
    for expected_logits, logits in zip(expected, predictions(model), strict=True):
        torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_outputs_stay_nearly_the_same(model):
    model.set_mask_probabilities([0.0] * 2)
    masks, classes = predictions(model.eval())
    model.optimize_for_inference(dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    low_precision_masks, low_precision_classes = predictions(model)
    assert (low_precision_masks - masks).norm() < 0.05 * masks.norm()
    assert (low_precision_classes - classes).norm() < 0.05 * classes.norm()


@pytest.mark.slow
def test_quantised_and_compiled_outputs_stay_nearly_the_same(tiny_config, fresh_compiler_cache):
    pytest.importorskip("torchao")
    if not multiplies_exactly(find_quantizer("int8")):
        pytest.skip("this processor has no instructions for exact sums of 8-bit products")
    model = EomtForUniversalSegmentation(tiny_config).eval()
    model.set_mask_probabilities([0.0] * 2)
    masks, classes = predictions(model)
    model.optimize_for_inference(quantization="int8", compile_mode="default")
    assert "Int8" in type(model.layers[0].mlp.fc1.weight).__name__ or "Int8" in repr(model.layers[0].mlp.fc1)
    quantised_masks, quantised_classes = predictions(model)
    assert 0 < (quantised_masks - masks).norm() < 0.1 * masks.norm()
    assert (quantised_classes - classes).norm() < 0.1 * classes.norm()


def test_what_cannot_be_done_is_refused_and_changes_nothing(tiny_config, tmp_path):
    model = EomtForUniversalSegmentation(tiny_config)
    with pytest.raises(ValueError, match=r"int3.*int8"):
        model.optimize_for_inference(quantization="int3")
    model.save_pretrained(tmp_path)
    model.optimize_for_inference()
    with pytest.raises(ValueError, match="already"):
        model.optimize_for_inference()
    with pytest.raises(ValueError, match="optimize_for_inference"):
        model.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = EomtForUniversalSegmentation(EomtConfig(num_hidden_layers=4, num_blocks=1))
    with pytest.raises(ValueError, match="offloaded"):
        model.optimize_for_inference()


def test_a_processor_that_would_predict_something_else_in_8_bits_is_refused(tiny_config, monkeypatch):
    monkeypatch.setattr(pretrained_eomt, "find_quantizer", lambda _: lambda layers: layers[0].weight.fill_(0.5))
    model = EomtForUniversalSegmentation(tiny_config)
    with pytest.raises(ValueError, match=r"int8.*no instructions"):
        model.optimize_for_inference(quantization="int8")
    assert not model.is_optimized_for_inference and model.layers[0].attention.qkv_proj is None


def test_a_precision_that_makes_the_model_slower_is_said_to(tiny_config, monkeypatch):
    said = []
    monkeypatch.setattr(pretrained_eomt.logger, "warning", said.append)
    for slowdown in (7.3, 0.6):
        monkeypatch.setattr(pretrained_eomt, "measure_slowdown", lambda *_, slowdown=slowdown: slowdown)
        EomtForUniversalSegmentation(tiny_config).optimize_for_inference(dtype=torch.bfloat16)
        EomtForUniversalSegmentation(tiny_config).optimize_for_inference()
    assert len(said) == 1 and "7.3 times as long in torch.bfloat16" in said[0]


def test_float64_is_slower_than_float32():
    assert measure_slowdown(torch.nn.Linear(384, 384), torch.float64) > 1.2

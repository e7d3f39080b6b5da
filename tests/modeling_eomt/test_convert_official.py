"""Original checkpoints give the original's predictions (golden results)."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from configuration_eomt import EomtConfig
from modeling_eomt import EomtForUniversalSegmentation, convert_official_checkpoint, official_parameter_name


MODELS = ["dinov2_gelu", "dinov2_patch8"]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # as the golden results ask
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def golden_model(golden, name):
    path = golden / f"{name}.outputs.safetensors"
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["config"])
    settings["num_upscale_blocks"] = 2 if settings["patch_size"] == 16 else 1
    settings["id2label"] = {i: str(i) for i in range(settings.pop("num_labels"))}
    expected = load_file(path)
    model = convert_official_checkpoint(golden / f"{name}.weights.safetensors", EomtConfig(**settings)).eval()
    pixel_values = (expected["input.image_uint8"] / 255 - MEAN) / STD
    return model, pixel_values, expected


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masked_predictions_equal_the_originals(golden, name, attention):
    model, pixel_values, expected = golden_model(golden, name)
    model.set_attn_implementation(attention)
    model.set_mask_probabilities([1.0] * model.config.num_blocks)
    with torch.no_grad():
        outputs = model(pixel_values, output_auxiliary_logits=True)
    predictions = [*outputs.auxiliary_logits, outputs]
    assert len(predictions) == model.config.num_blocks + 1
    for index, prediction in enumerate(predictions):
        torch.testing.assert_close(
            prediction["masks_queries_logits"], expected[f"masked.mask_logits.{index}"], **TOLERANCE
        )
        torch.testing.assert_close(
            prediction["class_queries_logits"], expected[f"masked.class_logits.{index}"], **TOLERANCE
        )


@pytest.mark.parametrize("name", MODELS)
def test_unmasked_predictions_equal_the_originals(golden, name):
    model, pixel_values, expected = golden_model(golden, name)
    model.set_mask_probabilities([0.0] * model.config.num_blocks)
    with torch.no_grad():
        outputs = model(pixel_values)
    torch.testing.assert_close(outputs.masks_queries_logits, expected["unmasked.mask_logits"], **TOLERANCE)
    torch.testing.assert_close(outputs.class_queries_logits, expected["unmasked.class_logits"], **TOLERANCE)


def test_every_parameter_has_a_name_in_the_original(golden, tiny_config):
    official = set(load_file(golden / "dinov2_gelu.weights.safetensors"))
    with torch.device("meta"):
        names = [name for name, _ in EomtForUniversalSegmentation(tiny_config).named_parameters()]
    assert {official_parameter_name(name) for name in names} <= official


def test_a_checkpoint_that_does_not_fit_is_refused_with_every_problem(golden, tiny_config):
    weights = load_file(golden / "dinov2_gelu.weights.safetensors")
    del weights["network.q.weight"]
    weights["network.surprise"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"(?s)wrong shape.*missing: network\.q\.weight.*unexpected: network.surprise"
    ):
        convert_official_checkpoint(weights, tiny_config)

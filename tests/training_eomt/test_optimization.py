"""Learning rates are the original's (golden tables)."""

import json

import pytest
import torch

from configuration_eomt import EomtConfig
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation, official_parameter_name
from modeling_eomt.checkpoints_eomt import is_backbone
from training_eomt.optimization import layerwise_learning_rates, parameter_groups, two_stage_warmup_poly


def model_of(settings):
    config = EomtConfig(
        hidden_size=8,
        num_attention_heads=2,
        num_hidden_layers=settings["depth"],
        num_blocks=settings["nb"],
        image_size=32,
    )
    with torch.device("meta"):
        return EomtForUniversalSegmentation(config)


@pytest.mark.parametrize("table", [0, 1])
def test_every_parameter_has_the_originals_rate_at_every_step(golden, table):
    table = json.loads((golden / "training_schedules.json").read_text())["learning_rates"][table]
    settings, expected = table["settings"], table["parameters"]
    model = model_of(settings)
    rates = layerwise_learning_rates(model, settings["lr"], settings["llrd"], settings["llrd_l2_enabled"])
    assert {official_parameter_name(name) for name in rates} == set(expected)
    for name, rate in rates.items():
        official = expected[official_parameter_name(name)]
        assert rate == pytest.approx(official["base_lr"], rel=1e-12), name
        for step, value in official["lr_at_step"].items():
            multiplier = two_stage_warmup_poly(
                int(step), settings["total"], settings["warmup_steps"], settings["poly_power"], is_backbone(name)
            )
            assert rate * multiplier == pytest.approx(value, rel=1e-9, abs=1e-18), (name, step)


def test_rates_decay_over_the_blocks_of_every_family(family_config):
    model = MODEL_CLASSES[family_config.model_type](family_config)
    rates = layerwise_learning_rates(model, 8.0, 0.5)
    assert rates.keys() == dict(model.named_parameters()).keys()
    expected = {"embeddings.": 2.0, "layers.0.": 2.0, "layers.1.": 4.0, "layers.2.": 8.0}
    for name, rate in rates.items():
        assert rate == next((expected[part] for part in expected if name.startswith(part)), 8.0), name


def test_groups_hold_every_trainable_parameter_once(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config)
    model.embeddings.requires_grad_(False)
    rates = layerwise_learning_rates(model, 1e-4, 0.8)
    groups = list(parameter_groups(model, rates, weight_decay=0.05))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert all(group["weight_decay"] == 0.05 for group in groups)

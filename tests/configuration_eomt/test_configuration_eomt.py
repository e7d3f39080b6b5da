"""The configuration has Transformers' fields and defaults, refuses what cannot be, and carries its code's names."""

import json

import pytest
import transformers

from configuration_eomt import EomtConfig, EomtDinov3Config
from configuration_eomt.configuration_eomt import as_pair


def fields_of(config):
    ignored = {"auto_map", "transformers_version", "architectures", "_name_or_path"}
    return {name: value for name, value in config.to_dict().items() if name not in ignored}


def test_fields_and_defaults_are_those_of_transformers_own_class():
    assert fields_of(EomtConfig()) == fields_of(transformers.EomtConfig())
    assert EomtConfig.model_type == transformers.EomtConfig.model_type


def test_dinov3_fields_and_defaults_are_those_of_transformers_own_class():
    assert fields_of(EomtDinov3Config()) == fields_of(transformers.EomtDinov3Config())
    assert EomtDinov3Config.model_type == transformers.EomtDinov3Config.model_type


@pytest.mark.parametrize("settings", [{"rope_theta": 50.0}, {"rope_parameters": {"rope_theta": 50.0}}])
def test_both_ways_to_give_the_base_of_the_rotary_frequencies(settings, tmp_path):
    config = EomtDinov3Config(**settings)
    assert config.rope_parameters == {"rope_theta": 50.0, "rope_type": "default"}
    config.save_pretrained(tmp_path)
    assert EomtDinov3Config.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 48, "num_attention_heads": 8}, "must be divisible by 4"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}}, "rope_type='linear'"),
    ],
)
def test_dinov3_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EomtDinov3Config(**settings)


def test_every_setting_survives_saving(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    assert fields_of(EomtConfig.from_pretrained(tmp_path)) == fields_of(tiny_config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 100}, "image_size=100 is not divisible by patch_size=16"),
        ({"image_size": (64, 72)}, r"image_size=\(64, 72\) is not divisible"),
        ({"hidden_size": 100, "num_attention_heads": 3}, "hidden_size=100 is not divisible by num_attention_heads=3"),
        ({"num_blocks": 0}, "num_blocks=0 query blocks: there must be at least one"),
        ({"num_blocks": 5, "num_hidden_layers": 4}, "num_blocks=5 query blocks.* at most num_hidden_layers=4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EomtConfig(**settings)


def test_sizes_are_one_number_or_a_pair():
    assert as_pair(64) == (64, 64)
    assert as_pair([32, 64]) == (32, 64)


def test_the_pipeline_is_named_only_where_its_code_came_along(tmp_path):
    """Stored in `config.json`, the name would break `pipeline` without trust; without the code it leads nowhere."""
    config = EomtConfig()
    assert not hasattr(config, "custom_pipelines")
    config.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    loaded = EomtConfig.from_pretrained(tmp_path)
    assert loaded.custom_pipelines["image-segmentation"]["impl"] == "pipeline_eomt.EomtImageSegmentationPipeline"
    assert "custom_pipelines" not in loaded.to_dict()
    loaded.custom_pipelines["image-segmentation"]["pt"] = ()  # as `pipeline` does
    assert loaded.custom_pipelines["image-segmentation"]["pt"] == ["AutoModelForUniversalSegmentation"]

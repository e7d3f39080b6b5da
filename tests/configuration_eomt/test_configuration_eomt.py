"""The configuration has Transformers' fields and defaults, refuses what cannot be, and carries its code's names."""

import json

import numpy as np
import pytest
import transformers

from configuration_eomt import EomtConfig, EomtDinov3Config, EomtEva02Config
from configuration_eomt.configuration_eomt import as_pair, default_num_blocks, default_num_upscale_blocks, patch_grid


def fields_of(config):
    ignored = {"auto_map", "transformers_version", "architectures", "_name_or_path"}
    return {name: value for name, value in config.to_dict().items() if name not in ignored}


def test_fields_and_defaults_are_those_of_transformers_own_class():
    assert fields_of(EomtConfig()) == fields_of(transformers.EomtConfig())
    assert EomtConfig.model_type == transformers.EomtConfig.model_type


def test_dinov3_fields_and_defaults_are_those_of_transformers_own_class():
    assert fields_of(EomtDinov3Config()) == fields_of(transformers.EomtDinov3Config())
    assert EomtDinov3Config.model_type == transformers.EomtDinov3Config.model_type


def test_eva02_has_its_own_base_of_the_rotary_frequencies():
    assert EomtEva02Config().rope_parameters == {"rope_theta": 10000.0, "rope_type": "default"}


@pytest.mark.parametrize("config_class", [EomtDinov3Config, EomtEva02Config])
@pytest.mark.parametrize("settings", [{"rope_theta": 50.0}, {"rope_parameters": {"rope_theta": 50.0}}])
def test_both_ways_to_give_the_base_of_the_rotary_frequencies(config_class, settings, tmp_path):
    config = config_class(**settings)
    assert config.rope_parameters == {"rope_theta": 50.0, "rope_type": "default"}
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 48, "num_attention_heads": 8}, "must be divisible by 4"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}}, "rope_type='linear'"),
    ],
)
@pytest.mark.parametrize("config_class", [EomtDinov3Config, EomtEva02Config])
def test_rotary_settings_that_cannot_be_are_refused(config_class, settings, message):
    with pytest.raises(ValueError, match=message):
        config_class(**settings)


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
    assert as_pair(np.int64(64)) == (64, 64)
    for size in ("64", 64.0, None, [1, 2, 3], {"height": 64}):
        with pytest.raises(ValueError, match="is no size"):
            as_pair(size)


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (default_num_blocks, "12"),
        (default_num_blocks, None),
        (default_num_upscale_blocks, 0),
        (default_num_upscale_blocks, "16"),
        (lambda size: patch_grid(size, 16), "64"),
        (lambda size: patch_grid(64, size), 0),
    ],
)
def test_what_follows_from_sizes_names_a_size_that_cannot_be(function, value):
    with pytest.raises(ValueError, match=f"{value!r}: expected a whole number"):
        function(value)


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", True),
        ("hidden_size", 64.0),
        ("hidden_size", -64),
        ("hidden_size", 10**9),
        ("num_hidden_layers", None),
        ("num_hidden_layers", [3]),
        ("num_attention_heads", 0),
        ("num_queries", 0),
        ("num_queries", 10**30),
        ("num_channels", {}),
        ("num_register_tokens", -1),
        ("num_upscale_blocks", 99),
        ("num_blocks", "2"),
        ("image_size", 0),
        ("image_size", "64"),
        ("image_size", [64, 64, 64]),
        ("image_size", [64, None]),
        ("image_size", 10**6),
        ("patch_size", (16, 0)),
        ("hidden_act", "gluey"),
        ("hidden_act", 3),
        ("hidden_act", ["gelu"]),
        ("drop_path_rate", 1.5),
        ("hidden_dropout_prob", float("nan")),
        ("attention_dropout", -0.1),
        ("layer_norm_eps", "1e-6"),
        ("initializer_range", -0.02),
        ("layerscale_value", float("inf")),
        ("mask_weight", float("nan")),
        ("dice_weight", -5.0),
        ("class_weight", 1e300),
        ("no_object_weight", None),
        ("train_num_points", 0),
        ("oversample_ratio", 0.5),
        ("importance_sample_ratio", 2),
        ("mlp_ratio", 0),
        ("use_swiglu_ffn", 1),
        ("use_swiglu_ffn", "false"),
        ("num_labels", -3),
        ("num_labels", 10**9),
        ("num_labels", "many"),
        ("id2label", ["cat"]),
        ("id2label", "cat"),
        ("dtype", "float99"),
        ("dtype", "Tensor"),
        ("dtype", 5),
        ("torch_dtype", {}),
        ("auto_map", ["configuration_eomt.EomtConfig"]),
        ("auto_map", {"AutoConfig": 5}),
        ("architectures", "EomtForUniversalSegmentation"),
        ("quantization_config", 5),
        ("problem_type", "guessing"),
        ("output_attentions", "yes"),
        ("model_type", "bert"),
        ("model_type", 5),
        ("per_layer_config", 5),
        ("attn_implementation", 5),
        ("quantization_config", {"quant_method": ["fp8"]}),
        ("base_model_tp_plan", 5),
    ],
)
def test_a_field_that_cannot_be_is_named_wherever_it_comes_from(tmp_path, tiny_config, field, value):
    settings = {**tiny_config.to_dict(), field: value}
    with pytest.raises(ValueError, match=field.removeprefix("torch_").split("_")[0]):
        EomtConfig(**settings)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=str(tmp_path)):
        EomtConfig.from_pretrained(tmp_path)
    if field not in ("torch_dtype", "model_type", "attn_implementation", "output_attentions", "per_layer_config"):
        with pytest.raises(ValueError, match=field):
            setattr(tiny_config, field, value)
    if field == "quantization_config":  # is the model's to take
        return
    tiny_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=field.removeprefix("torch_").split("_")[0]):
        EomtConfig.from_pretrained(tmp_path, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("intermediate_size", 0), ("use_mlp_norm", 1), ("rope_parameters", {"rope_theta": 0})]
)
def test_fields_of_eva02_are_checked_too(field, value):
    with pytest.raises(ValueError, match=field):
        EomtEva02Config(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("intermediate_size", "64"),
        ("rope_parameters", [100.0]),
        ("rope_parameters", {"rope_theta": "100"}),
        ("rope_parameters", {"rope_theta": -1.0}),
        ("use_gated_mlp", None),
        ("key_bias", 0),
        ("pos_embed_shift", "far"),
        ("pos_embed_rescale", 0),
        ("pos_embed_jitter", float("inf")),
    ],
)
def test_fields_of_dinov3_are_checked_too(field, value):
    with pytest.raises(ValueError, match=field):
        EomtDinov3Config(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("class_weight", 2), ("mlp_ratio", 4.0), ("image_size", [64, 128]), ("drop_path_rate", 0), ("dtype", "bfloat16")],
)
def test_values_that_mean_the_same_are_taken(field, value):
    EomtConfig(**{field: value})


def test_keys_of_id2label_are_numbers_and_label2id_is_its_inverse(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    loaded = EomtConfig.from_pretrained(tmp_path, id2label={"1": "b", "0": "a"})
    assert loaded.id2label == {0: "a", 1: "b"} and loaded.label2id == {"a": 0, "b": 1} and loaded.num_labels == 2
    made = EomtConfig(id2label={"0": "a"}, label2id={"something": 7})
    assert made.id2label == {0: "a"} and made.label2id == {"a": 0}
    made.id2label = {0: "x", "1": "y"}
    assert made.id2label == {0: "x", 1: "y"} and made.label2id == {"x": 0, "y": 1}
    assert EomtConfig.from_pretrained(tmp_path, num_labels=2).label2id == {"LABEL_0": 0, "LABEL_1": 1}
    stored = {**tiny_config.to_dict(), "label2id": {"cat": 2}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert EomtConfig.from_pretrained(tmp_path).label2id == {"cat": 0, "dog": 1, "sky": 2}
    with pytest.raises(ValueError, match=r"label2id=.*not the inverse of id2label"):
        EomtConfig.from_pretrained(tmp_path, label2id={"sky": 0})
    for wrong in ({"cat": 0, "dog": 1, "sky": "two"}, {0: 0}, {"cat": None}, {"cat": True}, ["cat"], 65, "cat"):
        message = "label2id=.*expected None or a dictionary from names of classes to numbers"
        with pytest.raises(ValueError, match=message):
            EomtConfig.from_pretrained(tmp_path, label2id=wrong)
        with pytest.raises(ValueError, match=message):
            EomtConfig(label2id=wrong)


def test_numbers_of_classes_may_be_texts_in_both_tables_as_in_transformers_own_guides(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    labels = ["a", "b", "c", "d"]
    id2label = {str(number): label for number, label in enumerate(labels)}
    label2id = {label: str(number) for number, label in enumerate(labels)}
    loaded = EomtConfig.from_pretrained(tmp_path, id2label=id2label, label2id=label2id)
    assert loaded.id2label == dict(enumerate(labels)) and loaded.label2id == {"a": 0, "b": 1, "c": 2, "d": 3}


@pytest.mark.parametrize("name", ["self", "attribute_map"])
def test_what_is_no_setting_is_named(tmp_path, tiny_config, name):
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config.to_dict(), name: {"hidden_size": "x"}}))
    with pytest.raises(ValueError, match=rf"{tmp_path}: {name}=.* is no setting"):
        EomtConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({"cat": 0}, "the key 'cat'"),
        ({0.0: "cat"}, "the key 0.0"),
        ({True: "cat"}, "the key True"),
        ({None: "cat"}, "the key None"),
        ({"01": "cat"}, "the key '01'"),
        ({"-1": "cat"}, "the key '-1'"),
        ({"9" * 5000: "cat"}, "the key '999"),
        ({0: "cat", "0": "dog"}, "class 0 twice"),
        ({1: "cat", 2: "dog"}, r"not from 0 to 1: there is 2"),
        ({0: "cat", 7: "dog", -4: "sky"}, r"not from 0 to 2: there is -4, 7"),
        ({0: None}, r"id2label\[0\] is None"),
        ({"0": {"name": "cat"}}, r"id2label\['0'\] is {'name'"),
        ({}, "0 classes"),
    ],
)
def test_classes_that_are_not_numbered_from_zero_or_have_no_names_are_refused(id2label, message):
    with pytest.raises(ValueError, match=message):
        EomtConfig(id2label=id2label)
    with pytest.raises(ValueError, match=message):
        EomtConfig().id2label = id2label


BROKEN = {
    "empty": "",
    "no fields": "{}",
    "cut off": "{",
    "list": "[1, 2]",
    "null": "null",
    "text": '"text"',
    "number": "5",
    "deep list": "[" * 10000 + "]" * 10000,
    "deep dictionary": '{"a": ' * 10000 + "1" + "}" * 10000,
    "many digits": '{"hidden_size": ' + "9" * 5000 + "}",
    "nested value": '{"hidden_size": ' + "[" * 400 + "]" * 400 + "}",
    "other bytes": "\udcff\udcfe",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_configuration_is_named(tmp_path, kind):
    (tmp_path / "config.json").write_text(BROKEN[kind], encoding="utf-8", errors="surrogateescape")
    with pytest.raises((ValueError, OSError), match="hidden_size" if kind == "nested value" else r"config\.json"):
        EomtConfig.from_pretrained(tmp_path)


def test_a_folder_without_configuration_is_not_the_default_one(tmp_path):
    with pytest.raises(OSError, match=r"config\.json"):
        EomtConfig.from_pretrained(tmp_path)

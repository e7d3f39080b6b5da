"""Checkpoints move to Transformers' own classes and back, for both families and every kind of MLP."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import TINY

from configuration_eomt import EOMT_SIZES, EomtConfig, EomtDinov3Config, EomtEva02Config
from modeling_eomt import MODEL_CLASSES, EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation
from modeling_eomt.checkpoints_eomt import fuse_swiglu


TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
# Kind of model -> family, and the settings that make it. Theirs has no other layer than ours for any of them.
# (Gated DINOv3 layers with GELU here: with SiLU, Transformers' own mask module takes SiLU too, the original has GELU.)
KINDS = {
    "dinov2": ("eomt", {}),
    "dinov2_no_registers": ("eomt", {"num_register_tokens": 0}),
    "dinov2_swiglu": ("eomt", {"use_swiglu_ffn": True}),
    "dinov3": ("eomt_dinov3", {"intermediate_size": 48}),
    "dinov3_gated": ("eomt_dinov3", {"intermediate_size": 48, "use_gated_mlp": True}),
    "dinov3_biases": ("eomt_dinov3", {"key_bias": True, "query_bias": False, "mlp_bias": False, "proj_bias": False}),
}
OURS = {
    "eomt": (EomtConfig, EomtForUniversalSegmentation),
    "eomt_dinov3": (EomtDinov3Config, EomtDinov3ForUniversalSegmentation),
}
THEIRS = {
    "eomt": (transformers.EomtConfig, transformers.EomtForUniversalSegmentation),
    "eomt_dinov3": (transformers.EomtDinov3Config, transformers.EomtDinov3ForUniversalSegmentation),
}


def random_model(classes, kind):
    family, settings = KINDS[kind]
    config_class, model_class = classes[family]
    model = model_class(config_class(**{**TINY, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def same_predictions(first, second, size=(64, 64)):
    pixel_values = torch.randn(2, 3, *size)
    with torch.no_grad():
        first, second = first.eval()(pixel_values), second.eval()(pixel_values)
    for name in ("masks_queries_logits", "class_queries_logits", "last_hidden_state"):
        torch.testing.assert_close(first[name], second[name], **TOLERANCE)


def without_problems(info):
    return not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


@pytest.mark.parametrize("shard_size", ["1GB", "30KB"])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_own_class_loads_what_is_saved_here(tmp_path, kind, shard_size):
    ours = random_model(OURS, kind)
    ours.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "30KB")
    theirs, info = THEIRS[KINDS[kind][0]][1].from_pretrained(tmp_path, output_loading_info=True)
    assert without_problems(info)
    same_predictions(ours, theirs)


@pytest.mark.parametrize("shard_size", ["1GB", "30KB"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_own_class_saves_loads_here(tmp_path, kind, shard_size):
    theirs = random_model(THEIRS, kind)
    theirs.attn_mask_probs.copy_(torch.tensor([0.0, 1.0]))
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    ours, info = OURS[KINDS[kind][0]][1].from_pretrained(tmp_path, output_loading_info=True)
    assert without_problems(info)
    assert ours.mask_probabilities == [0.0, 1.0]
    same_predictions(ours, theirs)


def test_a_model_in_the_folder_is_replaced_whole_or_in_shards(tmp_path):
    for shard_size in ("1GB", "30KB", "1GB"):
        model = random_model(OURS, "dinov3")
        model.save_pretrained(tmp_path, max_shard_size=shard_size)
        same_predictions(model, EomtDinov3ForUniversalSegmentation.from_pretrained(tmp_path))
        assert (tmp_path / "model.safetensors").exists() == (shard_size == "1GB")


def test_a_variant_is_saved_beside_the_weights(tmp_path):
    model = random_model(OURS, "dinov2")
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, variant="fp16")
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"model.safetensors", "model.fp16.safetensors"}


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_swiglu"])
def test_a_model_that_is_offloaded_from_a_folder_is_saved_there(tmp_path, kind, monkeypatch):
    """Until its file is written anew it is where the weights are."""
    if kind == "dinov2_swiglu":  # as with Transformers 5.17
        monkeypatch.setattr("modeling_eomt.pretrained_eomt.saves_fused_swiglu", lambda config: True)
    model = random_model(OURS, kind)
    model.save_pretrained(tmp_path / "model")
    places = {name: "cpu" for name, _ in model.named_children()} | {"attn_mask_probs": "cpu", "layers": "disk"}
    offloaded = EomtForUniversalSegmentation.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offloaded"
    )
    assert next(offloaded.layers.parameters()).is_meta
    offloaded.save_pretrained(tmp_path / "model")
    again = EomtForUniversalSegmentation.from_pretrained(tmp_path / "model")
    same_predictions(model, again)


def test_weights_that_need_no_other_names_are_read_once(tmp_path, monkeypatch):
    model = random_model(OURS, "dinov2_swiglu")
    model.config.save_pretrained(tmp_path)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("modeling_eomt.pretrained_eomt.read_weights", None)
    same_predictions(model, EomtForUniversalSegmentation.from_pretrained(tmp_path))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "shards"])
def test_both_names_of_swiglu_layers_load(tmp_path, file):
    model = random_model(OURS, "dinov2_swiglu")
    state = model.state_dict()
    for folder, weights in (tmp_path / "new", dict(state)), (tmp_path / "old", fuse_swiglu(state)):
        model.config.save_pretrained(folder)
        weights = {name: weight.contiguous() for name, weight in weights.items()}
        if file == "shards":
            names = {name: f"model-{index % 2}.safetensors" for index, name in enumerate(weights)}
            for shard in set(names.values()):
                save_file({name: weights[name] for name in weights if names[name] == shard}, folder / shard)
            index = {"metadata": {"total_size": 1}, "weight_map": names}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        else:
            (save_file if file == "model.safetensors" else torch.save)(weights, folder / file)
        for options in ({}, {"config": model.config}, {"config": folder}):  # as `AutoModel` calls it
            loaded, info = EomtForUniversalSegmentation.from_pretrained(folder, output_loading_info=True, **options)
            assert without_problems(info) and loaded.config.name_or_path == str(folder)
            same_predictions(model, loaded)


def test_what_is_loaded_otherwise_loads_under_old_names_too(tmp_path):
    model = random_model(OURS, "dinov2_swiglu")
    old = fuse_swiglu(model.state_dict())
    loaded = EomtForUniversalSegmentation.from_pretrained(None, config=model.config, state_dict=old)
    same_predictions(model, loaded)
    model.config.save_pretrained(tmp_path)
    save_file(old, tmp_path / "model.safetensors")
    loaded = EomtForUniversalSegmentation.from_pretrained(
        tmp_path, id2label={0: "a"}, ignore_mismatched_sizes=True, dtype=torch.bfloat16
    )
    assert loaded.config.num_labels == 1 and loaded.class_predictor.out_features == 2
    assert torch.equal(loaded.layers[1].mlp.up_proj.weight, model.layers[1].mlp.up_proj.weight.bfloat16())
    del old["layers.1.mlp.weights_in.bias"]
    save_file(old, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"(?s){tmp_path}.*missing: layers.1.mlp.gate_proj.bias"):
        EomtForUniversalSegmentation.from_pretrained(tmp_path)


def test_the_earlier_layers_hold_gate_and_value_in_one(tmp_path):
    weights = fuse_swiglu(random_model(OURS, "dinov2_swiglu").state_dict())
    assert weights["layers.0.mlp.weights_in.weight"].shape == (2 * 88, 32)  # 4 * 32 * 2 / 3, rounded up


def test_both_names_of_swiglu_layers_are_state_dicts_too():
    """As the Trainer loads a checkpoint that it continues from."""
    model, other = random_model(OURS, "dinov2_swiglu"), random_model(OURS, "dinov2_swiglu")
    other.load_state_dict(fuse_swiglu(model.state_dict()))
    same_predictions(model, other)


def test_another_weight_of_no_object_is_the_configurations(tmp_path):
    random_model(OURS, "dinov2").save_pretrained(tmp_path / "first")
    model = EomtForUniversalSegmentation.from_pretrained(tmp_path / "first", no_object_weight=0.5)
    assert model.criterion.config.no_object_weight == 0.5
    model.save_pretrained(tmp_path / "second")
    assert load_file(tmp_path / "second" / "model.safetensors")["criterion.empty_weight"].tolist() == [1, 1, 1, 0.5]


def test_what_was_loaded_under_old_names_is_saved_under_those_of_the_installed_transformers(tmp_path):
    model = random_model(OURS, "dinov2_swiglu")
    model.config.save_pretrained(tmp_path / "old")
    save_file(fuse_swiglu(model.state_dict()), tmp_path / "old" / "model.safetensors")
    EomtForUniversalSegmentation.from_pretrained(tmp_path / "old").save_pretrained(tmp_path / "again")
    theirs, info = transformers.EomtForUniversalSegmentation.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert without_problems(info)
    same_predictions(model, theirs)


def test_gated_silu_backbones_differ_from_transformers_own_only_in_the_mask_module(golden, tmp_path):
    """Theirs takes the backbone's SiLU for the mask module too; the original has GELU (golden `dinov3_gated`)."""
    family, settings = KINDS["dinov3_gated"]
    config_class, model_class = OURS[family]
    ours = model_class(config_class(**{**TINY, **settings, "hidden_act": "silu"})).eval()
    ours.set_mask_probabilities([0.0, 0.0])
    ours.save_pretrained(tmp_path)
    theirs = THEIRS[family][1].from_pretrained(tmp_path).eval()
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = ours(pixel_values), theirs(pixel_values)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, **TOLERANCE)
    torch.testing.assert_close(ours.class_queries_logits, theirs.class_queries_logits, **TOLERANCE)
    assert not torch.allclose(ours.masks_queries_logits, theirs.masks_queries_logits, **TOLERANCE)


@pytest.mark.parametrize("num_queries", [3, 11])
def test_queries_grow_and_shrink(tmp_path, num_queries):
    model = random_model(OURS, "dinov3")
    before = model.query.weight.clone()
    model.set_num_queries(num_queries)
    kept = min(7, num_queries)
    assert torch.equal(model.query.weight[:kept], before[:kept]) and model.query.weight.isfinite().all()
    assert model(torch.randn(1, 3, 64, 64)).class_queries_logits.shape == (1, num_queries, 4)
    model.save_pretrained(tmp_path)
    theirs, info = THEIRS["eomt_dinov3"][1].from_pretrained(tmp_path, output_loading_info=True)
    assert without_problems(info)
    same_predictions(model, theirs)
    with pytest.raises(ValueError, match="num_queries=0"):
        model.set_num_queries(0)


def test_a_probability_just_below_one_survives_bfloat16(tmp_path):
    model = random_model(OURS, "dinov2")
    model.set_mask_probabilities([0.999, 0.5])
    model.save_pretrained(tmp_path)
    loaded = EomtForUniversalSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.mask_probabilities == pytest.approx([0.999, 0.5])


def test_methods_that_do_not_apply_say_what_does():
    model = random_model(OURS, "dinov2")
    with pytest.raises(NotImplementedError, match="set_num_queries"):
        model.resize_token_embeddings(10)
    with pytest.raises(NotImplementedError, match="set_image_size"):
        model.resize_position_embeddings(10)


@pytest.mark.parametrize(
    ("config_class", "fields"),
    [
        (EomtDinov3Config, {"mlp_ratio", "use_swiglu_ffn"}),
        (EomtEva02Config, {"mlp_ratio", "use_swiglu_ffn", "hidden_act", "layerscale_value"}),
    ],
)
def test_configurations_are_saved_without_what_means_nothing_there(config_class, fields, tmp_path):
    config_class().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert not fields & set(saved)
    name = config_class.__name__.removesuffix("Config")
    assert saved["auto_map"]["AutoModel"] == f"modeling_eomt.{name}ForUniversalSegmentation"


def test_a_model_that_transformers_does_not_have_is_saved_and_loaded_whole(tiny_eva02_config, tmp_path):
    model_class = MODEL_CLASSES["eomt_eva02"]
    model = model_class(tiny_eva02_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert without_problems(info) and len(list(tmp_path.glob("*.safetensors"))) > 1
    same_predictions(model, loaded)


# Parameter counts of the backbones in millions, as timm's model cards give them: `vit_*_patch14_reg4_dinov2` at 518
# pixels, `vit_*_patch16_dinov3` and `eva02_*_patch14_224`. Web-SSL DINO 7B is only said to have 7 billion.
PUBLISHED_MILLIONS = {
    "small": 22.06,
    "base": 86.58,
    "large": 304.37,
    "giant": 1136.48,
    "7b": 7000,
    "dinov3_small": 21.59,
    "dinov3_small_plus": 28.69,
    "dinov3_base": 85.64,
    "dinov3_large": 303.08,
    "dinov3_huge_plus": 840.51,
    "dinov3_7b": 6716.04,
    "eva02_tiny": 5.50,
    "eva02_small": 21.62,
    "eva02_base": 85.76,
    "eva02_large": 303.27,
}


@pytest.mark.parametrize("size", EOMT_SIZES)
def test_named_sizes_have_the_backbones_published_parameter_counts(size):
    family = {"dinov3": "eomt_dinov3", "eva02": "eomt_eva02"}.get(size.split("_")[0], "eomt")
    pixels = {} if family == "eomt_dinov3" else {"image_size": 224 if "eva02" in size else 518, "patch_size": 14}
    model_class = MODEL_CLASSES[family]
    with torch.device("meta"):
        model = model_class(model_class.config_class(**EOMT_SIZES[size], **pixels))
    backbone = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(("embeddings.", "layers.", "layernorm."))
    )
    assert backbone / 1e6 == pytest.approx(PUBLISHED_MILLIONS[size], rel=0.1 if size == "7b" else 0.001)


def test_named_sizes_have_the_published_numbers_of_query_blocks():
    published = {"small": 3, "base": 3, "large": 4, "giant": 5, "dinov3_small": 3, "dinov3_base": 3, "dinov3_large": 4}
    assert {size: EOMT_SIZES[size]["num_blocks"] for size in published} == published


@pytest.mark.parametrize("size", ["giant", "dinov3_huge_plus"])
def test_named_sizes_are_those_of_transformers_own_class(size):
    """Same parameters, to the last one."""
    family = "eomt_dinov3" if size.startswith("dinov3") else "eomt"
    counts = []
    for config_class, model_class in (OURS[family], THEIRS[family]):
        with torch.device("meta"):
            model = model_class(config_class(**EOMT_SIZES[size]))
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    assert counts[0] == counts[1]


def test_a_safetensors_checkpoint_holds_upstream_names_only(tmp_path):
    random_model(OURS, "dinov3").save_pretrained(tmp_path)
    theirs = random_model(THEIRS, "dinov3").state_dict()
    assert set(load_file(tmp_path / "model.safetensors")) == set(theirs)

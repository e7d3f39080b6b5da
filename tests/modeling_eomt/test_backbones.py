"""Pre-trained ViTs become backbones: golden results, and Transformers' own ViT classes as the reference."""

import json
import math
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file

from configuration_eomt import EomtDinov3Config
from modeling_eomt import (
    MODEL_CLASSES,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    official_parameter_name,
)
from modeling_eomt.checkpoints_eomt import (
    FAMILIES,
    find_file,
    find_model_type,
    get_family,
    read_weights,
    resample_patch_kernel,
)


SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
VITS = {
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model, {}),
    "dinov2_swiglu": (transformers.Dinov2Config, transformers.Dinov2Model, {"use_swiglu_ffn": True}),
    "dinov2_no_bias": (transformers.Dinov2Config, transformers.Dinov2Model, {"qkv_bias": False}),
    "dinov2_with_registers": (
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersModel,
        {"num_register_tokens": 3},
    ),
    "vit": (transformers.ViTConfig, transformers.ViTModel, {"intermediate_size": 64}),
    "vit_classifier": (transformers.ViTConfig, transformers.ViTForImageClassification, {"intermediate_size": 64}),
    "deit": (transformers.DeiTConfig, transformers.DeiTModel, {"intermediate_size": 96}),
    "dinov3_vit": (transformers.DINOv3ViTConfig, transformers.DINOv3ViTModel, {"num_register_tokens": 4}),
    "dinov3_gated": (
        transformers.DINOv3ViTConfig,
        transformers.DINOv3ViTModel,
        {"use_gated_mlp": True, "intermediate_size": 48, "hidden_act": "silu", "query_bias": False},
    ),
}


def random_vit(kind, folder, **settings):
    config_class, model_class, extra = VITS[kind]
    vit = model_class(config_class(**{**SMALL, **extra, **settings})).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    vit.save_pretrained(folder)
    return vit


def features(model, pixel_values):
    """Prefix and patch tokens after the final norm, as the ViT alone computes them."""
    with torch.no_grad():
        tokens, grid = model.embeddings(pixel_values)
        rope = None
        if model.rope_embeddings is not None:
            rope = model.rope_embeddings(grid, model.embeddings.num_prefix_tokens, tokens.device)
        for layer in model.layers:
            tokens, _ = layer(tokens, None, rope)
        return model.layernorm(tokens)


@pytest.mark.parametrize("kind", VITS)
def test_features_equal_those_of_transformers_own_vit(tmp_path, kind):
    vit = random_vit(kind, tmp_path)
    vit = getattr(vit, "vit", vit)
    model_class = EomtDinov3ForUniversalSegmentation if kind.startswith("dinov3") else EomtForUniversalSegmentation
    model = model_class.from_backbone(tmp_path, image_size=64, num_queries=5, id2label={0: "a", 1: "b"}).eval()
    assert model.config.num_blocks == 3  # as in the published models of up to 12 blocks
    assert model.config.num_queries == 5 and model.config.num_labels == 2
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = vit(pixel_values).last_hidden_state
    torch.testing.assert_close(features(model, pixel_values), expected, rtol=1e-4, atol=1e-4)


def test_golden_resampled_backbone_entry_by_entry_and_in_its_features(golden):
    expected = load_file(golden / "dinov2_backbone_resampled.safetensors")
    model = EomtForUniversalSegmentation.from_backbone(
        golden / "dinov2_backbone", image_size=(160, 160), patch_size=16, num_blocks=2
    ).eval()
    weights = model.state_dict()
    compared = set()
    for name, weight in weights.items():
        official = official_parameter_name(name)
        if official not in expected:
            continue
        value = expected[official]
        if ".attn.qkv." in official:
            value = value.chunk(3)["qkv".index(name.split("_proj.")[0][-1])]
        torch.testing.assert_close(weight, value.view(weight.shape), rtol=1e-4, atol=1e-4, msg=name)
        compared.add(official)
    assert compared == {name for name in expected if name.startswith("network.")} and len(compared) > 6
    if "input.pixel_values" in expected:  # as reference results outside of the repository have it
        found = features(model, expected["input.pixel_values"])
        torch.testing.assert_close(found, expected["expected.last_hidden_state"], rtol=1e-4, atol=1e-4)


def test_a_resampled_kernel_sees_in_a_resized_patch_what_it_saw_before():
    kernel = torch.randn(5, 3, 14, 14)
    patch = torch.randn(2, 3, 14, 14)
    resized = F.interpolate(patch, (16, 16), mode="bicubic", antialias=True)
    before = torch.einsum("bchw,ochw->bo", patch, kernel)
    after = torch.einsum("bchw,ochw->bo", resized, resample_patch_kernel(kernel, (16, 16)))
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)
    assert resample_patch_kernel(kernel, (14, 14)) is kernel


def timm_names(name):
    """The names that timm gives to the weights of a ViT, from those of Transformers' ViT."""
    return (
        name.removeprefix("network.encoder.backbone.")
        if name.startswith("network.encoder.backbone.")
        else None  # not of the backbone
    )


@pytest.mark.parametrize("size", [[64, 64], [32, 64]])
@pytest.mark.parametrize("with_class_position", [True, False])  # AugReg, DeiT III
def test_a_timm_vit_is_read_as_timm_saves_it(tmp_path, tiny_config, with_class_position, size):
    """Of square images or not, from the files of timm's `save_for_hf`, whose `config.json` has no model type."""
    tiny_config.num_register_tokens = 0
    tiny_config.image_size = tuple(size)
    reference = EomtForUniversalSegmentation(tiny_config).eval()
    weights, state = {}, reference.state_dict()
    for name, weight in state.items():
        official = timm_names(official_parameter_name(name))
        if official is None or official == "reg_token":
            continue
        if ".attn.qkv." in official:
            kind = official.rsplit(".", 1)[1]
            prefix = name.rsplit(".", 2)[0]
            weight = torch.cat([state[f"{prefix}.{part}_proj.{kind}"] for part in "qkv"])
        weights[official] = weight.clone()
    positions = state["embeddings.position_embeddings.weight"][None]
    if with_class_position:
        class_position = torch.randn(1, 1, 32)
        weights["cls_token"] -= class_position
        positions = torch.cat([class_position, positions], dim=1)
    weights["pos_embed"] = positions.contiguous()
    weights["head.weight"] = torch.zeros(10, 32)
    settings = {
        "architecture": "deit3_tiny_patch16_64",
        "num_classes": 10,
        "num_features": 32,
        "global_pool": "token",
        "model_args": {"num_heads": 2, "in_chans": 3, "num_classes": 10, "img_size": size},
        "pretrained_cfg": {"tag": "fb_in1k", "input_size": [3, 224, 224], "fixed_input_size": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    pixel_values = torch.randn(1, 3, *size)
    expected = features(reference, pixel_values)
    for save, name in ((save_file, "model.safetensors"), (torch.save, "pytorch_model.bin")):
        save(weights, tmp_path / name)
        model = EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=tuple(size)).eval()
        torch.testing.assert_close(features(model, pixel_values), expected)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("architecture", "message"),
    [("eva02_tiny_patch14_224", "holds a 'eva02_tiny"), ("vit_base_patch16_siglip_224", "no .*cls_token")],
)
def test_other_models_of_timm_are_refused_by_name(tmp_path, architecture, message):
    settings = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    save_file({"norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64)


def test_sharded_weights_are_read(tmp_path):
    vit = random_vit("dinov2", tmp_path / "whole")
    vit.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    whole, sharded = (
        EomtForUniversalSegmentation.from_backbone(tmp_path / folder, image_size=96) for folder in ("whole", "sharded")
    )
    for name in ("embeddings.cls_token", "layers.2.mlp.fc2.weight", "embeddings.position_embeddings.weight"):
        assert torch.equal(whole.state_dict()[name], sharded.state_dict()[name])


def test_other_grids_and_patches_are_resampled(tmp_path):
    random_vit("dinov2_with_registers", tmp_path, image_size=56, patch_size=14)
    model = EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=(64, 96), patch_size=8)
    assert model.config.num_upscale_blocks == 1
    assert model.embeddings.position_embeddings.weight.shape == (8 * 12, 32)
    assert model(torch.randn(1, 3, 64, 96)).masks_queries_logits.shape == (1, 200, 16, 24)


def test_unsupported_backbones_are_refused_with_a_list(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"'bert'.*dinov2, dinov2_with_registers, vit, deit and timm"):
        EomtForUniversalSegmentation.from_backbone(tmp_path / "bert", image_size=64)
    random_vit("dinov3_vit", tmp_path / "dinov3")
    with pytest.raises(ValueError, match=r"'dinov3_vit'.*It is one for 'eomt_dinov3' models"):
        EomtForUniversalSegmentation.from_backbone(tmp_path / "dinov3", image_size=64)
    with pytest.raises(OSError):
        EomtForUniversalSegmentation.from_backbone(tmp_path / "nothing", image_size=64)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    random_vit("dinov2", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["surprise"] = torch.zeros(math.prod((2, 2)))
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"(?s)missing: layernorm.weight.*unexpected: surprise"):
        EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64)


def test_secrets_and_typos_do_not_become_settings(tmp_path):
    random_vit("dinov2", tmp_path)
    with pytest.raises(ValueError, match="hiden_act, token: no such field of EomtConfig"):
        EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64, token="secret", hiden_act="gelu")
    model = EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64, hub_kwargs={"token": "secret"})
    assert "secret" not in json.dumps(model.config.to_dict())


def test_patches_that_do_not_fill_the_backbones_image_leave_a_margin(tmp_path):
    vit = random_vit("dinov2", tmp_path, image_size=70, patch_size=16)
    model = EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64)
    assert torch.equal(
        model.embeddings.position_embeddings.weight, vit.state_dict()["embeddings.position_embeddings"][0, 1:]
    )


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("layernorm.weight", torch.full((32,), math.nan), "not finite .*: layernorm.weight"),
        ("layernorm.weight", torch.ones(32, dtype=torch.int64), "torch.int64 instead of .*: layernorm.weight"),
        ("layernorm.weight", torch.tensor(1.0), "wrong shape: layernorm.weight"),
        ("embeddings.patch_embeddings.projection.weight", torch.ones(2), "wrong shape: embeddings.patch_embeddings"),
        ("embeddings.position_embeddings", torch.ones(1, 17, 7), "Position embeddings of 7 numbers"),
        ("embeddings.position_embeddings", torch.tensor(1.0), "1 position embeddings do not fit"),
        ("embeddings.position_embeddings", None, "missing: embeddings.position_embeddings.weight"),
        ("embeddings.cls_token", None, "missing: embeddings.cls_token"),
        ("layernorm.weight", "text", r"pytorch_model.bin has str at 'layernorm.weight'"),
        (5, torch.ones(1), "pytorch_model.bin has Tensor at 5"),
        ("state_dict", [1], "pytorch_model.bin holds list"),
    ],
)
def test_what_is_no_weight_of_a_backbone_is_named(tmp_path, name, weight, message):
    weights = random_vit("dinov2", tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(
        {key: value for key, value in {**weights, name: weight}.items() if value is not None},
        tmp_path / "pytorch_model.bin",
    )
    with pytest.raises(ValueError, match=message):
        EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=96)


@pytest.mark.parametrize("index", ["{}", "[]", '{"metadata": {}, "weight_map": {"a": "../../secret.bin"}}'])
def test_an_index_of_a_backbones_shards_that_is_none_is_named(tmp_path, index):
    random_vit("dinov2", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"model.safetensors.index.json (is no index|has '../../secret.bin')"):
        EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64)


@pytest.mark.parametrize(
    "settings",
    [
        {"id2label": ["a", "b"]},
        {"id2label": "ab"},
        {"patch_size": 0},
        {"patch_size": None},
        {"patch_size": (16, 16, 16)},
        {"num_hidden_layers": "3"},
        {"image_size": "64"},
        {"num_queries": None},
    ],
    ids=str,
)
def test_settings_of_a_new_model_that_cannot_be_are_named(tmp_path, settings):
    random_vit("dinov2", tmp_path)
    with pytest.raises(ValueError, match=next(iter(settings))):
        EomtForUniversalSegmentation.from_backbone(tmp_path, **{"image_size": 64, **settings})


def test_a_model_type_is_described_once():
    assert FAMILIES.keys() == MODEL_CLASSES.keys()
    for model_type, family in FAMILIES.items():
        assert MODEL_CLASSES[model_type].config_class is family.config_class
        assert family.config_class.model_type == model_type and get_family(family.config_class) is family
        assert all(find_model_type(kind) == model_type for kind in family.backbones)
    assert find_model_type("bert") is None


def test_a_configuration_that_extends_a_model_type_has_its_names():
    class WithDepth(EomtDinov3Config):
        model_type = "eomt_with_depth"

    assert get_family(WithDepth()) is FAMILIES["eomt_dinov3"]


def test_files_on_the_hub_are_downloaded_and_what_is_missing_is_none(hub):
    hub.files = {"model.safetensors": safetensors.torch.save({"query.weight": torch.ones(2)})}
    assert find_file("me/model", "pytorch_model.bin") is None
    assert read_weights("me/model")["query.weight"].tolist() == [1.0, 1.0]
    hub.files = {}
    with pytest.raises(OSError, match=r"me/model has no model\.safetensors and no pytorch_model\.bin"):
        read_weights("me/model")


def test_a_repository_that_asks_for_consent_says_so(monkeypatch):
    def refuse(self, repo_id, file_name, **options):
        raise GatedRepoError(
            f"Access to model {repo_id} is restricted.", response=SimpleNamespace(headers={}, request=None)
        )

    monkeypatch.setattr(HfApi, "hf_hub_download", refuse)
    with pytest.raises(OSError, match="Access to model me/model is restricted"):
        read_weights("me/model")

"""timm's ViTs become backbones: with random weights, their features are those of timm's own models."""

import importlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_eomt import EomtEva02ForUniversalSegmentation, EomtForUniversalSegmentation, convert_official_checkpoint


timm = pytest.importorskip("timm")

SMALL = {"depth": 3, "num_heads": 2, "embed_dim": 32}
EVA02 = {
    "tiny": (
        "eva02_tiny_patch14_224.mim_in22k",
        {"img_size": 56},
    ),  # queries, keys and values in one, gate and value too
    "small": ("eva02_small_patch14_336.mim_in22k_ft_in1k", {"img_size": 56, "num_heads": 4}),
    "base": ("eva02_base_patch14_224.mim_in22k", {"img_size": 56}),  # each by itself, and a norm inside the MLP
    "large": ("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", {"img_size": 56}),
    "large_not_square": ("eva02_large_patch14_224.mim_m38m", {"img_size": (56, 84)}),
}
VITS = {
    "deit3": ("deit3_large_patch16_384.fb_in22k_ft_in1k", {"img_size": 64}),  # no position of the class token
    "deit3_not_square": ("deit3_base_patch16_224.fb_in1k", {"img_size": (32, 96)}),
    "deit": ("deit_base_distilled_patch16_224.fb_in1k", {"img_size": 64}),
    "augreg": ("vit_base_patch16_224.augreg_in21k", {"img_size": 64}),
    "augreg_patch32": ("vit_base_patch32_224.augreg_in21k_ft_in1k", {"img_size": 128}),
    "dinov2": ("vit_base_patch14_dinov2.lvd142m", {"img_size": 56}),
    "dinov2_registers": ("vit_base_patch14_reg4_dinov2.lvd142m", {"img_size": 56}),
}


def create_vit(kind, **settings):
    """A small model of timm's."""
    name, own = {**EVA02, **VITS}[kind]
    return timm.create_model(name, pretrained=False, **{**SMALL, **own, **settings}).eval()


def random_vit(kind, folder, **settings):
    """The same with random weights, and saved as the Hub has them."""
    vit = create_vit(kind, **settings)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    timm.models.save_for_hf(vit, folder, safe_serialization=True)
    return vit


def model_on(folder, kind, **settings):
    model_class = EomtEva02ForUniversalSegmentation if kind in EVA02 else EomtForUniversalSegmentation
    return model_class.from_backbone(folder, num_queries=5, **settings).eval()


def compare_features(model, vit, size, tolerance=1e-4):
    """All tokens after the final norm, wherever timm has put that."""
    pixel_values = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = vit.fc_norm(vit.forward_features(pixel_values))
        tokens, grid = model.embeddings(pixel_values)
        rope = None
        if model.rope_embeddings is not None:
            rope = model.rope_embeddings(grid, model.embeddings.num_prefix_tokens, tokens.device)
        for layer in model.layers:
            tokens, _ = layer(tokens, None, rope)
        tokens = model.layernorm(tokens)
    torch.testing.assert_close(tokens, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [*EVA02, *VITS])
def test_features_equal_those_of_timms_own_model(tmp_path, kind):
    vit = random_vit(kind, tmp_path)
    size = vit.patch_embed.img_size
    model = model_on(tmp_path, kind, image_size=size, patch_size=vit.patch_embed.patch_size)
    compare_features(model, vit, size)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@pytest.mark.parametrize("kind", ["tiny", "small", "base", "large", "deit3", "augreg", "dinov2"])
def test_other_sizes_and_patches_are_resampled_as_timm_does(tmp_path, kind, size):
    """Patches of 16 pixels: EVA-02's and DINOv2's kernels have 14."""
    weights = random_vit(kind, tmp_path).state_dict()
    vit = create_vit(kind, img_size=size, patch_size=16)
    read = importlib.import_module(type(vit).__module__).checkpoint_filter_fn
    vit.load_state_dict(read(weights, vit))
    # timm solves for the new kernels in float32.
    compare_features(model_on(tmp_path, kind, image_size=size), vit, size, tolerance=1e-3)


def test_eva02_has_a_model_type_and_fields_of_its_own(tmp_path):
    random_vit("large", tmp_path)
    model = model_on(tmp_path, "large", image_size=64, id2label={0: "cat", 1: "dog"})
    config = model.config
    assert (config.model_type, config.intermediate_size, config.use_mlp_norm) == ("eomt_eva02", 85, True)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 3, 2)
    assert config.num_blocks == 3 and config.num_labels == 2 and config.num_register_tokens == 0
    assert model.layers[0].attention.k_proj.bias is None and model.layers[0].attention.q_proj.bias is not None
    random_vit("tiny", tmp_path)
    assert not model_on(tmp_path, "tiny", image_size=64).config.use_mlp_norm


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors")


def test_the_final_norm_of_a_masked_image_model_may_have_its_first_name(tmp_path):
    """As in files whose mask token and head were kept; where both norms are there, tokens pass the first."""
    vit = random_vit("tiny", tmp_path)
    further = {
        "mask_token": torch.zeros(1, 1, 32),
        "lm_head.weight": torch.zeros(8, 32),
        "lm_head.bias": torch.zeros(8),
    }
    change_weights(
        tmp_path, lambda weights: {name.replace("fc_norm.", "norm."): weights[name] for name in weights} | further
    )
    compare_features(model_on(tmp_path, "tiny", image_size=56, patch_size=14), vit, (56, 56))
    change_weights(tmp_path, lambda weights: {**weights, "fc_norm.weight": torch.zeros(32)})
    compare_features(model_on(tmp_path, "tiny", image_size=56, patch_size=14), vit, (56, 56))


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("eva02_base_patch16_clip_224", {}, r"unexpected: layers\.0\.attn\.norm\.weight"),
        ("eva02_enormous_patch14_clip_224", {}, "eva02_enormous_patch14_clip_224 has no gated MLPs"),
        ("eva02_tiny_patch14_224", {"use_abs_pos_emb": False}, r"missing: embeddings\.position_embeddings"),
        ("eva02_tiny_patch14_224", {"class_token": False}, r"no embeddings\.cls_token"),
    ],
)
def test_what_else_has_eva02_in_its_name_is_refused(tmp_path, architecture, settings, message):
    vit = timm.create_model(
        architecture, pretrained=False, **SMALL, img_size=64 if "16" in architecture else 56, **settings
    )
    timm.models.save_for_hf(vit, tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match=message):
        EomtEva02ForUniversalSegmentation.from_backbone(tmp_path, image_size=64)


def test_gated_vits_that_are_no_eva02_are_refused(tmp_path):
    vit = timm.create_model("vit_giant_patch14_dinov2", pretrained=False, **SMALL, img_size=56)
    timm.models.save_for_hf(vit, tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match="gated MLPs, which are supported in EVA-02 only"):
        EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64)


def test_each_class_names_the_other_for_its_backbones(tmp_path):
    random_vit("tiny", tmp_path / "eva02")
    random_vit("deit3", tmp_path / "deit3")
    with pytest.raises(ValueError, match=r"'eva02_tiny_patch14_224'.*It is one for 'eomt_eva02' models"):
        EomtForUniversalSegmentation.from_backbone(tmp_path / "eva02", image_size=64)
    with pytest.raises(ValueError, match=r"'deit3_large.*Supported are timm's eva02_\*\. It is one for 'eomt' models"):
        EomtEva02ForUniversalSegmentation.from_backbone(tmp_path / "deit3", image_size=64)


@pytest.mark.parametrize(
    ("num_heads", "message"),
    [(32, "32 heads of 32 channels"), (5, "5 heads of 32 channels"), ("2", "cannot be read"), (0, "cannot be read")],
)
def test_heads_that_cannot_be_are_named(tmp_path, num_heads, message):
    random_vit("tiny", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["model_args"]["num_heads"] = num_heads
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        model_on(tmp_path, "tiny", image_size=64)


@pytest.mark.parametrize("shape", [(), (7,), (32, 7), (32, 32, 1)])
def test_weights_of_another_shape_are_listed(tmp_path, shape):
    random_vit("base", tmp_path)
    change_weights(tmp_path, lambda weights: {**weights, "blocks.0.attn.q_proj.weight": torch.ones(shape)})
    with pytest.raises(ValueError, match=r"wrong shape: layers\.0\.attention\.q_proj\.weight"):
        model_on(tmp_path, "base", image_size=64)


def test_there_is_no_original_eomt_on_eva02(tiny_eva02_config):
    with pytest.raises(ValueError, match="no 'eomt_eva02' models"):
        convert_official_checkpoint({}, tiny_eva02_config)

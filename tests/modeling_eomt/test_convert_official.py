"""Original checkpoints give the original's predictions (golden results)."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from configuration_eomt import EomtConfig, EomtDinov3Config
from modeling_eomt import (
    MODEL_CLASSES,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    convert_official_checkpoint,
    official_parameter_name,
)
from modeling_eomt.convert_official import main
from modeling_eomt.official_checkpoints import infer_config


BACKBONE = "network.encoder.backbone."
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # as the golden results ask
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def golden_config(golden, name):
    with safe_open(golden / f"{name}.outputs.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["config"])
    settings["num_upscale_blocks"] = 2 if settings["patch_size"] == 16 else 1
    settings["id2label"] = {i: str(i) for i in range(settings.pop("num_labels"))}
    return (EomtDinov3Config if name.startswith("dinov3") else EomtConfig)(**settings)


def golden_weights(golden, name):
    """File of a reference model, and the backbone that it is a difference to, if it is one."""
    if (absolute := golden / f"{name}.weights.safetensors").is_file():
        return absolute, None
    return golden / f"{name}.delta_weights.safetensors", golden / f"{name}.base_backbone"


def golden_model(golden, name):
    expected = load_file(golden / f"{name}.outputs.safetensors")
    weights, base = golden_weights(golden, name)
    model = convert_official_checkpoint(weights, golden_config(golden, name), base_backbone=base).eval()
    return model, (expected["input.image_uint8"] / 255 - MEAN) / STD, expected


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masked_predictions_equal_the_originals(golden, golden_name, attention):
    model, pixel_values, expected = golden_model(golden, golden_name)
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


def test_unmasked_predictions_equal_the_originals(golden, golden_name):
    model, pixel_values, expected = golden_model(golden, golden_name)
    model.set_mask_probabilities([0.0] * model.config.num_blocks)
    with torch.no_grad():
        outputs = model(pixel_values)
    torch.testing.assert_close(outputs.masks_queries_logits, expected["unmasked.mask_logits"], **TOLERANCE)
    torch.testing.assert_close(outputs.class_queries_logits, expected["unmasked.class_logits"], **TOLERANCE)


def test_delta_weights_and_their_backbone_give_the_originals_predictions(golden, golden_delta):
    expected = load_file(golden / f"{golden_delta}.outputs.safetensors")
    model = convert_official_checkpoint(
        golden / f"{golden_delta}.delta_weights.safetensors",
        golden_config(golden, golden_delta),
        base_backbone=golden / f"{golden_delta}.base_backbone",
    ).eval()
    model.set_mask_probabilities([0.0] * model.config.num_blocks)
    with torch.no_grad():
        outputs = model((expected["input.image_uint8"] / 255 - MEAN) / STD)
    torch.testing.assert_close(outputs.masks_queries_logits, expected["unmasked.mask_logits"], **TOLERANCE)
    torch.testing.assert_close(outputs.class_queries_logits, expected["unmasked.class_logits"], **TOLERANCE)


def test_the_configuration_is_read_off_the_weights(golden, golden_name):
    expected = golden_config(golden, golden_name)
    # Neither the heads (of 16 channels in these models) nor sizes that are not square can be read off.
    inferred = infer_config(
        load_file(golden_weights(golden, golden_name)[0]),
        image_size=None if golden_name in ("dinov2_gelu", "dinov2_patch8") else tuple(expected.image_size),
        num_attention_heads=expected.num_attention_heads,
    )
    assert type(inferred) is type(expected)
    assert inferred.num_labels == expected.num_labels
    ours, theirs = inferred.to_dict(), expected.to_dict()
    for field in ("id2label", "label2id", "image_size"):
        ours.pop(field), theirs.pop(field)
    if "rope_parameters" in theirs:
        assert ours.pop("rope_parameters")["rope_theta"] == theirs.pop("rope_parameters")["rope_theta"]
    assert ours == theirs


def test_every_parameter_has_a_name_in_the_original(golden, golden_name):
    config = golden_config(golden, golden_name)
    with torch.device("meta"):
        model = MODEL_CLASSES[config.model_type](config)
    official = set(load_file(golden_weights(golden, golden_name)[0]))
    named = {
        official_parameter_name(name, config.model_type) for name, weight in model.named_parameters() if weight.numel()
    }
    assert named <= official
    assert official - named <= {"network.attn_mask_probs", "network.encoder.pixel_mean", "network.encoder.pixel_std"}


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="surprise"):
        official_parameter_name("surprise.weight")


def test_a_checkpoint_that_does_not_fit_is_refused_with_every_problem(golden, tiny_config):
    weights = load_file(golden / "dinov2_patch8.weights.safetensors")
    del weights["network.q.weight"]
    weights["network.surprise"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"(?s)wrong shape.*missing: network\.q\.weight.*unexpected: network.surprise"
    ):
        convert_official_checkpoint(weights, tiny_config)


def test_only_the_class_head_may_differ_and_it_is_said(golden, monkeypatch):
    weights = load_file(golden / "dinov2_patch8.weights.safetensors")
    config = golden_config(golden, "dinov2_patch8")
    config.id2label = {0: "thing", 1: "stuff"}
    said: list[str] = []
    monkeypatch.setattr("modeling_eomt.official_checkpoints.logger.warning", said.append)
    model = convert_official_checkpoint(weights, config)
    assert "5 classes" in said[0] and "class head" in said[0]
    assert model.class_predictor.weight.shape == (3, 32)
    assert torch.equal(model.query.weight, weights["network.q.weight"])


def test_a_pytorch_file_is_read_as_tensors_only(golden, tmp_path):
    weights = load_file(golden / "dinov2_patch8.weights.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "model.bin")
    config = golden_config(golden, "dinov2_patch8")
    model = convert_official_checkpoint(tmp_path / "model.bin", config)
    assert torch.equal(model.query.weight, weights["network.q.weight"])
    torch.save({"state_dict": weights, "code": subprocess.Popen}, tmp_path / "evil.bin")
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        convert_official_checkpoint(tmp_path / "evil.bin", config)


def test_the_command_line_converts_delta_weights(golden, tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"num_attention_heads": 3}))
    (tmp_path / "labels.json").write_text(json.dumps(["cat", "dog", "sky", "sea"]))
    main(
        [
            *(str(golden / "dinov3_gated.delta_weights.safetensors"), str(tmp_path / "model")),
            *("--base-backbone", str(golden / "dinov3_gated.base_backbone"), "--image-size", "64"),
            *("--config", str(config), "--labels", str(tmp_path / "labels.json")),
        ]
    )
    assert "eomt_dinov3" in capsys.readouterr().out
    _, pixel_values, outputs = golden_model(golden, "dinov3_gated")
    model = EomtDinov3ForUniversalSegmentation.from_pretrained(tmp_path / "model").eval()
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "sky", 3: "sea"}
    model.set_mask_probabilities([0.0, 0.0])
    with torch.no_grad():
        torch.testing.assert_close(
            model(pixel_values).masks_queries_logits, outputs["unmasked.mask_logits"], **TOLERANCE
        )
    with pytest.raises(SystemExit):  # never overwrites
        main([str(golden / "dinov3.weights.safetensors"), str(tmp_path / "model")])


def test_the_command_line_is_a_module():
    run = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "modeling_eomt.convert_official", "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "--base-backbone" in run.stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"not weights", "cannot be read as safetensors"),
        ("model.bin", b"not weights", "cannot be read as PyTorch weights"),
        ("missing.bin", None, "is not a file"),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / name), str(tmp_path / "model")])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "model").exists()


def test_names_of_other_classes_give_a_new_class_head(golden, tmp_path, capsys):
    (tmp_path / "labels.json").write_text(json.dumps(["cat", "dog"]))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    files = [str(golden / "dinov2_patch8.weights.safetensors"), str(tmp_path / "model")]
    main([*files, "--labels", str(tmp_path / "labels.json"), "--config", str(tmp_path / "config.json")])
    assert "2 classes" in capsys.readouterr().out
    assert EomtForUniversalSegmentation.from_pretrained(tmp_path / "model").config.id2label == {0: "cat", 1: "dog"}
    (tmp_path / "config.json").write_text(json.dumps({"hiden_act": "gelu"}))
    with pytest.raises(SystemExit):
        main([files[0], str(tmp_path / "other"), "--config", str(tmp_path / "config.json")])
    assert "hiden_act is no field" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--labels", "5", "labels.json holds a int: expected a dict or a list"),
        ("--labels", "[" * 20000, r"labels.json cannot be read as JSON"),
        ("--labels", '{"cat": 0}', "the key 'cat'"),
        ("--labels", "[1, 2]", "id2label[0] is 1"),
        ("--config", "[]", "config.json holds a list: expected a dict"),
        ("--config", '{"hidden_size": "32"}', "hidden_size='32'"),
    ],
)
def test_files_that_hold_something_else_are_named(golden, tmp_path, capsys, option, content, message):
    file = tmp_path / f"{option.strip('-')}.json"
    file.write_text(content)
    with pytest.raises(SystemExit):
        main([str(golden / "dinov2_patch8.weights.safetensors"), str(tmp_path / "model"), option, str(file)])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_a_checkpoint_with_holes_is_refused(golden):
    weights = load_file(golden / "dinov2_patch8.weights.safetensors")
    for name in weights:
        if "blocks.0" in name or "q.weight" in name or "patch_embed" in name or "pos_embed" in name:
            with pytest.raises(ValueError, match=r"Not a|does not fit|position"):
                holes = {other: weight for other, weight in weights.items() if other != name}
                convert_official_checkpoint(holes, infer_config(holes))


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("network.q.weight", torch.full((5, 64), torch.nan), r"not finite .*: network\.q\.weight"),
        ("network.q.weight", torch.ones(5, 64, dtype=torch.int32), r"torch\.int32 instead of .*: network\.q\.weight"),
        ("network.q.weight", "text", r"has str at 'network\.q\.weight'"),
        ("network.attn_mask_probs", torch.tensor(1.0), "tensors have other shapes"),
        (f"{BACKBONE}blocks.0.attn.qkv.weight", torch.tensor(1.0), r"wrong shape: .*qkv\.weight gives \(\)"),
        (f"{BACKBONE}blocks.0.attn.qkv.weight", torch.ones(2, 64), r"wrong shape: .*qkv\.weight gives \("),
        (f"{BACKBONE}blocks.x.norm1.weight", torch.ones(1), r"unexpected: .*blocks\.x"),
        (f"{BACKBONE}patch_embed.proj.weight", torch.ones(2, 2), r"patch embedding has the shape \(2, 2\)"),
        (f"{BACKBONE}pos_embed", torch.ones(2), "tensors have other shapes"),
        (7, torch.ones(1), "has Tensor at 7"),
    ],
)
def test_what_is_no_weight_is_named(golden, name, weight, message):
    weights = {**load_file(golden / "dinov2_patch8.weights.safetensors"), name: weight}
    with pytest.raises(ValueError, match=message):
        convert_official_checkpoint(weights, infer_config(weights))


def test_the_image_size_is_given_once(golden, tmp_path, capsys):
    file = str(golden / "dinov2_patch8.weights.safetensors")
    size = infer_config(load_file(file)).image_size
    (tmp_path / "config.json").write_text(json.dumps({"image_size": size}))
    main([file, str(tmp_path / "model"), "--config", str(tmp_path / "config.json")])
    assert EomtForUniversalSegmentation.from_pretrained(tmp_path / "model").config.image_size == size
    with pytest.raises(SystemExit):
        main([file, str(tmp_path / "a"), "--config", str(tmp_path / "config.json"), "--image-size", "64"])
    assert "error: --image-size is given, and" in capsys.readouterr().err

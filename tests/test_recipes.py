"""Every published recipe is here and says what was published; others of the paper differ in the backbone alone."""

import json
from pathlib import Path

import pytest
import yaml

from training_eomt.script.command_line import parse_arguments


RECIPES = Path(__file__).resolve().parents[1] / "recipes"
# Rows of the paper's comparison of pre-trainings that have no published file.
PRE_TRAININGS = {
    "coco_panoptic_eomt_large_640_eva02": "timm/eva02_large_patch14_224.mim_m38m",
    "coco_panoptic_eomt_large_640_deit3": "timm/deit3_large_patch16_384.fb_in22k_ft_in1k",
    "coco_panoptic_eomt_large_640_deit3_in1k": "timm/deit3_large_patch16_384.fb_in1k",
}
SIZES = {"vit_small": "small", "vit_base": "base", "vit_large": "large", "vit_giant": "giant"}


@pytest.fixture
def published(reference) -> dict[str, dict]:
    return {recipe["name"]: recipe for recipe in json.loads((reference / "published_recipes.json").read_text())}


def read(name: str) -> dict:
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


def parsed(name: str):
    return parse_arguments(
        ["--recipe", str(RECIPES / f"{name}.yaml"), "--output_dir", "x", "--fp16", "false", "--report_to", "none"]
    )


def test_every_published_recipe_is_here_and_no_other(published):
    assert {path.stem for path in RECIPES.glob("*_eomt_*.yaml")} == set(published) | set(PRE_TRAININGS)


@pytest.mark.parametrize("name", PRE_TRAININGS)
def test_another_pre_training_is_another_backbone_and_nothing_else(name):
    assert read(name) == {**read("coco_panoptic_eomt_large_640_dinov2"), "model_name_or_path": PRE_TRAININGS[name]}


def test_every_value_is_the_published_one(published):
    for name, expected in published.items():
        model, data, training = parsed(name)
        assert data.dataset_format.split("_")[0] == expected["dataset"], name
        assert data.task == expected["task"], name
        assert data.pixels == expected["image_size"][0] == expected["image_size"][1], name
        assert (data.scale_range, data.color_jitter) == (expected["scale_range"], expected["color_jitter"]), name
        assert model.num_queries == expected["num_queries"], name
        assert training.num_train_epochs == expected["epochs"], name
        assert training.total_batch_size == expected["total_batch_size"], name
        rates = (training.learning_rate, training.layer_decay, training.decay_query_blocks, training.poly_power)
        assert rates == tuple(
            expected[key] for key in ("learning_rate", "layer_decay", "decay_query_blocks", "poly_power")
        ), name
        assert training.warmup_stages(10**6) == tuple(expected["warmup_steps"]), name
        assert training.weight_decay == expected["weight_decay"], name
        assert training.max_grad_norm == expected["gradient_clip_norm"], name


def test_masks_fade_out_at_the_published_steps(published):
    for name, expected in published.items():
        num_blocks = expected["num_query_blocks"]
        total_steps = round(expected["annealing_end_steps"][-1] * 6 / 5)  # the last sixth of training has no masks
        starts, ends = parsed(name)[2].annealing_schedule(total_steps, num_blocks)
        assert starts == pytest.approx(expected["annealing_start_steps"], abs=1), name
        assert ends == pytest.approx(expected["annealing_end_steps"], abs=1), name


def test_every_recipe_starts_from_the_published_backbone_or_model(published):
    for name, expected in published.items():
        model, _, _ = parsed(name)
        if expected["backbone"].startswith("facebook/"):
            assert model.model_name_or_path == expected["backbone"], name
        else:
            size = SIZES["_".join(expected["backbone"].split("_")[:2])]
            from_coco = expected["dataset"] == "ade20k" and expected["task"] == "panoptic"
            where = f"tue-mps/coco_panoptic_eomt_{size}_{expected['image_size'][0]}"
            backbone = f"facebook/dinov2-with-registers-{size}"
            assert model.model_name_or_path == (where if from_coco else backbone), name
            assert model.num_blocks == (None if from_coco else expected["num_query_blocks"]), name


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*_eomt_*.yaml")))
def test_little_memory_changes_nothing_but_how_a_step_is_computed(recipe):
    low_memory = RECIPES / "low_memory.yaml"
    words = ["--recipe", str(RECIPES / f"{recipe}.yaml"), str(low_memory), "--output_dir", "x", "--use_cpu", "true"]
    _, _, training = parse_arguments([*words, "--report_to", "none"])
    total = read(recipe)["total_batch_size"]
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == total
    assert (training.gradient_checkpointing, training.bf16, training.fp16) == (True, True, False)

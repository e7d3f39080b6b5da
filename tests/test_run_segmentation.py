"""The one command: it trains, evaluates and draws, and says clearly what is wrong before it starts."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

import run_segmentation
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation
from training_eomt.script.command_line import parse_arguments
from training_eomt.shapes import THINGS, generate_shapes_dataset
from training_eomt.trainer import EomtTrainer


ROOT = Path(__file__).resolve().parents[1]
TINY_MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_blocks": 1,
    "num_queries": 8,
    "train_num_points": 64,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return generate_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", 4, 2, 2, image_size=64)


@pytest.fixture
def words(shapes, tmp_path) -> list[str]:
    """A command line that trains for two steps."""
    arguments = {
        "train_data": shapes / "train",
        "validation_data": shapes / "validation",
        "predict_data": shapes / "test",
        "output_dir": tmp_path / "output",
        "image_size": 64,
        "model_config": json.dumps(TINY_MODEL),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    return [word for name, value in arguments.items() for word in (f"--{name}", str(value))]


def run(words: list[str]) -> dict[str, float]:
    return run_segmentation.main(parse_arguments(words))


def test_training_evaluation_and_prediction_write_what_they_promise(words, tmp_path, capsys):
    metrics = run([*words, "--do_train", "--do_eval", "--do_predict"])
    output = tmp_path / "output"
    report = json.loads((output / "evaluation.json").read_text())
    assert report["eval_pq"] == metrics["eval_pq"]
    assert {"eval_pq_things", "eval_pq_stuff", "eval_loss", "per_class"} <= set(report)
    pictures = sorted((output / "predictions" / "overlays").glob("*.png"))
    assert [picture.name for picture in pictures] == ["000000.overlay.png", "000001.overlay.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (64, 64)
    printed = capsys.readouterr().out
    assert str(output / "predictions") in printed and "trust_remote_code=True" in printed
    assert printed.endswith(f"eomt app --model {output}\n")
    model = EomtForUniversalSegmentation.from_pretrained(output)
    assert model.config.id2label[0] == "balloon" and model.mask_probabilities == [0.0]


def test_a_trained_model_is_evaluated_and_applied_without_training(words, shapes, tmp_path):
    run([*words, "--do_train"])
    trained = tmp_path / "output"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (40, 30), "red").save(pictures / "red.jpg")
    again = ["--model_name_or_path", str(trained), "--use_cpu", "true", "--report_to", "none"]
    again += ["--validation_data", str(shapes / "validation"), "--output_dir", str(tmp_path / "evaluation")]
    metrics = run([*again, "--predict_data", str(pictures), "--do_eval", "--do_predict"])
    assert 0.0 <= metrics["eval_pq"] <= 1.0
    assert (tmp_path / "evaluation" / "predictions" / "overlays" / "red.overlay.png").exists()


def test_fine_tuning_without_further_ado_prints_losses_and_draws_curves_and_pictures(words, shapes, tmp_path, capsys):
    run([*words, "--max_steps", "3", "--do_train", "--do_eval"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if "  loss " in line and "evaluation" not in line] == [
        "step 1/3",
        "step 2/3",
        "step 3/3",
    ]
    # After each epoch of two steps and at the end, and not a second time for the same weights.
    assert [line.split("  ")[0] for line in lines if "  evaluation: " in line] == ["step 2/3", "step 3/3"]
    output = tmp_path / "output"
    assert (output / "training_curves.png").exists()
    assert {path.name for path in (output / "evaluation_pictures").iterdir()} == {"step-2", "step-3"}
    report = json.loads((output / "evaluation.json").read_text())
    logged = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert report["eval_pq"] == [entry for entry in logged if "eval_pq" in entry][-1]["eval_pq"]
    annotated = json.loads((shapes / "validation" / "panoptic.json").read_text())
    names = {category["id"]: category["name"] for category in annotated["categories"]}
    segments = [segment for annotation in annotated["annotations"] for segment in annotation["segments_info"]]
    assert {names[segment["category_id"]] for segment in segments} <= report["per_class"].keys()


def test_what_was_evaluated_last_is_what_an_evaluation_finds(words, shapes, tmp_path):
    metrics = run([*words, "--max_steps", "3", "--ema_decay", "0.5", "--do_train", "--do_eval"])
    again = ["--model_name_or_path", str(tmp_path / "output"), "--output_dir", str(tmp_path / "again"), "--use_cpu"]
    again += ["--validation_data", str(shapes / "validation"), "--report_to", "none", "--do_eval"]
    for name, value in run(again).items():
        if not name.endswith(("runtime", "per_second", "time", "epoch")):
            assert metrics[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_an_explicit_choice_of_when_to_evaluate_counts(words, tmp_path, capsys):
    run([*words, "--eval_strategy", "no", "--do_train", "--do_eval"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "  evaluation: " in line]
    assert len(lines) == 1  # in the end
    pictures = tmp_path / "output" / "evaluation_pictures" / "step-2"
    assert len(list(pictures.iterdir())) == 2  # drawn all the same
    run([*words, "--output_dir", str(tmp_path / "blind"), "--do_train"])  # without --do_eval
    assert "  evaluation: " not in capsys.readouterr().out


def test_a_part_of_the_pictures_is_drawn_by_chance_and_always_the_same(words, tmp_path):
    some = ["--max_train_samples", "3", "--max_eval_samples", "1", "--do_train", "--do_eval"]
    for name in ("a", "b"):
        run([*words, *some, "--output_dir", str(tmp_path / name)])
    reports = [json.loads((tmp_path / name / "data_report.json").read_text()) for name in ("a", "b")]
    assert reports[0] == reports[1]
    assert (reports[0]["train"]["pictures"], reports[0]["validation"]["pictures"]) == (3, 1)


def test_a_training_that_gets_no_better_ends(words, tmp_path, capsys):
    still = ["--learning_rate", "0", "--mask_annealing", "false", "--max_steps", "20", "--eval_strategy", "steps"]
    run([*words, *still, "--eval_steps", "1", "--early_stopping_patience", "2", "--do_train"])
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    assert state["global_step"] == 3


def test_the_best_model_is_kept_without_saying_when_to_evaluate_and_save(words, tmp_path):
    run([*words, "--max_steps", "4", "--save_strategy", "best", "--do_train", "--do_eval"])
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    assert len(list((tmp_path / "output").glob("checkpoint-*"))) >= 1 and state["best_metric"] is not None
    best = ["--load_best_model_at_end", "--save_strategy", "epoch", "--output_dir", str(tmp_path / "best")]
    run([*words, *best, "--max_steps", "4", "--do_train", "--do_eval"])
    state = json.loads((tmp_path / "best" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_pq" in entry][:2] == [2, 4]


def test_the_hubs_token_is_in_no_file_of_a_run(words, tmp_path, capsys):
    run([*words, "--do_train", "--report_to", "tensorboard", "--save_strategy", "steps", "--hub_token", "hf_secret"])
    files = [path for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"training_args.bin", "README.md"}
    assert any("tfevents" in path.name for path in files)
    for path in files:
        assert b"hf_secret" not in path.read_bytes(), path
    printed = capsys.readouterr()
    assert "hf_secret" not in printed.out + printed.err


def test_data_are_checked_on_top_of_a_published_recipe(shapes, capsys):
    recipe = [
        "--recipe",
        "coco_panoptic_eomt_large_640_dinov2",
    ]  # fp16, evaluation after each epoch, a model of the Hub
    run([*recipe, "--check_data", "--train_data", str(shapes / "train")])
    assert "4 images for panoptic segmentation" in capsys.readouterr().out
    run_segmentation.command([*recipe, "--check_data", "--dataset", str(shapes)])
    assert "2 images for panoptic segmentation" in capsys.readouterr().out


def test_what_is_odd_is_said_before_the_first_step(words, tmp_path, capsys):
    described = json.dumps({**TINY_MODEL, "num_queries": 1})
    annealing = ["--mask_annealing_starts", "0", "--mask_annealing_ends", "10"]
    run_segmentation.command([*words, "--model_config", described, *annealing, "--do_train"])
    printed = capsys.readouterr()
    warnings = [line for line in printed.err.splitlines() if line.startswith("warning: ")]
    assert warnings[0] == "warning: --model_config is given 2 times: the last one counts."
    assert "more segments than the 1 that the model can find" in warnings[1]
    assert "Masks are left when the training ends after 2 steps" in warnings[2]
    assert len(warnings) == 3


class Failing(transformers.TrainerCallback):
    """A tracker whose library raises an error of its own, as for want of an account."""

    def on_train_begin(self, *args, **kwargs):
        raise type("UsageError", (Exception,), {"__module__": "tensorboard.errors"})("no account.\nlog in first")


def test_a_tracker_that_fails_is_one_line(words, monkeypatch, capsys):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Failing)
    with pytest.raises(SystemExit) as ended:
        run_segmentation.command([*words, "--do_train", "--report_to", "tensorboard"])
    assert ended.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "error: tensorboard, which --report_to names: no account. log in first"


def test_the_same_seed_gives_the_same_model(words, tmp_path):
    for name in ("a", "b"):
        run([*words, "--output_dir", str(tmp_path / name), "--do_train"])
    models = [EomtForUniversalSegmentation.from_pretrained(tmp_path / name) for name in ("a", "b")]
    for (name, parameter), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert parameter.equal(other), name


def test_fine_tuning_on_other_classes_keeps_the_rest_of_the_model(words, tmp_path):
    run([*words, "--do_train"])
    data = generate_shapes_dataset(tmp_path / "other", 2, 0, 0, image_size=64) / "train"
    content = json.loads((data / "panoptic.json").read_text())
    content["categories"].append({"id": 99, "name": "sand", "isthing": 0})
    (data / "panoptic.json").write_text(json.dumps(content))
    at = words.index("--model_config")
    fine_tune = [*words[:at], *words[at + 2 :], "--model_name_or_path", str(tmp_path / "output")]
    fine_tune += ["--train_data", str(data), "--output_dir", str(tmp_path / "tuned"), "--learning_rate", "0"]
    run([*fine_tune, "--do_train"])
    before = EomtForUniversalSegmentation.from_pretrained(tmp_path / "output")
    after = EomtForUniversalSegmentation.from_pretrained(tmp_path / "tuned")
    assert after.config.num_labels == 11 and after.config.id2label[10] == "sand"
    assert after.query.weight.equal(before.query.weight)


def test_an_output_folder_is_not_overwritten_without_being_asked(words, tmp_path):
    keepsake = tmp_path / "output" / "keepsake.txt"
    keepsake.parent.mkdir()
    keepsake.write_text("dear to me")
    with pytest.raises(FileExistsError, match=r"output already holds something.*--overwrite_output_dir"):
        run([*words, "--do_train"])
    assert [file.name for file in keepsake.parent.iterdir()] == ["keepsake.txt"]
    run([*words, "--do_train", "--overwrite_output_dir"])
    assert keepsake.read_text() == "dear to me" and (keepsake.parent / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "Nothing to do"),
        (["--do_train", "--model_name_or_path", "some/model"], "give one"),
        (["--do_train", "--image_size", "65"], "image_size=65 is not divisible by patch_size=16"),
        (["--do_train", "--train_data", "nowhere"], "nowhere"),
        (["--do_train", "--warmup_steps", "10"], "new_parameters_warmup_steps"),
        (["--do_train", "--lr_scheduler_type", "cosine"], "poly_power"),
        (["--do_train", "--scale_range", "1.0"], "scale_range"),
        (["--do_train", "--metric_for_best_model", "miou"], "miou is not measured for panoptic .* pq, sq"),
        (["--do_train", "--resume_from_checkpoint", "true"], "no complete checkpoint"),
        (["--do_predict", "--model_name_or_path", "x", "--model_config", "{}", "--num_queries", "3"], "num_queries"),
        (["--do_predict", "--predict_data", "nowhere"], "--model_name_or_path names one"),
        (["--do_train", "--threshold", "0.5"], "--threshold is for --do_predict"),
        (["--do_train", "--do_predict", "--top_k", "5"], "--top_k has no effect on panoptic segmentation"),
        (["--do_train", "--num_queries", "0"], "--num_queries 0: there must be at least one"),
        (["--do_train", "--do_eval", "--per_device_eval_batch_size", "0"], "--per_device_eval_batch_size 0"),
        (["--do_train", "--max_steps", "0"], "--max_steps 0"),
        (["--do_train", "--validation_data", "/no/where"], "--validation_data /no/where: there is no such file"),
        (
            ["--do_predict", "--model_name_or_path", "./x", "--model_config", "{}"],
            "--model_name_or_path ./x: there is",
        ),
        (["--do_train", "--save_steps", "-1"], "--save_steps -1"),
        (["--do_train", "--resume_from_checkpoint", "nowhere"], "nowhere: there is no such folder"),
        (["--do_train", "--output_dir", "/dev/null/output"], "/dev/null is a file: choose another"),
        (["--do_train", "--push_to_hub"], "--push_to_hub needs a token"),
        (["--do_train", "--report_to", "weather"], "report_to=weather: there is no such tracker"),
        (["--do_train", "--optim", "adam_and_eve"], "adam_and_eve is not a valid OptimizerNames"),
        (["--do_train", "--fp16"], "fp16 needs an accelerator"),
        (["--do_train", "--data_seed", "3"], "data_seed=3 has no effect"),
        (["--do_train", "--mask_annealing_starts", "0", "1", "--mask_annealing_ends", "1", "2"], "has 1 query blocks"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(words, extra, message):
    with pytest.raises((ValueError, OSError), match=message):
        run([*words, *extra])


@pytest.mark.parametrize("needs", [["--load_best_model_at_end"], ["--early_stopping_patience", "2"], ["--do_eval"]])
def test_what_needs_validation_data_is_refused_without(words, needs):
    with pytest.raises(ValueError, match="--validation_data is missing"):
        run([*without(words, "validation_data"), "--do_train", *needs])


def test_the_output_folder_has_to_be_named(words):
    with pytest.raises(ValueError, match="--output_dir is missing"):
        run([*without(words, "output_dir"), "--do_train"])


def test_a_model_without_the_datas_classes_is_not_evaluated(words, tmp_path, tiny_config):
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path / "cats")
    EomtImageProcessor(size=64).save_pretrained(tmp_path / "cats")
    with pytest.raises(ValueError, match=r"Category 'balloon' is not a class of the model .*cat, dog, sky"):
        run([*words, "--do_eval", "--model_name_or_path", str(tmp_path / "cats"), "--model_config", "{}"])


def test_predictions_that_cannot_be_made_are_refused_before_training(words, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run([*words, "--do_train", "--do_predict", "--predict_data", "nowhere"])
    assert not (tmp_path / "output").exists()


def test_results_are_not_overwritten_without_being_asked(words, tmp_path):
    run([*words, "--do_train"])
    at = words.index("--model_config")
    again = [*words[:at], *words[at + 2 :], "--model_name_or_path", str(tmp_path / "output")]
    again += ["--output_dir", str(tmp_path / "results"), "--do_eval"]
    run(again)
    with pytest.raises(FileExistsError, match=r"evaluation\.json already holds something"):
        run(again)
    run([*again, "--overwrite_output_dir"])


def test_stuff_comes_from_the_data_where_the_checkpoint_does_not_know(words, tmp_path):
    run([*words, "--do_train"])
    settings = tmp_path / "output" / "preprocessor_config.json"
    content = json.loads(settings.read_text())
    assert content.pop("stuff_classes") == [1, 5, 6, 7, 9]
    settings.write_text(json.dumps(content))
    at = words.index("--model_config")
    again = [*words[:at], *words[at + 2 :], "--model_name_or_path", str(tmp_path / "output")]
    metrics = run([*again, "--output_dir", str(tmp_path / "results"), "--do_eval"])
    assert "eval_pq_stuff" in metrics and not math.isnan(metrics["eval_pq_stuff"])


def test_fine_tuning_at_another_size_changes_the_models_size(words, tmp_path):
    run([*words, "--do_train"])
    at = words.index("--model_config")
    tune = [*words[:at], *words[at + 2 :], "--model_name_or_path", str(tmp_path / "output")]
    run([*tune, "--output_dir", str(tmp_path / "tuned"), "--image_size", "96", "--do_train"])
    theirs = transformers.EomtForUniversalSegmentation.from_pretrained(tmp_path / "tuned")
    assert theirs.config.image_size == 96
    assert EomtImageProcessor.from_pretrained(tmp_path / "tuned").size["longest_edge"] == 96
    theirs(torch.zeros(1, 3, 96, 96))


@pytest.mark.parametrize("kind", ["Dinov2WithRegisters", "DINOv3ViT"])
def test_a_pretrained_vit_becomes_the_backbone_of_a_new_model(words, tmp_path, kind):
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    vit = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))
    vit.save_pretrained(tmp_path / "vit")
    at = words.index("--model_config")
    words = [*words[:at], *words[at + 2 :]]
    run([*words, "--model_name_or_path", str(tmp_path / "vit"), "--do_train"])
    family = "Eomt" if kind == "Dinov2WithRegisters" else "EomtDinov3"
    trained = getattr(transformers, f"{family}ForUniversalSegmentation").from_pretrained(tmp_path / "output")
    assert trained.config.image_size == 64 and trained.config.id2label[0] == "balloon"
    # ... and that model is evaluated as any other.
    evaluate = [*words, "--model_name_or_path", str(tmp_path / "output"), "--output_dir", str(tmp_path / "evaluated")]
    assert run([*evaluate, "--do_eval"])["eval_pq"] >= 0
    with pytest.raises(ValueError, match="Only an EoMT model can be used without --do_train"):
        run([*evaluate, "--model_name_or_path", str(tmp_path / "vit"), "--overwrite_output_dir", "--do_eval"])


@pytest.mark.parametrize(
    ("name", "patch_size", "model_type"),
    [("eva02_tiny_patch14_224", 14, "eomt_eva02"), ("deit3_small_patch16_224", 16, "eomt")],
)
def test_a_vit_of_timm_becomes_the_backbone_of_a_new_model(words, tmp_path, name, patch_size, model_type):
    timm = pytest.importorskip("timm")
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 4 * patch_size}
    vit = timm.create_model(name, pretrained=False, **sizes)
    timm.models.save_for_hf(vit, tmp_path / "vit", safe_serialization=True)
    at = words.index("--model_config")
    words = [*words[:at], *words[at + 2 :]]
    run([*words, "--model_name_or_path", str(tmp_path / "vit"), "--do_train"])
    output = str(tmp_path / "output")
    trained = MODEL_CLASSES[model_type].from_pretrained(output)
    assert trained.config.image_size == 64 and trained.config.id2label[0] == "balloon"
    processor = EomtImageProcessor.from_pretrained(output)
    assert tuple(processor.image_mean) == vit.pretrained_cfg["mean"]
    assert tuple(processor.image_std) == vit.pretrained_cfg["std"]
    evaluate = [*words, "--model_name_or_path", output, "--output_dir", str(tmp_path / "evaluated")]
    assert run([*evaluate, "--do_eval", "--do_predict"])["eval_pq"] >= 0


def test_images_are_normalised_as_those_of_the_backbones_pre_training(words, tmp_path):
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
    vit = transformers.ViTModel(transformers.ViTConfig(**settings, patch_size=16, intermediate_size=64))
    vit.save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path / "vit")
    at = words.index("--model_config")
    run([*words[:at], *words[at + 2 :], "--model_name_or_path", str(tmp_path / "vit"), "--do_train"])
    processor = EomtImageProcessor.from_pretrained(tmp_path / "output")
    assert list(processor.image_mean) == [0.5] * 3 and list(processor.image_std) == [0.25] * 3


def test_a_stopped_training_is_continued_on_request(words, tmp_path, capsys):
    steps = [*words, "--do_train", "--logging_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    steps += ["--max_steps", "3"]
    run(steps)
    (tmp_path / "output" / "checkpoint-2" / "trainer_state.json").unlink()
    (tmp_path / "output" / "checkpoint-3" / "trainer_state.json").write_text("{")
    capsys.readouterr()
    run([*steps, "--resume_from_checkpoint", "true"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line and line.startswith("step")]
    assert [line.split("  ")[0] for line in lines if "evaluation" not in line] == ["step 2/3", "step 3/3"]
    assert (tmp_path / "output" / "checkpoint-3").exists()
    with pytest.raises(
        ValueError, match=r"checkpoint-3 is of another training:\n  num_queries: 8 there, 5 now\nResume"
    ):
        described = json.dumps({**TINY_MODEL, "num_queries": 5})
        run([*steps, "--resume_from_checkpoint", "true", "--model_config", described])
    with pytest.raises(ValueError, match=r"checkpoint-3 is of another training:\n  steps: 3 there, 4 now"):
        run([*steps, "--max_steps", "4", "--resume_from_checkpoint", "true"])


@pytest.mark.slow
def test_two_processes_measure_what_one_does(words, tmp_path):
    """Three pictures on two processes, one of which has nothing to do in the last step."""
    run([*words, "--do_train", "--max_steps", "20", "--learning_rate", "0.003", "--max_grad_norm", "1"])
    data = generate_shapes_dataset(tmp_path / "three", 0, 3, 0, image_size=64) / "validation"
    results = []
    for processes in (1, 2):
        output = tmp_path / f"results{processes}"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command += ["--standalone", "run_segmentation.py", "--do_eval", "--use_cpu", "true"]
        command += ["--model_name_or_path", str(tmp_path / "output"), "--validation_data", str(data)]
        command += ["--output_dir", str(output), "--per_device_eval_batch_size", "1", "--report_to", "none"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
        results.append(json.loads((output / "evaluation.json").read_text()))
    assert results[0]["eval_pq"] == pytest.approx(results[1]["eval_pq"], abs=1e-6)
    assert results[0]["per_class"] == results[1]["per_class"]
    assert results[0]["confusion_matrix"] == results[1]["confusion_matrix"]


KILLED_WHILE_SAVING = """
import os, signal, sys
import run_segmentation
from training_eomt.trainer import EomtTrainer
save = EomtTrainer._save_optimizer_and_scheduler
def killed(self, folder):
    if folder.endswith("checkpoint-2"):
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder)
EomtTrainer._save_optimizer_and_scheduler = killed
run_segmentation.main(run_segmentation.parse_arguments(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written_the_next_start_says_so_and_goes_on_from_the_one_before(words, tmp_path):
    steps = [*words, "--do_train", "--max_steps", "3", "--save_strategy", "steps", "--save_steps", "1"]
    run([*steps, "--output_dir", str(tmp_path / "never_stopped")])
    stopped = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, *steps], cwd=ROOT, capture_output=True)
    assert stopped.returncode == -signal.SIGKILL
    assert (tmp_path / "output" / "checkpoint-2" / "model.safetensors").exists()
    command = [sys.executable, "run_segmentation.py", *steps, "--resume_from_checkpoint", "true"]
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "checkpoint-2 is not complete: the training was killed while it was being written" in resumed.stderr
    assert "step 1/3" not in resumed.stdout and "step 2/3" in resumed.stdout
    assert (tmp_path / "output" / "checkpoint-2" / "trainer_state.json").is_file()
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("never_stopped", "output")]
    for name, expected in weights[0].items():
        assert weights[1][name].equal(expected), name


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Label maps of two classes, 255 where there is none: `train/` and `val/` with `images/` and `masks/`."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 5), ("val", 3)):
        for folder in ("images", "masks"):
            (tmp_path / "photographs" / split / folder).mkdir(parents=True)
        for index in range(number):
            classes = np.zeros((40, 64), dtype=np.uint8)
            classes[:, rng.integers(10, 50) :] = 1
            classes[:3] = 255
            colours = np.where(classes[..., None] == 1, (200, 60, 40), (40, 90, 200)).astype(np.uint8)
            Image.fromarray(colours).save(tmp_path / "photographs" / split / "images" / f"{index}.png")
            Image.fromarray(classes).save(tmp_path / "photographs" / split / "masks" / f"{index}.png")
    (tmp_path / "photographs" / "classes.txt").write_text("sky\nroof\n")
    return tmp_path / "photographs"


def without(words: list[str], *names: str) -> list[str]:
    """The command line less some arguments and their values."""
    pairs = list(zip(words[::2], words[1::2], strict=True))
    return [word for pair in pairs if pair[0].removeprefix("--") not in names for word in pair]


def test_label_maps_are_learnt_measured_and_predicted_as_semantic_segmentation(words, photographs, tmp_path):
    words = without(words, "train_data", "validation_data", "predict_data")
    words += ["--dataset", str(photographs), "--predict_data", str(photographs / "val" / "images")]
    words += ["--max_steps", "30", "--learning_rate", "3e-3", "--max_grad_norm", "1", "--ema_decay", "0.9"]
    metrics = run([*words, "--scale_range", "1", "1", "--do_train", "--do_eval", "--do_predict"])
    assert metrics["eval_miou"] > 0.6
    model = EomtForUniversalSegmentation.from_pretrained(tmp_path / "output")
    assert model.config.id2label == {0: "sky", 1: "roof"}
    assert EomtImageProcessor.from_pretrained(tmp_path / "output").task == "semantic"
    report = json.loads((tmp_path / "output" / "data_report.json").read_text())
    assert (report["train"]["pictures"], report["validation"]["pictures"]) == (5, 3)
    with Image.open(tmp_path / "output" / "predictions" / "label_maps" / "0.png") as predicted:
        assert predicted.size == (64, 40) and set(np.unique(np.asarray(predicted))) <= {0, 1}


def test_things_of_panoptic_data_are_learnt_as_instances(words, tmp_path):
    metrics = run([*words, "--task", "instance", "--do_train", "--do_eval", "--do_predict"])
    assert {"eval_ap", "eval_ap50", "eval_ap_small"} <= set(metrics)
    model = EomtForUniversalSegmentation.from_pretrained(tmp_path / "output")
    assert list(model.config.id2label.values()) == list(THINGS)
    assert (tmp_path / "output" / "predictions" / "instances.json").exists()


def test_a_checkpoint_is_used_for_its_own_task(words, tmp_path):
    run([*words, "--task", "semantic", "--do_train"])
    again = [*without(words, "model_config", "image_size"), "--model_name_or_path", str(tmp_path / "output")]
    assert "eval_miou" in run([*again, "--output_dir", str(tmp_path / "results"), "--do_eval"])


def test_without_validation_data_a_part_of_the_training_data_is_set_apart(words, tmp_path):
    metrics = run([*without(words, "validation_data"), "--train_val_split", "0.25", "--do_train", "--do_eval"])
    report = json.loads((tmp_path / "output" / "data_report.json").read_text())
    assert (report["train"]["pictures"], report["validation"]["pictures"]) == (3, 1)
    assert "eval_pq" in metrics


def test_what_is_set_apart_is_never_trained_on_whether_it_is_measured_or_not(words, tmp_path):
    run([*without(words, "validation_data"), "--train_val_split", "1", "--do_train"])
    report = json.loads((tmp_path / "output" / "data_report.json").read_text())
    assert report["train"]["pictures"] == 3


def test_data_without_a_validation_split_are_not_measured_on_what_was_trained_on(words, shapes):
    whole = [*without(words, "train_data", "validation_data"), "--dataset", str(shapes / "train"), "--do_train"]
    with pytest.raises(ValueError, match=r"has no validation split.*--train_val_split"):
        run([*whole, "--do_eval"])
    run(whole)


def test_a_folder_without_a_model_is_no_reason_to_make_one(words, tmp_path):
    (tmp_path / "killed" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "killed" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    begin = [*without(words, "model_config"), "--model_name_or_path", str(tmp_path / "killed"), "--do_train"]
    with pytest.raises(ValueError, match=r"killed holds no model.*Did you mean .*checkpoint-3"):
        run(begin)


def test_an_overwritten_run_leaves_nothing_that_could_be_taken_for_the_new_one(words, tmp_path, monkeypatch):
    saving = [*words, "--do_train", "--save_strategy", "steps", "--save_steps", "1", "--overwrite_output_dir"]
    everything = ["--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1", "--do_eval", "--do_predict"]
    run([*saving, *everything, "--max_steps", "3", "--report_to", "tensorboard"])
    output = tmp_path / "output"
    (output / "keepsake.txt").write_text("dear to me")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EomtTrainer, "train", killed)
        run([*saving, "--max_steps", "2"])
    assert [path.name for path in output.iterdir()] == ["keepsake.txt"]
    run([*saving, "--max_steps", "2"])
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert not (output / "evaluation.json").exists()


@pytest.mark.parametrize("needed", ["model", "checkpoint", "data"])
def test_what_a_run_needs_is_not_overwritten_by_it(words, shapes, tmp_path, needed):
    run([*words, "--do_train", "--save_strategy", "steps", "--save_steps", "2"])
    output = tmp_path / "output"
    source = {"model": output, "checkpoint": output / "checkpoint-2", "data": output / "runs" / "train"}[needed]
    again = [*without(words, "model_config"), "--do_train", "--overwrite_output_dir"]
    if needed == "data":
        shutil.copytree(shapes / "train", source)
        again = [*words, "--do_train", "--overwrite_output_dir", "--train_data", str(source)]
    else:
        again += ["--model_name_or_path", str(source)]
    with pytest.raises(ValueError, match=rf"would delete {source}"):
        run(again)
    assert (output / "model.safetensors").exists()


def test_new_pictures_are_found_whatever_the_format_of_the_other_data(words, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "pictures" / "red.jpg")
    words = [*without(words, "predict_data"), "--predict_data", str(tmp_path / "pictures")]
    run([*words, "--dataset_format", "coco_panoptic", "--do_train", "--do_predict"])
    assert (tmp_path / "output" / "predictions" / "overlays" / "red.overlay.png").exists()
    picture = str(tmp_path / "pictures" / "red.jpg")
    run([*words, "--predict_data", picture, "--do_train", "--do_predict", "--output_dir", str(tmp_path / "single")])
    assert (tmp_path / "single" / "predictions" / "overlays" / "red.overlay.png").exists()
    with pytest.raises(ValueError, match=r"lies in .*pictures"):
        run([*words, "--output_dir", str(tmp_path / "pictures" / "out"), "--do_train", "--do_predict"])


def test_pictures_none_of_which_can_be_read_are_an_error(words, tmp_path):
    run([*words, "--do_train"])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    again = ["--model_name_or_path", str(tmp_path / "output"), "--predict_data", str(tmp_path / "pictures")]
    with pytest.raises(ValueError, match=r"No image could be segmented[\s\S]*broken.jpg"):
        run([*again, "--output_dir", str(tmp_path / "found"), "--use_cpu", "true", "--do_predict"])


def test_a_threshold_decides_what_is_predicted_and_belongs_to_the_predictions(words, tmp_path, capsys):
    run([*words, "--do_train"])
    again = without(words, "model_config", "image_size", "train_data", "validation_data")
    again += [
        "--model_name_or_path",
        str(tmp_path / "output"),
        "--output_dir",
        str(tmp_path / "found"),
        "--do_predict",
    ]
    run([*again, "--threshold", "1"])
    assert "2 of them have no segments. Warning: that is all of them" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"image_processor\.threshold: 1\.0 there, 0\.0 now"):
        run([*again, "--threshold", "0"])
    run([*again, "--threshold", "0", "--overlap_mask_area_threshold", "0", "--overwrite_output_dir"])
    annotations = json.loads((tmp_path / "found" / "predictions" / "panoptic.json").read_text())["annotations"]
    assert all(annotation["segments_info"] for annotation in annotations)
    assert EomtImageProcessor.from_pretrained(tmp_path / "output").threshold == 0.8  # the model's own stays


def test_a_prediction_that_is_stopped_says_that_it_can_go_on(words, tmp_path, monkeypatch):
    run([*words, "--do_train"])
    again = without(words, "model_config", "image_size", "train_data", "validation_data")
    again += [
        "--model_name_or_path",
        str(tmp_path / "output"),
        "--output_dir",
        str(tmp_path / "found"),
        "--do_predict",
    ]

    def stop(*args, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EomtForUniversalSegmentation, "forward", stop)
        with pytest.raises(
            KeyboardInterrupt, match=r"stopped: .*found/predictions\. The same command goes on from there"
        ):
            run(again)
    run(again)
    assert json.loads((tmp_path / "found" / "predictions" / "summary.json").read_text())["num_segmented"] == 2


def test_the_data_can_be_looked_at_without_training(words, photographs, tmp_path, capsys):
    run(["--dataset", str(photographs), "--check_data", "--use_cpu", "true"])
    printed = capsys.readouterr().out
    assert "5 images for semantic segmentation" in printed and "roof" in printed
    assert not (tmp_path / "output").exists()


def test_how_the_data_are_to_be_read_is_said_on_the_command_line(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)
    drawn = np.zeros((40, 60), np.uint8)
    drawn[:10] = 255
    Image.fromarray(drawn).save(tmp_path / "masks" / "a.png")
    (tmp_path / "values.yaml").write_text("0: background\n255: lesion\n")
    check = ["--train_data", str(tmp_path), "--check_data", "--use_cpu", "true"]
    table = ["--label_values", str(tmp_path / "values.yaml")]
    run(check)
    printed = capsys.readouterr().out
    assert "25.0% of the pixels are void" in printed and "--label_values" in printed and "--exif stored" in printed
    run([*check, *table, "--exif", "upright", "--max_image_pixels", "2400"])
    printed = capsys.readouterr().out
    assert re.search(r"lesion +1 +1", printed) and "0.0% of the pixels are void" in printed
    assert "--label_values" not in printed and "--exif" not in printed
    with pytest.raises(ValueError, match=r"a\.png has 40x60 pixels .* no more than 2,399"):
        run([*check, *table, "--max_image_pixels", "2399"])
    with pytest.raises(ValueError, match="--max_image_pixels 0: it must be a whole number from 1"):
        run([*check, "--max_image_pixels", "0"])
    with pytest.raises(ValueError, match="class_names and label_values both"):
        run([*check, *table, "--class_names", str(tmp_path / "values.yaml")])


def test_what_cannot_be_used_is_an_error_with_its_file_or_left_out_on_request(words, photographs, capsys):
    truncated = photographs / "train" / "images" / "2.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    check = ["--dataset", str(photographs), "--check_data", "--use_cpu", "true"]
    with pytest.raises(ValueError, match=r"1 samples.* cannot be used[\s\S]*images/2\.png cannot be decoded"):
        run(check)
    run([*check, "--skip_bad_samples"])
    assert re.search(r"4 images.*left out: 1\n.*images/2\.png cannot be decoded", capsys.readouterr().out, re.DOTALL)
    words = without(words, "train_data", "validation_data", "predict_data")
    run([*words, "--dataset", str(photographs), "--skip_bad_samples", "--do_train"])


def test_the_card_of_a_run_says_what_was_done_and_found(words, tmp_path):
    run([*words, "--do_train", "--do_eval", "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1"])
    card = (tmp_path / "output" / "README.md").read_text()
    assert "| train | 4 | 0 | 0 |" in card and "| Images per step | 2 |" in card
    assert "![Loss and pq over the training](training_curves.png)" in card
    assert re.search(r"\| balloon \| [01]\.\d{3} \|", card)
    data = ModelCard(card).data
    assert {result.metric_type for result in data.eval_results} >= {"pq", "sq", "rq"}
    with Image.open(tmp_path / "output" / "training_curves.png") as curves:
        assert curves.width == 1000


def test_a_disk_that_is_too_small_is_noticed_before_training(words, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"output has 0 MB free.*--save_total_limit"):
        run([*words, "--do_train"])


@pytest.mark.parametrize("what", ["--do_train", "--do_eval", "--do_predict"])
def test_a_place_where_nothing_can_be_written_is_named_before_anything_is_read(words, tmp_path, what):
    (tmp_path / "file").write_text("no folder")
    words = [
        *without(words, "output_dir", "train_data", "model_config"),
        "--output_dir",
        str(tmp_path / "file" / "out"),
    ]
    with pytest.raises(OSError, match=r"file is a file: choose another folder than .*file/out"):
        run([*words, "--train_data", "nowhere", "--model_name_or_path", "nothing", what])


def test_the_end_of_an_evaluation_is_a_table_of_the_classes_and_says_where_all_figures_are(words, tmp_path, capsys):
    run([*words, "--do_train", "--do_eval"])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "output" / "evaluation.json").read_text())
    for name, values in report["per_class"].items():
        assert re.search(rf"^{name} +{values['pq']:.3f} +{values['sq']:.3f}", printed, re.MULTILINE)
        assert {"pq", "sq", "rq", "tp", "fp", "fn"} == values.keys() and max(values["sq"], values["rq"]) <= 1
    assert f"All figures: {tmp_path / 'output' / 'evaluation.json'}" in printed
    matrix = report["confusion_matrix"]
    assert [len(row) for row in matrix["pixels"]] == [11] * 10 and matrix["classes"][0] == "balloon"
    assert (tmp_path / "output" / "confusion_matrix.csv").is_file()
    assert "](confusion_matrix.png)" in (tmp_path / "output" / "README.md").read_text()


@pytest.mark.slow
def test_the_demos_recipe_learns_within_a_few_steps(tmp_path):
    """A tenth of the demo: where things are and which ground they lie on is learnt first."""
    data = generate_shapes_dataset(tmp_path / "shapes", 200, 40, 0, image_size=192)
    arguments = {"train_data": data / "train", "validation_data": data / "validation", "output_dir": tmp_path / "demo"}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    recipe = ["--recipe", str(ROOT / "recipes" / "shapes_demo.yaml"), "--max_steps", "60", "--use_cpu", "true"]
    metrics = run([*recipe, *words, "--do_train", "--do_eval"])
    assert metrics["eval_pq_stuff"] > 0.65 and metrics["eval_pq_things"] > 0.05


def test_errors_are_one_line_for_the_reader_and_a_failure_for_the_shell(tmp_path):
    command = [sys.executable, "run_segmentation.py", "--do_train", "--output_dir", str(tmp_path / "output")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == "error: --train_data is missing."
    assert "Traceback" not in result.stderr


TWO_PROCESSES = """
import os, sys
import run_segmentation
from training_eomt import inputs
if os.environ["RANK"] == "1":
    def broken(self, index):
        raise ValueError("street/1.jpg cannot be decoded")
    inputs.TrainingInputs.__getitem__ = broken
run_segmentation.command(sys.argv[1:])
"""


@pytest.mark.slow
def test_of_several_processes_the_one_that_fails_says_why_and_the_others_end_in_a_line(words, tmp_path):
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += [
        "--redirects",
        "3",
        "--log-dir",
        str(tmp_path / "logs"),
        str(tmp_path / "run.py"),
        *words,
        "--do_train",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode != 0
    errors = {path.parent.name: path.read_text() for path in (tmp_path / "logs").rglob("stderr.log")}
    assert "error: street/1.jpg cannot be decoded" in errors["1"].splitlines()
    assert all("Traceback" not in text for text in errors.values()), errors


@pytest.mark.parametrize("error", [ValueError("no images"), KeyboardInterrupt("stopped after step 3")])
def test_sigterm_does_not_keep_a_command_from_saying_why_it_ends(monkeypatch, words, error):
    """A launcher sends it as soon as another process has failed: here while the line is about to be printed."""

    class Stream(io.StringIO):
        def write(self, text):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().write(text)

    def fail(arguments):
        monkeypatch.setattr(sys, "stderr", Stream())
        raise error

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run_segmentation, "main", fail)
    with pytest.raises(SystemExit):
        run_segmentation.command([*words, "--do_train"])
    assert str(error) in sys.stderr.getvalue()
    assert signal.getsignal(signal.SIGTERM) == handler  # which ends a process without a word while it shuts down


@pytest.mark.slow
def test_nothing_but_the_error_is_said_where_torch_was_needed_to_find_it(words):
    command = [sys.executable, "run_segmentation.py", *words, "--do_train", "--image_size", "65"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: image_size=65 is not divisible by patch_size=16"), lines

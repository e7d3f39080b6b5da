"""The one command: it trains, evaluates and draws, and says clearly what is wrong before it starts."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

import run_segmentation
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.script_arguments import parse_arguments
from training_eomt.shapes import generate_shapes_dataset


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
    pictures = sorted((output / "predictions").glob("*.png"))
    assert [picture.name for picture in pictures] == ["000000.png", "000001.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.width > 3 * 320  # input, target and prediction
    printed = capsys.readouterr().out
    assert str(output / "predictions") in printed and "trust_remote_code=True" in printed
    model = EomtForUniversalSegmentation.from_pretrained(output)
    assert model.config.id2label[0] == "circle" and model.mask_probabilities == [0.0]


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
    assert (tmp_path / "evaluation" / "predictions" / "red.png").exists()


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
    assert after.config.num_labels == 7 and after.config.id2label[6] == "sand"
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
        (["--do_predict", "--predict_data", "nowhere"], "--model_name_or_path names one"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(words, extra, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run([*words, *extra])


def test_a_model_without_the_datas_classes_is_not_evaluated(words, tmp_path, tiny_config):
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path / "cats")
    run_segmentation.EomtImageProcessor(size=64).save_pretrained(tmp_path / "cats")
    with pytest.raises(ValueError, match=r"Category 'circle' is not a class of the model .*cat, dog, sky"):
        run([*words, "--do_eval", "--model_name_or_path", str(tmp_path / "cats"), "--model_config", "{}"])


def test_predictions_that_cannot_be_made_are_refused_before_training(words, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run([*words, "--do_train", "--do_predict", "--predict_data", "nowhere"])
    assert not (tmp_path / "output").exists()


def test_results_are_not_overwritten_without_being_asked(words, tmp_path):
    run([*words, "--do_train"])
    at = words.index("--model_config")
    again = [*words[:at], *words[at + 2 :], "--model_name_or_path", str(tmp_path / "output")]
    again += ["--output_dir", str(tmp_path / "results"), "--do_eval", "--do_predict"]
    run(again)
    with pytest.raises(FileExistsError, match=r"evaluation\.json already holds something"):
        run(again)
    (tmp_path / "results" / "evaluation.json").unlink()
    with pytest.raises(FileExistsError, match=r"predictions already holds something"):
        run(again)
    run([*again, "--overwrite_output_dir"])


def test_stuff_comes_from_the_data_where_the_checkpoint_does_not_know(words, tmp_path):
    run([*words, "--do_train"])
    settings = tmp_path / "output" / "preprocessor_config.json"
    content = json.loads(settings.read_text())
    assert content.pop("stuff_classes") == [4, 5]
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
    assert run_segmentation.EomtImageProcessor.from_pretrained(tmp_path / "tuned").size["longest_edge"] == 96
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
    assert trained.config.image_size == 64 and trained.config.id2label[0] == "circle"
    # ... and that model is evaluated as any other.
    evaluate = [*words, "--model_name_or_path", str(tmp_path / "output"), "--output_dir", str(tmp_path / "evaluated")]
    assert run([*evaluate, "--do_eval"])["eval_pq"] >= 0
    with pytest.raises(ValueError, match="Only an EoMT model can be used without --do_train"):
        run([*evaluate, "--model_name_or_path", str(tmp_path / "vit"), "--overwrite_output_dir", "--do_eval"])


def test_a_stopped_training_is_continued_on_request(words, tmp_path, capsys):
    steps = [*words, "--do_train", "--logging_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    run([*steps, "--max_steps", "1"])
    capsys.readouterr()
    run([*steps, "--max_steps", "3", "--resume_from_checkpoint", "true"])
    assert capsys.readouterr().out.count("'loss'") == 2  # the second and the third step
    assert (tmp_path / "output" / "checkpoint-3").exists()


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


@pytest.mark.slow
def test_the_demos_recipe_learns_within_a_few_steps(tmp_path):
    """A tenth of the demo: where things are and which ground they lie on is learnt first."""
    data = generate_shapes_dataset(tmp_path / "shapes", 200, 40, 0)
    arguments = {"train_data": data / "train", "validation_data": data / "validation", "output_dir": tmp_path / "demo"}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    recipe = ["--recipe", str(ROOT / "recipes" / "shapes_demo.yaml"), "--max_steps", "60", "--use_cpu", "true"]
    metrics = run([*recipe, *words, "--do_train", "--do_eval"])
    assert metrics["eval_pq_stuff"] > 0.8 and metrics["eval_pq_things"] > 0.1


@pytest.mark.slow
def test_errors_are_one_line_for_the_reader_and_a_failure_for_the_shell(tmp_path):
    command = [sys.executable, "run_segmentation.py", "--do_train", "--output_dir", str(tmp_path / "output")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == "error: --train_data is missing."
    assert "Traceback" not in result.stderr

"""A card says what the run has recorded, and a person's own card stays."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from transformers import TrainerState

from training_eomt.publishing.run_card import CURVES, draw_curves, write_run_card
from training_eomt.training_arguments import EomtTrainingArguments


TERMS = {"loss_mask": 1.0, "loss_dice": 0.5, "loss_cross_entropy": 2.0}


@pytest.fixture
def folder(tmp_path):
    config = {"model_type": "eomt", "id2label": {"0": "cat", "1": "dog"}, "num_queries": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"task": "panoptic"}))
    return tmp_path


def write(folder, **changes):
    state = TrainerState(global_step=600, max_steps=600, epoch=3.0)
    state.log_history = [{"step": 10, **TERMS}, {"step": 20, "eval_pq": 0.25}, {"step": 600, "train_runtime": 90.0}]
    arguments = {"total_batch_size": 6, "per_device_train_batch_size": 3, **changes.pop("arguments", {})}
    trainer = SimpleNamespace(
        args=EomtTrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, **arguments),
        state=state,
        image_processor=SimpleNamespace(task="panoptic"),
        bare_model=SimpleNamespace(config=SimpleNamespace(num_blocks=2)),
    )
    settings = {
        "data_reports": {
            "train": {"pictures": 8, "counted_on": 8, "empty_pictures": 1, "left_out": [{"name": "a.png"}]},
            "validation": {"pictures": 2000, "counted_on": 1000, "empty_pictures": 3, "left_out": []},
        },
        "metrics": {"eval_pq": 0.5, "eval_sq": float("nan"), "eval_loss": 3.0, "eval_runtime": 1.0},
        "per_class": {"cat": {"pq": 0.25, "tp": 3}, "dog": {"pq": 0.75, "tp": 4}},
        "base_model": "me/base",
        "dataset": "pets",
        **changes,
    }
    write_run_card(trainer, **settings)
    return (folder / "README.md").read_text()


def test_the_card_says_what_was_done_and_found(folder):
    card = write(folder)
    for line in (
        "| train | 8 | 1 | 1 |",
        "| validation | 2000 | 3 of 1000 counted | 0 |",
        "| Started from | me/base |",
        "| Images per step | 6 |",
        "| Masks fade out in steps | 100-200, 400-500 |",
        "| Time | 1.5 minutes |",
        "| `learning_rate` | 0.0001 |",
        "| dog | 0.750 |",
        f"]({CURVES})",
    ):
        assert line in card
    data = ModelCard(card).data
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [("pq", 0.5)]
    assert (data.base_model, data.datasets) == ("me/base", ["pets"])
    assert (folder / CURVES).exists()


def test_figures_of_classes_are_fractions_and_names_have_no_effect(folder):
    """Neither a row more nor an image, a link or a script comes of a name."""
    name = "a|b\n| c | 9.000 |\n![x](https://x.org/x.png)<script>"
    per_class = {name: {"pq": 0.5, "sq": float("nan"), "tp": 51}, "dog": {"pq": 0.25, "sq": 0.75, "tp": 3}}
    card = write(folder, per_class=per_class, base_model="me/b|c<b>")
    rows = [line for line in card.splitlines() if line.startswith("|") and line.endswith((" - |", "0.750 |"))]
    assert len(rows) == 2 and rows[1] == "| dog | 0.250 | 0.750 |" and rows[0].endswith(" | 0.500 | - |")
    assert "<script>" not in card and "![x]" not in card and "9.000 |\n" not in card
    assert "| Started from | me/b\\|c&lt;b&gt; |" in card


def test_the_image_of_the_confusion_matrix_is_shown_where_there_is_one(folder):
    assert "confusion_matrix.png" not in write(folder)
    (folder / "confusion_matrix.png").write_bytes(b"")
    assert "](confusion_matrix.png)" in write(folder)


def test_the_time_of_a_training_that_was_resumed_is_that_of_its_last_part(folder):
    arguments = {"resume_from_checkpoint": "true"}
    assert "| Time since it was resumed | 1.5 minutes |" in write(folder, arguments=arguments)


def test_a_folder_to_start_from_is_no_model_on_the_hub(folder):
    assert ModelCard(write(folder, base_model=str(folder))).data.base_model is None


def test_without_evaluation_there_are_no_results(folder):
    card = write(folder, metrics={}, per_class={}, data_reports={})
    assert "## Results" not in card and "per class" not in card and "## Data" not in card


def test_a_persons_own_card_stays(folder):
    (folder / "README.md").write_text("# Mine\n")
    assert write(folder) == "# Mine\n"


def test_without_losses_there_are_no_curves(tmp_path):
    assert not draw_curves([{"step": 1, "eval_pq": 0.5}], "pq", tmp_path / CURVES)
    assert not (tmp_path / CURVES).exists()

"""What an evaluation has found is written whole, read back, and shown without harm."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from training_eomt.evaluation import read_evaluation
from training_eomt.script.evaluation_report import format_class_table, format_evaluation, write_evaluation


METRICS = {"eval_miou": 0.25, "eval_mean_accuracy": math.nan, "eval_loss": 3.0, "eval_runtime": 1.0, "epoch": 2.0}
PER_CLASS = {"cat": {"iou": 0.5, "accuracy": math.nan}}
# Columns as in metrics: nothing, cat, =dog
MATRIX = np.array([[1, 20, 3], [0, 4, 50]])


def test_the_report_is_json_with_null_for_what_has_no_value(tmp_path):
    write_evaluation(tmp_path, METRICS, PER_CLASS, ["cat", "=dog"], MATRIX)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {
        **METRICS,
        "eval_mean_accuracy": None,
        "per_class": {"cat": {"iou": 0.5, "accuracy": None}},
        "confusion_matrix": {"classes": ["cat", "=dog"], "pixels": [[20, 3, 1], [4, 50, 0]]},
    }


def test_the_confusion_matrix_is_a_table_without_formulas_and_an_image(tmp_path):
    names = ['c,"$at\x1b[31m\nsat', "=dog"]
    write_evaluation(tmp_path, METRICS, {}, names, MATRIX)
    with (tmp_path / "confusion_matrix.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["class / found as", 'c,"$at\\x1b[31m\\nsat', "'=dog", "(no class)"],
        ['c,"$at\\x1b[31m\\nsat', "20", "3", "1"],
        ["'=dog", "4", "50", "0"],
    ]
    with Image.open(tmp_path / "confusion_matrix.png") as image:
        assert min(image.size) > 300


def test_a_matrix_of_many_classes_is_drawn_of_those_with_most_pixels(tmp_path):
    matrix = np.zeros((847, 848), dtype=np.int64)
    matrix[np.arange(847), np.arange(847) + 1] = np.arange(847)
    write_evaluation(tmp_path, METRICS, {}, [f"class {number}" for number in range(847)], matrix)
    with Image.open(tmp_path / "confusion_matrix.png") as image:
        assert max(image.size) < 2000
    assert (tmp_path / "evaluation.json").stat().st_size < 3_000_000


def test_a_matrix_of_an_earlier_evaluation_does_not_stay(tmp_path):
    write_evaluation(tmp_path, METRICS, {}, ["cat", "dog"], MATRIX)
    write_evaluation(tmp_path, METRICS, {}, ["cat", "dog"], None)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_results_are_read_back_without_what_is_no_result(tmp_path):
    write_evaluation(tmp_path, METRICS, PER_CLASS, ["cat", "dog"], MATRIX)
    assert read_evaluation(tmp_path / "evaluation.json") == {"miou": 0.25}


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"\udcff": 1}',
        "[]",
        "null",
        "\0" * 100,
        '{"eval_pq": 0.5',
        '{"eval_pq": NaN}',
        '{"eval_pq": 1e999}',
        '{"eval_pq": "0.5"}',
        '{"eval_pq": true}',
        '{"eval_loss": 1}',
        '{"a": ' + "[" * 100_000,
    ],
)
def test_a_damaged_report_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "evaluation.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"evaluation\.json"):
        read_evaluation(tmp_path / "evaluation.json")


def test_the_table_lists_classes_from_the_best_to_the_worst_and_what_was_not_measured_last():
    per_class = {
        "dog": {"iou": 0.25, "accuracy": 0.5, "tp": 1200},
        "bird": {"iou": math.nan, "accuracy": 0.0, "tp": 0},
        "cat": {"iou": 0.75, "accuracy": math.nan, "tp": 3},
    }
    assert format_class_table(per_class).splitlines() == [
        "class    iou  accuracy     tp",
        "cat    0.750         -      3",
        "dog    0.250     0.500  1,200",
        "bird       -     0.000      0",
    ]


def test_the_table_of_many_classes_has_the_best_and_the_worst_and_says_where_all_are():
    per_class = {f"class {number}": {"iou": number / 1000} for number in range(100)}
    lines = format_class_table(per_class).splitlines()
    assert len(lines) == 42 and lines[21] == "... 60 more classes in between: evaluation.json has all of them"
    assert [line.split("  ")[0] for line in (lines[1], lines[20], lines[22], lines[41])] == [
        "class 99",
        "class 80",
        "class 19",
        "class 0",
    ]


def test_the_table_keeps_to_the_terminals_width_and_shows_no_escape_sequences():
    per_class = {name: {"iou": 0.5} for name in ("x" * 300, "a\x1b[2Jb\nc", "狗" * 50)}
    lines = format_class_table(per_class, width=40).splitlines()
    assert lines[1] == "x" * 32 + "…  0.500" and lines[2].startswith("a\\x1b[2Jb\\nc ")
    assert lines[3] == "狗" * 16 + "…  0.500"  # each takes up two columns


def test_the_headline_comes_with_the_table_and_without_what_has_no_value():
    metrics = {"eval_pq": 0.5, "eval_pq_things": 0.5, "eval_pq_stuff": math.nan}
    text = format_evaluation("panoptic", metrics, {"cat": {"pq": 0.5, "tp": 3}}, num_labels=3, width=80)
    assert text.splitlines() == [
        "class     pq  tp",
        "cat    0.500   3",
        "2 classes occur neither in the validation data nor in the predictions.",
        "",
        "Panoptic quality on the validation data: 0.500 (pq_things 0.500)",
    ]


@pytest.mark.parametrize("task, name", [("panoptic", "pq"), ("instance", "ap"), ("semantic", "miou")])
def test_where_there_is_nothing_to_find_that_is_what_is_said(task, name):
    details = ("pq_things", "pq_stuff", "ap50", "ap75", "pixel_accuracy")
    metrics = {f"eval_{name}": math.nan for name in (name, *details)}
    text = format_evaluation(task, metrics, {}, num_labels=3, width=80)
    what = {"panoptic": "segments", "instance": "instances", "semantic": "annotated pixels"}[task]
    assert text.endswith(f"was not measured: the validation data have no {what}.") and "nan" not in text

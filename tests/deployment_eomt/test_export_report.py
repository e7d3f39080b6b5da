"""The report at the end of an export: what it measures, and that an export below the bar is not written."""

import json

import numpy as np
import pytest
from PIL import Image

from configuration_eomt import EomtConfig
from deployment_eomt.report import Report, compare, compare_logits, count_same_pixels


pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def mask(*columns):
    """A mask of 1 x 10 pixels."""
    found = np.zeros((1, 10), dtype=bool)
    found[0, list(columns)] = True
    return found


@pytest.mark.parametrize(
    "second, expected",
    [
        ([(0, mask(0, 1, 2)), (0, mask(5, 6))], 1.0),
        ([(0, mask(5, 6)), (0, mask(0, 1, 2))], 1.0),  # in another order
        ([(0, mask(0, 1)), (0, mask(5, 6))], 0.9),
        ([(1, mask(0, 1, 2)), (0, mask(5, 6))], 0.7),  # of another class
        ([(0, mask(0, 1, 2, 5, 6))], 0.8),  # both in one: the smaller is lost
        ([], 0.5),
        ([(0, mask(0, 1, 2)), (0, mask(5, 6)), (2, mask(6, 7))], 0.8),  # one too many
    ],
)
def test_pixels_are_the_same_in_the_same_segments(second, expected):
    first = [(0, mask(0, 1, 2)), (0, mask(5, 6))]
    assert count_same_pixels(first, second, (1, 10)) == pytest.approx(expected)
    assert count_same_pixels(second, first, (1, 10)) == pytest.approx(expected)


def test_logits_are_compared_with_the_largest():
    masks = np.array([[[[4.0, -1.0], [1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    classes = np.array([[[2.0, 0.0], [0.0, 1.0]]])
    expected = {"masks_queries_logits": masks, "class_queries_logits": classes}
    found = {"masks_queries_logits": masks - [[[[0, 0], [2, 0]], [[0, 0], [0, 0]]]], "class_queries_logits": -classes}
    values = compare_logits(expected, found)
    assert values["logits"] == pytest.approx(2.0)  # 4 of 2, of the classes; of the masks 2 of 4
    assert values["mask_iou"] == pytest.approx(0.5)  # one pixel of two; a query without a mask does not count
    assert values["class_agreement"] == 0.0
    assert compare_logits(expected, expected) == {"logits": 0.0, "mask_iou": 1.0, "class_agreement": 1.0}
    broken = {**expected, "class_queries_logits": np.full_like(classes, np.nan)}
    assert compare_logits(expected, broken)["logits"] == np.inf


@pytest.mark.parametrize(
    "precision, values, num_failures",
    [
        ("float32", {"same_segments": 1.0, "same_pixels": 1.0, "logits": 2e-6}, 0),
        ("float32", {"same_segments": 1.0, "same_pixels": 1.0, "logits": 2e-5}, 1),
        ("float32", {"same_segments": 1.0, "same_pixels": 1.0, "logits": float("nan")}, 1),
        ("float16", {"same_segments": 0.98, "same_pixels": 0.999, "logits": 0.1}, 0),
        ("float16", {"same_segments": 0.97, "same_pixels": 0.999}, 1),
        ("int8_dynamic", {"same_segments": 0.97, "same_pixels": 0.995}, 0),
        ("int8_dynamic", {"same_segments": 0.96, "same_pixels": 0.99}, 2),
    ],
)
def test_each_precision_has_its_bar(precision, values, num_failures):
    report = Report(precision, num_images=100, num_bytes=1, mask_iou=1.0, class_agreement=1.0, **values)
    assert len(report.find_failures()) == num_failures
    assert str(report).count("BELOW THE BAR") == num_failures
    assert len(report.as_dict()["failures"]) == num_failures


@pytest.fixture
def arguments(exported, tmp_path):
    return [str(exported.checkpoint), str(tmp_path / "out")]


@pytest.mark.parametrize("kind", ["raw", "segmenter"])
def test_an_export_ends_with_a_report(arguments, tmp_path, caplog, kind):
    from deployment_eomt.__main__ import main

    main([*arguments, "--kind", kind, "--report_images", "3"])
    assert "images with the same segments  100.00%" in caplog.text
    report = json.loads((tmp_path / "out" / "export.json").read_text())["eomt"]["report"]
    assert report["num_images"] == 3
    assert report["num_bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert report["same_pixels"] == 1.0
    assert report["failures"] == []
    assert (report["logits"] is None) == (kind == "segmenter")


def test_what_is_below_the_bar_is_not_written(arguments, tmp_path, monkeypatch, caplog):
    from deployment_eomt.__main__ import main

    def damage(program, graph, precision):
        import onnx_ir

        value = next(each for each in program.graph.initializers.values() if "class_predictor.bias" in each.name)
        value.const_value = onnx_ir.tensor(value.const_value.numpy()[::-1].copy())
        return program

    monkeypatch.setattr("deployment_eomt.formats.onnx.quantize_onnx", damage)
    arguments = [*arguments, "--report_images", "3"]
    with pytest.raises(SystemExit, match="BELOW THE BAR: logits differ"):
        main(arguments)
    assert not (tmp_path / "out").exists()
    main([*arguments, "--allow_inaccurate"])
    assert "BELOW THE BAR" in caplog.text
    assert json.loads((tmp_path / "out" / "export.json").read_text())["eomt"]["report"]["failures"]


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_images_of_a_folder_are_compared_for_every_task(exported, tmp_path, task):
    from deployment_eomt.export import load_model

    checkpoint, folder = exported.for_task(tmp_path, task, threshold=0.0)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (50, 90, 3), dtype=np.uint8)) for _ in range(2)]
    report = compare(folder, *load_model(checkpoint), images)
    assert report.find_failures() == []
    assert report.num_images == 2


def test_metrics_of_a_dataset_are_those_of_the_model(tmp_path):
    from deployment_eomt import export_model
    from deployment_eomt.export import load_model
    from image_processing_eomt import EomtImageProcessor
    from modeling_eomt import EomtForUniversalSegmentation
    from training_eomt.shapes import CATEGORIES, generate_shapes_dataset

    dataset = generate_shapes_dataset(tmp_path / "shapes", 0, 3, 0, image_size=64)
    id2label = {index: category.name for index, category in enumerate(CATEGORIES)}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_blocks": 1, "num_queries": 5}
    model = EomtForUniversalSegmentation(EomtConfig(**sizes, image_size=64, id2label=id2label))
    model.set_mask_probabilities([0.0])
    model.save_pretrained(tmp_path / "model")
    EomtImageProcessor(task="semantic", size=64, do_split_image=False, do_pad=True).save_pretrained(tmp_path / "model")
    folder = export_model(tmp_path / "model", tmp_path / "out", report_images=0)
    report = compare(folder, *load_model(tmp_path / "model"), 1, dataset)
    old, new = report.metrics["miou"]
    assert old > 0
    assert new == pytest.approx(old, abs=1e-3)
    assert "miou" in str(report)


def test_no_images_are_an_error(exported):
    from deployment_eomt.export import load_model

    with pytest.raises(ValueError, match="there are none"):
        compare(exported.folder, *load_model(exported.checkpoint), [])

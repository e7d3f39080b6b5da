import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from training_eomt.metrics import PanopticQuality


@pytest.fixture
def reference_results(golden):
    return json.loads((golden / "panoptic_quality.json").read_text())


@pytest.fixture
def pairs(golden, reference_results):
    maps = load_file(golden / "panoptic_quality.safetensors")
    return [
        tuple(
            {"segmentation": maps[f"{role}.segment_map.{i}"], "segments_info": image[f"{role}_segments"]}
            for role in ("prediction", "target")
        )
        for i, image in enumerate(reference_results["images"])
    ]


def image_of(segment_map, label_ids, crowds=()):
    infos = [{"id": i, "label_id": label_id, "iscrowd": int(i in crowds)} for i, label_id in enumerate(label_ids)]
    return {"segmentation": np.asarray(segment_map), "segments_info": infos}


def test_equals_panopticapi_with_its_counts_per_class(pairs, reference_results):
    metric = PanopticQuality(reference_results["num_labels"], reference_results["stuff_classes"])
    for prediction, reference in pairs:
        metric.add(prediction=prediction, reference=reference)
    sums = metric.state()["iou"]
    result = metric.compute()
    expected = reference_results["expected"]
    # Both sum the same float64 IoUs, at most in another order.
    for group, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        for name in ("pq", "sq", "rq"):
            assert result[name + suffix] == pytest.approx(expected["summary"][group][name], abs=1e-12)
    for label_id, counts in expected["per_class"].items():
        own = result["per_class"][int(label_id)]
        assert [own[name] for name in ("tp", "fp", "fn")] == [counts[name] for name in ("tp", "fp", "fn")]
        assert sums[int(label_id)] == pytest.approx(counts["iou"], abs=1e-12)


def test_figures_of_a_class_are_fractions_and_counts():
    """Class 0: IoU 1 and 2/3 in two images, and one segment missed. Class 1: one that is not there."""
    metric = PanopticQuality(2)
    metric.add(prediction=image_of([[0, 0, 1]], [0, 1]), reference=image_of([[0, 0, -1]], [0]))
    metric.add(prediction=image_of([[0, 0, 1]], [0, 1]), reference=image_of([[0, 0, 0]], [0]))
    metric.add(prediction=image_of([[-1, -1, -1]], []), reference=image_of([[0, 0, 0]], [0]))
    per_class = metric.compute()["per_class"]
    # PQ = (1 + 2/3) / (2 + 1/2), SQ = (1 + 2/3) / 2, RQ = 2 / (2 + 1/2)
    assert per_class[0] == pytest.approx({"pq": 2 / 3, "sq": 5 / 6, "rq": 0.8, "tp": 2, "fp": 0, "fn": 1})
    # The first one lies in void, which is not held against it.
    assert per_class[1] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "tp": 0, "fp": 1, "fn": 0}


def test_the_confusion_matrix_counts_the_pixels_of_segments_by_class():
    metric = PanopticQuality(2)
    prediction = image_of([[0, 0, 1, 2, -1, 2]], [1, 1, 0])
    metric.add(prediction=prediction, reference=image_of([[0, 1, 1, 2, 2, -1]], [0, 1, 1], crowds=(2,)))
    # Columns: nothing, then classes. Class 0: one pixel, taken for 1. Class 1: four, two of them a crowd's.
    assert metric.confusion_matrix().tolist() == [[0, 0, 1], [1, 1, 2]]


def test_merged_halves_equal_the_whole(pairs):
    whole, first, second = (PanopticQuality(6, [4, 5]) for _ in range(3))
    whole.add_batch(predictions=[pair[0] for pair in pairs], references=[pair[1] for pair in pairs])
    for metric, half in ((first, pairs[:5]), (second, pairs[5:])):
        metric.add_batch(predictions=[pair[0] for pair in half], references=[pair[1] for pair in half])
    first.merge(pickle.loads(pickle.dumps(second.state())))
    merged, expected = first.compute(), whole.compute()
    assert merged["pq"] == pytest.approx(expected["pq"], abs=1e-12)
    for label_id, counts in expected["per_class"].items():
        assert merged["per_class"][label_id] == pytest.approx(counts, abs=1e-12)


def test_image_states_add_up_to_the_whole(pairs):
    metric, by_image = PanopticQuality(6, [4, 5]), PanopticQuality(6, [4, 5])
    for prediction, reference in pairs:
        metric.add(prediction=prediction, reference=reference)
    by_image.merge(*(by_image.image_state(prediction, reference) for prediction, reference in pairs))
    assert by_image.compute() == metric.compute()


def test_the_state_does_not_grow_and_is_a_copy(pairs):
    metric = PanopticQuality(6, [4, 5])
    metric.add(prediction=pairs[0][0], reference=pairs[0][1])
    state = metric.state()
    size = len(pickle.dumps(state))
    state["tp"] += 100
    assert metric.state()["tp"].max() < 100
    metric.add_batch(predictions=[pair[0] for pair in pairs], references=[pair[1] for pair in pairs])
    assert len(pickle.dumps(metric.state())) == size


def test_compute_takes_images_and_forgets_them(pairs):
    metric = PanopticQuality(6, [4, 5])
    inputs = {"predictions": [pair[0] for pair in pairs], "references": [pair[1] for pair in pairs]}
    assert metric.compute(**inputs) == metric.compute(**inputs)
    assert math.isnan(metric.compute()["pq"])


def test_tensors_count_as_arrays(pairs):
    as_array, as_tensor = PanopticQuality(6, [4, 5]), PanopticQuality(6, [4, 5])
    for prediction, reference in pairs:
        as_array.add(prediction=prediction, reference=reference)
        tensor = torch.from_numpy(prediction["segmentation"]).int()
        as_tensor.add(prediction={**prediction, "segmentation": tensor}, reference=reference)
    assert as_array.compute() == as_tensor.compute()


@pytest.mark.slow
def test_nothing_is_written_to_disk(tmp_path):
    """In a process of its own, whose home and caches are an empty folder."""
    code = (
        "import numpy as np\n"
        "from training_eomt.metrics import PanopticQuality\n"
        "image = {'segmentation': np.zeros((8, 8), int), 'segments_info': [{'id': 0, 'label_id': 1}]}\n"
        "metric = PanopticQuality(2)\n"
        "metric.add(prediction=image, reference=image)\n"
        "assert metric.compute()['pq'] == 1\n"
    )
    root = Path(__file__).resolve().parents[3]
    caches = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **caches, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    environment.pop("HF_METRICS_CACHE", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)
    # Importing `evaluate` and `datasets` may make empty folders of its own.
    assert [path for path in tmp_path.rglob("*") if path.is_file() or "panoptic" in path.name] == []


def test_an_iou_of_exactly_one_half_does_not_match():
    reference = image_of([[0, 0, 0, 1]], [0, 1])
    prediction = image_of([[0, 0, 1, 1]], [0, 1])  # IoU 2/3 with class 0 and 1/2 with class 1
    counts = PanopticQuality(2).image_state(prediction, reference)
    assert counts["iou"].tolist() == pytest.approx([2 / 3, 0])
    assert [counts[name].tolist() for name in ("tp", "fp", "fn")] == [[1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize("ignored_pixels, fp", [(2, 1), (3, 0)])
def test_a_prediction_more_than_half_in_a_crowd_of_its_class_is_no_false_positive(ignored_pixels, fp):
    row = np.array([[0] * ignored_pixels + [1] * (8 - ignored_pixels)])
    reference = image_of(row, [0, 1], crowds=(0,))
    prediction = image_of([[0] * 4 + [1] * 4], [0, 1])
    counts = PanopticQuality(2).image_state(prediction, reference)
    assert counts["fp"][0] == fp and counts["fn"][0] == 0 and counts["tp"][1] == 1


@pytest.mark.parametrize("ignored_pixels, fp", [(2, 1), (3, 0)])
def test_a_prediction_more_than_half_in_void_is_no_false_positive(ignored_pixels, fp):
    row = np.array([[-1] * ignored_pixels + [0] * (8 - ignored_pixels)])
    counts = PanopticQuality(2).image_state(image_of([[0] * 4 + [1] * 4], [1, 0]), image_of(row, [0]))
    assert counts["fp"][1] == fp


def test_empty_predictions_and_references_are_legal():
    empty, full = image_of(np.full((4, 4), -1), []), image_of(np.zeros((4, 4), int), [1])
    missed = PanopticQuality(2).compute(predictions=[empty], references=[full])
    assert missed["pq"] == 0 and missed["per_class"][1]["fn"] == 1
    assert PanopticQuality(2).compute(predictions=[full], references=[empty])["per_class"] == {}


@pytest.mark.parametrize(
    "prediction, message",
    [
        (image_of(np.zeros((3, 4), int), [0]), r"\(4, 4\).*\(3, 4\)"),
        (image_of(np.full((4, 4), 7), []), r"prediction's map holds segment ids \[7\]"),
        (image_of(np.zeros((4, 4), int), [0, 1]), r"prediction's segments \[1\].*no pixels"),
        (image_of(np.zeros((4, 4), int), [9]), r"prediction must lie in 0..1, got \[9\]"),
    ],
)
def test_maps_and_segments_that_contradict_each_other_are_an_error(prediction, message):
    with pytest.raises(ValueError, match=message):
        PanopticQuality(2).add(prediction=prediction, reference=image_of(np.zeros((4, 4), int), [0]))

import json
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from training_eomt.metrics import MeanIoU


def counted_by_pixel(pairs, num_labels):
    """IoU and accuracy per class and pixel accuracy, from sets of pixels and nothing else."""
    per_class, hits, total = {}, 0, 0
    for label_id in range(num_labels):
        predicted, target = set(), set()
        for i, (prediction, reference) in enumerate(pairs):
            for place in np.ndindex(reference.shape):
                if reference[place] == -1:
                    continue
                if prediction[place] == label_id:
                    predicted.add((i, place))
                if reference[place] == label_id:
                    target.add((i, place))
        if predicted | target:
            both = len(predicted & target)
            accuracy = both / len(target) if target else math.nan
            per_class[label_id] = {"iou": both / len(predicted | target), "accuracy": accuracy}
        hits, total = hits + len(predicted & target), total + len(target)
    return per_class, hits / total


@pytest.fixture
def pairs():
    """Three images of 7 classes: 4 and 5 occur only on one side, 6 only where the reference is void."""
    rng = np.random.default_rng(0)
    pairs = []
    for size in ((9, 14), (1, 30), (16, 5)):
        prediction, reference = rng.integers(-1, 5, size), rng.integers(-1, 4, size)
        reference[rng.random(size) < 0.1] = 5
        prediction[reference == -1] = 6
        pairs.append((prediction, reference))
    return pairs


def measured(pairs, num_labels=7):
    predictions, references = zip(*pairs)
    return MeanIoU(num_labels).compute(predictions=predictions, references=references)


def test_equals_a_count_pixel_by_pixel(pairs):
    per_class, pixel_accuracy = counted_by_pixel(pairs, 7)
    result = measured(pairs)
    assert sorted(result["per_class"]) == sorted(per_class) == [0, 1, 2, 3, 4, 5]
    assert math.isnan(result["per_class"][4].pop("accuracy")) and math.isnan(per_class[4].pop("accuracy"))
    assert result["per_class"] == per_class
    assert result["pixel_accuracy"] == pixel_accuracy
    # The same numbers, at most summed in another order.
    assert result["miou"] == pytest.approx(np.mean([values["iou"] for values in per_class.values()]), abs=1e-12)
    found = [per_class[label_id]["accuracy"] for label_id in (0, 1, 2, 3, 5)]
    assert result["mean_accuracy"] == pytest.approx(np.mean(found), abs=1e-12)


def test_real_annotations_corrupted_at_random(ade20k_sample):
    rng = np.random.default_rng(1)
    pairs = []
    for path in sorted((ade20k_sample / "annotations").glob("*.png")):
        reference = np.array(Image.open(path)).astype(np.int64) - 1
        prediction = np.where(rng.random(reference.shape) < 0.3, rng.integers(-1, 150, reference.shape), reference)
        pairs.append((prediction, reference))
    assert len(pairs) == 3
    predicted = np.concatenate([prediction.ravel() for prediction, _ in pairs])
    target = np.concatenate([reference.ravel() for _, reference in pairs])
    predicted, target = predicted[target != -1], target[target != -1]
    classes = [c for c in range(150) if (predicted == c).any() or (target == c).any()]
    ious = {c: ((predicted == c) & (target == c)).sum() / ((predicted == c) | (target == c)).sum() for c in classes}
    recalls = {c: (predicted[target == c] == c).mean() for c in np.unique(target).tolist()}

    result = measured(pairs, 150)
    assert len(recalls) == 15 and len(ious) == 150
    # Both divide the same counts; means are summed in another order.
    assert {c: values["iou"] for c, values in result["per_class"].items()} == pytest.approx(ious, abs=1e-12)
    assert {c: result["per_class"][c]["accuracy"] for c in recalls} == pytest.approx(recalls, abs=1e-12)
    assert result["miou"] == pytest.approx(np.mean(list(ious.values())), abs=1e-12)
    assert result["mean_accuracy"] == pytest.approx(np.mean(list(recalls.values())), abs=1e-12)
    assert result["pixel_accuracy"] == pytest.approx((predicted == target).mean(), abs=1e-12)


def test_void_in_the_reference_does_not_count_whatever_was_predicted_there():
    result = measured([(np.array([[0, 1, -1]]), np.array([[0, -1, -1]]))])
    assert result["per_class"] == {0: {"iou": 1.0, "accuracy": 1.0}}
    assert result["miou"] == result["pixel_accuracy"] == result["mean_accuracy"] == 1


def test_nothing_found_is_a_miss_of_the_references_class_only():
    result = measured([(np.array([[0, -1, 1, 1]]), np.array([[0, 0, 1, 1]]))])
    assert result["per_class"] == {0: {"iou": 0.5, "accuracy": 0.5}, 1: {"iou": 1.0, "accuracy": 1.0}}
    assert result["pixel_accuracy"] == 0.75


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merged_processes_equal_one_process_exactly(pairs, order):
    metrics = [MeanIoU(7) for _ in pairs]
    for metric, (prediction, reference) in zip(metrics, pairs):
        metric.add(prediction=prediction, reference=reference)
    total = MeanIoU(7)
    total.merge(*(pickle.loads(pickle.dumps(metrics[i].state())) for i in order))
    assert repr(total.compute()) == repr(measured(pairs))  # NaN is equal to itself only as text


def test_the_state_does_not_grow_and_is_a_copy(pairs):
    metric = MeanIoU(150)
    metric.add(prediction=pairs[0][0], reference=pairs[0][1])
    state = metric.state()
    size = len(pickle.dumps(state))
    state["pixels"] += 10**6
    assert metric.state()["pixels"].max() < 10**6
    for prediction, reference in pairs:
        metric.add(prediction=prediction, reference=reference)
    assert len(pickle.dumps(metric.state())) == size


def test_nothing_measured_is_nan_and_compute_forgets(pairs):
    metric = MeanIoU(7)
    metric.add(prediction=pairs[0][0], reference=pairs[0][1])
    assert metric.compute()["miou"] > 0
    result = metric.compute()
    assert result.pop("per_class") == {}
    assert set(result) == {"miou", "pixel_accuracy", "mean_accuracy"} and all(map(math.isnan, result.values()))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int8])
def test_tensors_and_small_integers_count_as_arrays(pairs, dtype):
    as_tensors = [(torch.from_numpy(prediction).to(dtype), reference) for prediction, reference in pairs]
    assert repr(measured(as_tensors)) == repr(measured(pairs))


def test_the_largest_unsigned_value_is_a_class_like_others():
    image = np.full((2, 2), 255, dtype=np.uint8)
    assert measured([(image, image)], 256)["per_class"] == {255: {"iou": 1.0, "accuracy": 1.0}}


def test_results_are_what_json_can_hold(pairs):
    result = measured(pairs)
    stored = json.loads(json.dumps(result))
    assert stored["miou"] == result["miou"] and stored["per_class"]["1"] == result["per_class"][1]


@pytest.mark.parametrize(
    "prediction, reference, message",
    [
        (np.zeros((3, 4), int), np.zeros((4, 4), int), r"Reference is \(4, 4\) and prediction \(3, 4\) pixels"),
        (np.full((4, 4), 7), np.zeros((4, 4), int), r"prediction must lie in 0..6 or be -1 \(void\), got 7..7"),
        (np.zeros((4, 4), int), np.full((4, 4), 255, np.uint8), r"reference must lie in 0..6 .* got 255..255"),
        (np.zeros((4, 4), int), np.full((4, 4), -2), r"reference must lie in 0..6 .* got -2..-2"),
        (torch.zeros(4, 4), np.zeros((4, 4), int), "prediction's map must hold integer label ids, got float32"),
    ],
)
def test_maps_that_cannot_be_compared_are_an_error(prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        MeanIoU(7).add(prediction=prediction, reference=reference)


def test_the_confusion_matrix_counts_pixels_by_what_they_are_and_what_they_were_taken_for():
    metric = MeanIoU(3)
    metric.add(prediction=np.array([[0, 0, 1, 2]]), reference=np.array([[0, 1, 1, -1]]))
    other = MeanIoU(3)
    other.add(prediction=np.array([[-1, 2]]), reference=np.array([[2, 1]]))
    metric.merge(other.state())
    # Columns: nothing, then classes. The void pixel is nowhere.
    assert metric.confusion_matrix().tolist() == [[0, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]


def test_the_confusion_matrix_of_many_classes_stays_small():
    metric = MeanIoU(847)
    rng = np.random.default_rng(0)
    for _ in range(3):
        metric.add(prediction=rng.integers(0, 847, (64, 64)), reference=rng.integers(-1, 847, (64, 64)))
    assert len(pickle.dumps(metric.state())) < 6_000_000

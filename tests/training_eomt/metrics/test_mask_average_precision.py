import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from image_processing_eomt import TASKS, segment_instances
from image_processing_eomt.geometry_eomt import View
from training_eomt.metrics import MaskAveragePrecision


NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
NUM_LABELS = 6  # of which the last never occurs in random images


def encoded(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def rectangle(size, box):
    top, left, height, width = box
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def random_image(rng, image_id, size=(130, 170), num_targets=8, num_detections=20):
    """Rectangles of all of COCO's sizes, detections near them and elsewhere, scores of which many are equal."""
    targets, infos = [], []
    for _ in range(num_targets):
        height, width = (int(rng.choice([12, 60, 115])) + int(rng.integers(0, 9)) for _ in range(2))
        box = (int(rng.integers(0, size[0] - height)), int(rng.integers(0, size[1] - width)), height, width)
        targets.append(box)
        info = {"label_id": int(rng.integers(0, NUM_LABELS - 2)), "iscrowd": bool(rng.random() < 0.2)}
        if rng.random() < 0.5:
            info["area"] = float(height * width * rng.choice([0.3, 0.8, 1.0, 1.5]))
        infos.append(info)
    found, found_infos = [], []
    for _ in range(num_detections):
        label_id = int(rng.integers(0, NUM_LABELS - 1))
        box = tuple(int(number) for number in rng.integers(1, 60, 4))
        if targets and rng.random() < 0.8:
            i = int(rng.integers(0, len(targets)))
            box = tuple(max(0, number + int(rng.integers(-3, 4))) for number in targets[i])
            label_id = infos[i]["label_id"] if rng.random() < 0.8 else label_id
        found.append(box)
        found_infos.append({"label_id": label_id, "score": float(rng.integers(1, 11)) / 10})
    prediction = {"segmentation": [encoded(rectangle(size, box)) for box in found], "segments_info": found_infos}
    masks = [encoded(rectangle(size, box)) for box in targets]
    return prediction, {"image_id": image_id, "segmentation": masks, "segments_info": infos}


def random_pairs(ids, seed=0):
    """Among others an image without targets, one without detections, one without both and one with over 10 a class."""
    rng = np.random.default_rng(seed)
    numbers = {0: (0, 12), 1: (6, 0), 2: (0, 0), 3: (10, 90)}
    pairs = []
    for i, image_id in enumerate(ids):
        num_targets, num_detections = numbers.get(i, (8, 20))
        pairs.append(random_image(rng, image_id, (130 + i, 170), num_targets, num_detections))
    return pairs


def coco_of(pairs, num_labels):
    """The ground truth and the results of all images as COCO's own tools hold them."""
    images, annotations, results = [], [], []
    for prediction, reference in pairs:
        masks = reference["segmentation"] + prediction["segmentation"]
        height, width = masks[0]["size"] if masks else (1, 1)
        images.append({"id": reference["image_id"], "height": height, "width": width})
        for mask, info in zip(reference["segmentation"], reference["segments_info"]):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": reference["image_id"],
                    "category_id": info["label_id"],
                    "segmentation": mask,
                    "iscrowd": int(info["iscrowd"]),
                    "area": info.get("area", int(coco_mask.area(mask))),
                }
            )
        for mask, info in zip(prediction["segmentation"], prediction["segments_info"]):
            result = {"image_id": reference["image_id"], "category_id": info["label_id"], "score": info["score"]}
            results.append({**result, "segmentation": mask})
    truth = COCO()
    categories = [{"id": label_id} for label_id in range(num_labels)]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    return truth, truth.loadRes(copy.deepcopy(results))


def evaluated_at_once(pairs, num_labels):
    """What pycocotools says about the whole data set: the summary, and AP and AP50 per class."""
    evaluator = COCOeval(*coco_of(pairs, num_labels), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (ious, recalls, classes)
    per_class = {
        label_id: {"ap": precision[:, :, label_id].mean(), "ap50": precision[0, :, label_id].mean()}
        for label_id in range(num_labels)
        if (precision[:, :, label_id] > -1).all()
    }
    return dict(zip(NAMES, evaluator.stats.tolist())), per_class


def measured(pairs, num_labels=NUM_LABELS):
    predictions, references = zip(*pairs)
    return MaskAveragePrecision(num_labels).compute(predictions=predictions, references=references)


def as_in_pycocotools(result):
    """With -1 for what is not there, which also is equal to itself."""
    return {name: -1 if value != value else value for name, value in result.items()}


INTEGERS = [40, 7, 100, 9, 23, 1, 64, 2, 35, 16]
STRINGS = ["b/40", "7", "b/100", "9", "a", "Z", "c 64", "é", "a0", "16"]


@pytest.mark.parametrize("ids", [INTEGERS, STRINGS], ids=["integers", "strings"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_over_the_whole_data_set_exactly(ids, seed):
    pairs = random_pairs(ids, seed)
    summary, per_class = evaluated_at_once(pairs, NUM_LABELS)
    result = measured(pairs)
    assert result.pop("per_class") == per_class
    assert result == summary
    assert sorted(per_class) == [0, 1, 2, 3]
    assert all(0 < value < 1 for value in summary.values())
    assert summary["ar1"] < summary["ar10"] < summary["ar100"]


def test_only_the_best_hundred_of_a_class_count_as_in_pycocotools():
    rng = np.random.default_rng(0)
    pairs = [random_image(rng, i, num_targets=3, num_detections=0) for i in range(2)]
    boxes = [tuple(int(number) for number in rng.integers(1, 60, 4)) for _ in range(130)]
    for prediction, reference in pairs:
        reference["segments_info"] = [{**info, "label_id": 0, "iscrowd": False} for info in reference["segments_info"]]
        wrong = [encoded(rectangle((130, 170), box)) for box in boxes]
        # The best detections are wrong, and of those that are right only some are among the hundred.
        prediction["segmentation"] = wrong[:98] + reference["segmentation"] + wrong[98:]
        scores = np.linspace(1, 0.1, len(prediction["segmentation"])).tolist()
        prediction["segments_info"] = [{"label_id": 0, "score": score} for score in scores]
    summary, per_class = evaluated_at_once(pairs, 1)
    result = measured(pairs, 1)
    assert result.pop("per_class") == per_class and as_in_pycocotools(result) == summary
    assert 0 < result["ar100"] < 1 and result["ar10"] == 0
    counted = MaskAveragePrecision(1).image_state(*pairs[0])["detections"][0]
    assert len(counted) == 100 and counted["score"].min() > 0.1


def test_scores_that_single_precision_could_not_tell_apart_keep_their_order():
    mask, other = (encoded(rectangle((40, 40), (top, 5, 10, 10))) for top in (5, 25))
    reference = {"segmentation": [mask], "segments_info": [{"label_id": 0, "iscrowd": False}]}
    pairs = [
        ({"segmentation": [found], "segments_info": [{"label_id": 0, "score": score}]}, {**reference, "image_id": i})
        for i, (found, score) in enumerate([(other, 0.5), (mask, 0.5 + 1e-12)])
    ]
    assert measured(pairs)["ap"] == evaluated_at_once(pairs, 1)[0]["ap"] > 0.5


@pytest.mark.parametrize("as_list", [False, True], ids=["compressed", "uncompressed"])
def test_equals_pycocotools_on_real_annotations(coco_sample, as_list):
    content = json.loads((coco_sample / "instances.json").read_text())
    label_ids = {category["id"]: i for i, category in enumerate(content["categories"])}
    rng = np.random.default_rng(0)
    pairs = []
    for image in content["images"]:
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        infos = [
            {"label_id": label_ids[a["category_id"]], "iscrowd": bool(a["iscrowd"]), "area": a["area"]}
            for a in annotations
        ]
        masks, found = [], []
        for annotation, info in zip(annotations, infos):
            mask = coco_mask.decode(annotation["segmentation"])
            for shift in rng.integers(-4, 5, (3, 2)):
                masks.append(encoded(np.roll(mask, shift, (0, 1))))
                found.append({"label_id": info["label_id"], "score": float(rng.integers(1, 20)) / 20})
        reference = {"image_id": image["id"], "segmentation": [a["segmentation"] for a in annotations]}
        pairs.append(({"segmentation": masks, "segments_info": found}, {**reference, "segments_info": infos}))
    assert sum(len(reference["segmentation"]) for _, reference in pairs) == 50
    assert sum(info["iscrowd"] for _, reference in pairs for info in reference["segments_info"]) == 3
    summary, per_class = evaluated_at_once(pairs, len(label_ids))
    if as_list:
        for _, reference in pairs:
            reference["segmentation"] = [uncompressed(mask) for mask in reference["segmentation"]]
    result = measured(pairs, len(label_ids))
    assert result.pop("per_class") == per_class and result == summary
    assert all(value > 0 for value in summary.values())


def uncompressed(mask):
    pixels = coco_mask.decode(mask).ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    return {"size": mask["size"], "counts": np.diff([0, *edges, len(pixels)]).tolist()}


def test_takes_what_post_processing_returns():
    mask_logits = torch.full((2, 16, 16), -10.0)
    mask_logits[0, 2:9, 3:12] = 10
    mask_logits[1, 10:14, 3:12] = 10
    class_logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    view = View((64, 64), (64, 64))
    settings = {name: setting.default for name, setting in TASKS["instance"].settings.items()}
    settings["return_coco_annotation"] = True
    prediction = segment_instances(mask_logits, class_logits, view, (64, 64), **settings)
    infos = [{"label_id": info["label_id"]} for info in prediction["segments_info"]]
    assert len(infos) == 2
    reference = {"image_id": 1, "segmentation": prediction["segmentation"], "segments_info": infos}
    result = measured([(prediction, reference)], 2)
    assert result["ap"] == pytest.approx(1, abs=1e-12)  # pycocotools adds an epsilon to its denominators
    assert result["ar100"] == 1 and sorted(result["per_class"]) == [0, 1]


@pytest.mark.parametrize(
    "ids", [INTEGERS, STRINGS, [*INTEGERS[:5], *STRINGS[:5]]], ids=["integers", "strings", "both"]
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merged_processes_equal_one_process_exactly(ids, order):
    pairs = random_pairs(ids)
    metrics = [MaskAveragePrecision(NUM_LABELS) for _ in range(3)]
    for i, (prediction, reference) in enumerate(pairs):
        metrics[i % 3].add(prediction=prediction, reference=reference)
    total = MaskAveragePrecision(NUM_LABELS)
    total.merge(*(pickle.loads(pickle.dumps(metrics[i].state())) for i in order))
    assert total.compute() == measured(pairs)


def test_an_image_that_a_sampler_repeats_is_counted_once():
    pairs = random_pairs(INTEGERS)
    metrics = [MaskAveragePrecision(NUM_LABELS) for _ in range(2)]
    for metric, part in zip(metrics, (pairs[:5], [*pairs[5:], *pairs[:3], pairs[6]])):
        metric.add_batch(predictions=[pair[0] for pair in part], references=[pair[1] for pair in part])
    metrics[1].merge(metrics[0].state())
    assert metrics[1].compute() == measured(pairs)


def test_one_id_for_two_images_is_an_error():
    rng = np.random.default_rng(0)
    metric = MaskAveragePrecision(NUM_LABELS)
    for num_targets in (3, 5):
        prediction, reference = random_image(rng, "one", num_targets=num_targets)
        if num_targets == 3:
            metric.add(prediction=prediction, reference=reference)
    with pytest.raises(ValueError, match="image_id 'one' stands for two images"):
        metric.add(prediction=prediction, reference=reference)


def test_numbers_of_other_libraries_are_integers():
    prediction, reference = random_image(np.random.default_rng(0), 3)
    metric = MaskAveragePrecision(NUM_LABELS)
    for image_id in (3, np.int64(3), torch.tensor(3)):
        metric.add(prediction=prediction, reference={**reference, "image_id": image_id})
    assert list(metric.state()["truths"]) == [3]


def test_the_state_is_bounded_by_detections_whatever_the_size_of_the_image():
    sizes = []
    for size in ((130, 170), (1300, 1700)):
        prediction, reference = random_image(np.random.default_rng(0), 1, size, num_targets=20, num_detections=100)
        metric = MaskAveragePrecision(NUM_LABELS)
        empty = len(pickle.dumps(metric.state()))
        metric.add(prediction=prediction, reference=reference)
        one = metric.state()
        sizes.append(len(pickle.dumps(one)) - empty)
        metric.add(prediction=prediction, reference={**reference, "image_id": 2})
        per_image = len(pickle.dumps(metric.state())) - len(pickle.dumps(one))
        assert per_image <= 100 * 22 + NUM_LABELS * 20 + 200
    assert sizes[0] == sizes[1] < 3000


def test_the_state_is_a_copy_and_compute_forgets():
    prediction, reference = random_image(np.random.default_rng(0), 1)
    metric, untouched = MaskAveragePrecision(NUM_LABELS), MaskAveragePrecision(NUM_LABELS)
    for either in (metric, untouched):
        either.add(prediction=prediction, reference=reference)
    metric.state()["detections"][1]["score"] = 0
    metric.state()["truths"].clear()
    assert as_in_pycocotools(metric.compute()) == as_in_pycocotools(untouched.compute())
    result = metric.compute()
    assert result.pop("per_class") == {}
    assert tuple(result) == NAMES and all(map(math.isnan, result.values()))


def test_what_is_not_there_is_nan_and_a_class_of_crowds_only_is_no_class():
    mask = encoded(rectangle((40, 40), (5, 5, 20, 20)))
    infos = [{"label_id": 1, "iscrowd": False}, {"label_id": 0, "iscrowd": True}]
    reference = {"image_id": 1, "segmentation": [mask, mask], "segments_info": infos}
    result = measured([({"segmentation": [mask], "segments_info": [{"label_id": 1, "score": 0.5}]}, reference)])
    # pycocotools adds an epsilon to its denominators.
    assert [result["ap"], result["ap_small"], result["ar1"]] == pytest.approx([1, 1, 1], abs=1e-12)
    assert math.isnan(result["ap_medium"]) and math.isnan(result["ap_large"])
    assert sorted(result["per_class"]) == [1]


def test_inputs_stay_as_they_are_and_nothing_is_printed(capsys):
    pairs = random_pairs(INTEGERS)
    before = copy.deepcopy(pairs)
    result = measured(pairs)
    assert pairs == before
    assert capsys.readouterr() == ("", "")
    assert json.loads(json.dumps(result))["per_class"]["1"] == result["per_class"][1]


SQUARE = encoded(rectangle((4, 4), (0, 0, 2, 2)))


@pytest.mark.parametrize(
    "prediction, message",
    [
        ({"segmentation": [SQUARE], "segments_info": []}, "prediction has 1 masks, but its segments_info lists 0"),
        ({"segmentation": torch.zeros(4, 4), "segments_info": []}, "got Tensor.*return_coco_annotation=True"),
        (
            {"segmentation": [SQUARE], "segments_info": [{"label_id": 6, "score": 1.0}]},
            r"prediction must lie in 0..5, got \[6\]",
        ),
        (
            {"segmentation": [encoded(np.ones((4, 5)))], "segments_info": [{"label_id": 0, "score": 1.0}]},
            r"same size, got masks of \(4, 4\) and \(4, 5\) pixels",
        ),
    ],
)
def test_masks_that_cannot_be_evaluated_are_an_error(prediction, message):
    reference = {"image_id": 1, "segmentation": [SQUARE], "segments_info": [{"label_id": 0, "iscrowd": False}]}
    with pytest.raises(ValueError, match=message):
        MaskAveragePrecision(NUM_LABELS).add(prediction=prediction, reference=reference)

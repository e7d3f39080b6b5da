"""COCO's average precision of instance masks (https://cocodataset.org/#detection-eval), as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from .streaming import State, StreamingMetric


_PARAMS = Params(iouType="segm")
_NUM_AREAS, _NUM_IOUS = len(_PARAMS.areaRng), len(_PARAMS.iouThrs)
_NUM_BYTES = -(-_NUM_AREAS * _NUM_IOUS // 8)  # a bit for each pair of area range and IoU threshold

# A detection: whether it was matched and whether it does not count, for each area range and IoU threshold.
_DETECTION = np.dtype(
    [
        ("label_id", np.int32),
        ("score", np.float64),
        ("matched", np.uint8, (_NUM_BYTES,)),
        ("ignored", np.uint8, (_NUM_BYTES,)),
    ]
)
# An image's ground truth: the number of instances of each of its classes, for each area range.
_TRUTH = np.dtype([("label_id", np.int32), ("count", np.uint32, (_NUM_AREAS,))])

_SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")  # as COCO lists them


class MaskAveragePrecision(StreamingMetric):
    """AP and AR of instance masks, overall, by size and per class. Values are fractions, not percent.

    pycocotools itself matches the detections of each image and accumulates the matches of all, so results are equal to
    those of one `COCOeval` that sees the whole dataset.

    A prediction is one image as `post_process_instance_segmentation(..., return_coco_annotation=True)` returns it:

    - `segmentation`: a run-length encoded mask per instance, `{"size": [height, width], "counts": ...}`;
    - `segments_info`: for each instance `label_id` and `score`. Give as many as you have (a `threshold` of 0): of each
      class, the best 100 count.

    A reference is one image as well:

    - `image_id`: an int or string. An image that comes again, as the samplers of several processes may repeat some, is
      counted once: as it came first.
    - `segmentation`: a mask per instance, as above or with COCO's uncompressed list of `counts`;
    - `segments_info`: for each instance `label_id`, and optionally `iscrowd` and `area`, the annotation's own area in
      pixels, which decides whether it is small, medium or large. By default that is the area of the mask.

    No mask is kept. But exact AP needs to know which detections were matched, so the statistics do grow: 22 bytes for
    each detection, 20 for each class in an image's ground truth, and some 100 (300 in memory) for the image itself.
    With 100 detections an image that is 2.5 kB, whatever its size in pixels, and 12 MB for COCO's 5000 of validation.

    Raises:
        ValueError: on adding an image: masks differ in size, masks and `segments_info` in number, a label id does not
            exist, or another ground truth had the same `image_id`.

    ```py
    >>> metric = MaskAveragePrecision(num_labels=80)
    >>> metric.add(prediction=prediction, reference=reference)
    >>> metric.compute()["ap"]
    ```
    """

    def empty_state(self) -> State:
        """Returns `detections` and `truths`: an array by image id, of its detections and of its classes."""
        return {"detections": {}, "truths": {}}

    def image_state(self, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> State:
        """Returns the statistics of one image, as in `empty_state`."""
        image_id = reference["image_id"]
        if not isinstance(image_id, str):
            image_id = operator.index(image_id)
        detected = self._parse(prediction, "prediction")
        targets = self._parse(reference, "reference")
        size = _check_size([*targets, *detected])
        # Only the classes that occur in the image: others would cost time.
        label_ids = {annotation["category_id"] for annotation in [*targets, *detected]}
        for annotation, info in zip(detected, prediction["segments_info"]):
            annotation.update(score=float(info["score"]), iscrowd=0)
        for annotation, info in zip(targets, reference["segments_info"]):
            annotation.update(iscrowd=int(info.get("iscrowd", 0)), area=info.get("area", annotation["area"]))

        with _quiet():
            evaluator = COCOeval(_build_coco(targets, size, label_ids), _build_coco(detected, size, label_ids), "segm")
            evaluator.evaluate()

        detections, truths = [], []
        for i, label_id in enumerate(evaluator.params.catIds):
            by_area = evaluator.evalImgs[i * _NUM_AREAS : (i + 1) * _NUM_AREAS]
            of_class = np.zeros(len(by_area[0]["dtScores"]), dtype=_DETECTION)
            of_class["label_id"] = label_id
            of_class["score"] = by_area[0]["dtScores"]
            of_class["matched"] = _pack(np.stack([evaluated["dtMatches"] != 0 for evaluated in by_area]))
            of_class["ignored"] = _pack(np.stack([evaluated["dtIgnore"] for evaluated in by_area]))
            detections.append(of_class)
            counts = [np.count_nonzero(evaluated["gtIgnore"] == 0) for evaluated in by_area]
            if any(counts):
                truths.append(np.array([(label_id, counts)], dtype=_TRUTH))
        return {
            "detections": {image_id: np.concatenate([np.zeros(0, _DETECTION), *detections])},
            "truths": {image_id: np.concatenate([np.zeros(0, _TRUTH), *truths])},
        }

    def merge_into(self, total: State, state: Mapping[str, Any]) -> None:
        """Adds the images that `total` lacks, in place."""
        for image_id, truths in state["truths"].items():
            if image_id not in total["truths"]:
                total["truths"][image_id] = truths
                total["detections"][image_id] = state["detections"][image_id]
            elif not np.array_equal(total["truths"][image_id], truths):
                raise ValueError(f"image_id {image_id!r} stands for two images: their ground truths differ.")

    def result(self, state: State) -> dict[str, Any]:
        """Returns `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar1`, `ar10`, `ar100`, and `per_class`.

        `per_class` holds `ap` and `ap50` by label id, of the classes that occur in the ground truth, not only as
        crowds. What has nothing to average is NaN.
        """
        # COCOeval goes through images in the order of their ids, which decides between equal scores.
        image_ids = sorted(state["detections"], key=lambda image_id: (isinstance(image_id, str), image_id))
        by_image = [state["detections"][image_id] for image_id in image_ids]
        detections = np.concatenate([np.zeros(0, _DETECTION), *by_image])
        images = np.repeat(np.arange(len(by_image)), [len(found) for found in by_image])
        truths = np.concatenate([np.zeros(0, _TRUTH), *state["truths"].values()])

        # As COCOeval has them; -1 where there is nothing to find.
        sizes = (_NUM_AREAS, len(_PARAMS.maxDets))
        precision = np.full((_NUM_IOUS, len(_PARAMS.recThrs), self.num_labels, *sizes), -1.0)
        recall = np.full((_NUM_IOUS, self.num_labels, *sizes), -1.0)
        per_class = {}
        for label_id in np.unique(truths["label_id"]).tolist():
            chosen = detections["label_id"] == label_id
            counts = truths["count"][truths["label_id"] == label_id].sum(0)
            accumulated = _accumulate(detections[chosen], images[chosen], counts)
            precision[:, :, label_id] = accumulated["precision"][:, :, 0]
            recall[:, label_id] = accumulated["recall"][:, 0]
            values = _summarize(accumulated)
            per_class[label_id] = {name: values[name] for name in ("ap", "ap50")}
        return {**_summarize({"precision": precision, "recall": recall}), "per_class": per_class}

    def _parse(self, image: Mapping[str, Any], role: str) -> list[dict[str, Any]]:
        """Returns an annotation in COCO's form for each instance, without what only predictions or references have."""
        masks, infos = image["segmentation"], image["segments_info"]
        if not isinstance(masks, Sequence):
            raise ValueError(
                f"The {role}'s segmentation must be a list of run-length encoded masks, got {type(masks).__name__}. "
                "Post-process with return_coco_annotation=True."
            )
        if len(masks) != len(infos):
            raise ValueError(f"The {role} has {len(masks)} masks, but its segments_info lists {len(infos)}.")
        label_ids = [int(info["label_id"]) for info in infos]
        if unknown := [label_id for label_id in label_ids if not 0 <= label_id < self.num_labels]:
            raise ValueError(f"Label ids of the {role} must lie in 0..{self.num_labels - 1}, got {unknown}.")
        annotations = []
        # COCOeval takes an id of 0 for "not matched".
        for annotation_id, (mask, label_id) in enumerate(zip(masks, label_ids), start=1):
            if isinstance(mask["counts"], list):
                mask = coco_mask.frPyObjects(mask, *mask["size"])
            annotations.append(
                {
                    "id": annotation_id,
                    "image_id": 1,
                    "category_id": label_id,
                    "segmentation": mask,
                    "area": int(coco_mask.area(mask)),
                }
            )
        return annotations


def _check_size(annotations: list[dict[str, Any]]) -> tuple[int, int]:
    """Returns the `(height, width)` of all masks, (0, 0) if there is none."""
    sizes = sorted({tuple(annotation["segmentation"]["size"]) for annotation in annotations})
    if len(sizes) > 1:
        listed = " and ".join(str(size) for size in sizes)
        raise ValueError(f"All masks of an image must have the same size, got masks of {listed} pixels.")
    return sizes[0] if sizes else (0, 0)


def _build_coco(annotations: list[dict[str, Any]], size: tuple[int, int], label_ids: set[int]) -> COCO:
    """Builds a dataset of one image."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": size[0], "width": size[1]}],
        "categories": [{"id": label_id} for label_id in label_ids],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _accumulate(detections: np.ndarray, images: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """
    Runs `COCOeval.accumulate` for one class.

    Args:
        detections: `(num_detections,)` of `_DETECTION`, in the order of their images.
        images: `(num_detections,)`, the image of each.
        counts: `(num_areas,)` ground-truth instances in all images.
    """
    matched, ignored = _unpack(detections["matched"]), _unpack(detections["ignored"])
    ends = [*(np.flatnonzero(np.diff(images)) + 1), len(detections)]
    evaluator = COCOeval(iouType="segm")
    evaluator.evalImgs = []
    for area in range(_NUM_AREAS):
        # Only the number of ground truths counts: the first entry has those of all images, and no detections.
        num_truths, start = counts[area], 0
        for end in [0, *ends]:
            evaluator.evalImgs.append(
                {
                    "dtScores": detections["score"][start:end],
                    "dtMatches": matched[area, :, start:end],
                    "dtIgnore": ignored[area, :, start:end],
                    "gtIgnore": np.zeros(num_truths),
                }
            )
            num_truths, start = 0, end
    evaluator.params.catIds = [1]
    evaluator.params.imgIds = list(range(1 + len(ends)))
    evaluator._paramsEval = evaluator.params
    with _quiet():
        evaluator.accumulate()
    return evaluator.eval


def _summarize(accumulated: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the first values that `COCOeval.summarize` prints, by name."""
    evaluator = COCOeval(iouType="segm")
    evaluator.eval = accumulated
    with _quiet():
        evaluator.summarize()
    return {name: float("nan") if value == -1 else float(value) for name, value in zip(_SUMMARY, evaluator.stats)}


def _pack(flags: np.ndarray) -> np.ndarray:
    """Packs `(num_areas, num_ious, num_detections)` bool into bits: `(num_detections, num_bytes)` uint8."""
    return np.packbits(flags.reshape(_NUM_AREAS * _NUM_IOUS, -1), axis=0).T


def _unpack(packed: np.ndarray) -> np.ndarray:
    """Inverts `_pack`."""
    bits = np.unpackbits(packed.T, axis=0, count=_NUM_AREAS * _NUM_IOUS)
    return bits.reshape(_NUM_AREAS, _NUM_IOUS, len(packed)).view(bool)


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Silences pycocotools' progress messages."""
    return contextlib.redirect_stdout(io.StringIO())

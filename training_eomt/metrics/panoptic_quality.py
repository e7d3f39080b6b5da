"""Panoptic quality (Kirillov et al., 2019, https://arxiv.org/abs/1801.00868) with panopticapi's rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from image_processing_eomt import VOID

from .streaming import State, StreamingMetric, as_array, count_pairs, mean


class PanopticQuality(StreamingMetric):
    """PQ, SQ and RQ over all classes, things and stuff, and per class. Values are fractions, not percent.

    A prediction and a reference are one image each, as `post_process_panoptic_segmentation` returns them:

    - `segmentation`: `(height, width)` integer map of segment ids (array or tensor), -1 where nothing is (void);
    - `segments_info`: for each segment `id`, `label_id` (or `category_id`; a contiguous label id either way), and for
      references optionally `iscrowd`.

    As in panopticapi:

    - pixels that are void in the reference do not count in the IoU;
    - segments match when they share a class and their IoU exceeds 0.5;
    - crowd segments never match and are never missed;
    - an unmatched prediction is no false positive if more than half of it lies in void or in a crowd of its class;
    - a class without matched, missed or superfluous segments is left out of the means.

    Raises:
        ValueError: on adding an image: sizes differ, or map, `segments_info` and `num_labels` contradict each other.

    ```py
    >>> metric = PanopticQuality(num_labels=133, stuff_classes=[80, 81])
    >>> metric.add(prediction=prediction, reference=reference)
    >>> metric.compute()["pq"]
    ```
    """

    def empty_state(self) -> State:
        """Returns `iou` (summed over matches), `tp`, `fp` and `fn`, each `(num_labels,)`, and `pixels`, a confusion
        matrix as [`confusion_matrix`] returns it: all 0."""
        return {
            "pixels": np.zeros((self.num_labels, 1 + self.num_labels), dtype=np.int64),
            "iou": np.zeros(self.num_labels, dtype=np.float64),
            "tp": np.zeros(self.num_labels, dtype=np.int64),
            "fp": np.zeros(self.num_labels, dtype=np.int64),
            "fn": np.zeros(self.num_labels, dtype=np.int64),
        }

    def image_state(self, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> State:
        """Returns the statistics of one image, as in `empty_state`."""
        target_map, target_ids, target_classes = self._parse(reference, "reference")
        predicted_map, predicted_ids, predicted_classes = self._parse(prediction, "prediction")
        if target_map.shape != predicted_map.shape:
            raise ValueError(f"Reference is {target_map.shape} and prediction {predicted_map.shape} pixels.")
        is_crowd = np.array([bool(info.get("iscrowd", 0)) for info in reference["segments_info"]], dtype=bool)

        # Pixels in each pair of segments: (1 + num_targets, 1 + num_predictions), void first.
        overlap = count_pairs(
            _positions(target_map, target_ids, "reference"),
            _positions(predicted_map, predicted_ids, "prediction"),
            (len(target_ids) + 1, len(predicted_ids) + 1),
        )
        target_areas = overlap.sum(1)[1:]
        predicted_areas = overlap.sum(0)[1:]
        void_overlap = overlap[0, 1:]
        intersections = overlap[1:, 1:]
        _check_not_empty(target_areas, target_ids, "reference")
        _check_not_empty(predicted_areas, predicted_ids, "prediction")

        unions = target_areas[:, None] + predicted_areas[None] - intersections - void_overlap[None]
        # A prediction that lies in void altogether has no intersection; its union is a target's area, never 0.
        ious = intersections / unions
        comparable = (target_classes[:, None] == predicted_classes[None]) & ~is_crowd[:, None]
        matches = comparable & (ious > 0.5)

        ignored = void_overlap.copy()
        # Where an image has several crowds of one class, panopticapi counts the last one listed.
        crowd_of_class = {target_classes[i]: i for i in np.flatnonzero(is_crowd)}
        for j, label_id in enumerate(predicted_classes):
            if label_id in crowd_of_class:
                ignored[j] += intersections[crowd_of_class[label_id], j]

        missed = ~matches.any(1) & ~is_crowd
        superfluous = ~matches.any(0) & (2 * ignored <= predicted_areas)
        pixels = np.zeros((self.num_labels, 1 + self.num_labels), dtype=np.int64)
        np.add.at(pixels, (target_classes[:, None], np.append(0, predicted_classes + 1)[None]), overlap[1:])
        matched_targets, _ = np.nonzero(matches)
        matched_classes = target_classes[matched_targets]
        return {
            "pixels": pixels,
            "iou": np.bincount(matched_classes, weights=ious[matches], minlength=self.num_labels),
            "tp": np.bincount(matched_classes, minlength=self.num_labels),
            "fp": np.bincount(predicted_classes[superfluous], minlength=self.num_labels),
            "fn": np.bincount(target_classes[missed], minlength=self.num_labels),
        }

    def confusion_matrix(self) -> np.ndarray:
        """As in the base class; the class of a pixel is that of its segment, and crowds count too."""
        matrix: np.ndarray = self._state["pixels"].copy()
        return matrix

    def result(self, state: State) -> dict[str, Any]:
        """Returns `pq`, `sq`, `rq`, the same with `_things` and `_stuff`, and `per_class`: the three, and the numbers
        `tp`, `fp` and `fn` of segments, by label id.

        A mean over no class is NaN.
        """
        per_class = {}
        for label_id in range(self.num_labels):
            iou, tp = float(state["iou"][label_id]), int(state["tp"][label_id])
            fp, fn = int(state["fp"][label_id]), int(state["fn"][label_id])
            if tp + fp + fn == 0:
                continue
            weight = tp + fp / 2 + fn / 2
            quality = {"pq": iou / weight, "sq": iou / tp if tp else 0.0, "rq": tp / weight}
            per_class[label_id] = {**quality, "tp": tp, "fp": fp, "fn": fn}

        groups = {
            "": list(per_class),
            "_things": [label_id for label_id in per_class if label_id not in self.stuff_classes],
            "_stuff": [label_id for label_id in per_class if label_id in self.stuff_classes],
        }
        result: dict[str, Any] = {
            f"{name}{suffix}": mean(per_class[label_id][name] for label_id in label_ids)
            for suffix, label_ids in groups.items()
            for name in ("pq", "sq", "rq")
        }
        return {**result, "per_class": per_class}

    def _parse(self, image: Mapping[str, Any], role: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the map as int64, and the ids and classes of its segments, `(num_segments,)` each."""
        infos = image["segments_info"]
        ids = np.array([info["id"] for info in infos], dtype=np.int64)
        classes = np.array([info.get("label_id", info.get("category_id")) for info in infos], dtype=np.int64)
        if len(np.unique(ids)) < len(ids):
            raise ValueError(f"Segment ids of the {role} are not unique: {ids.tolist()}.")
        if len(ids) and (classes.min() < 0 or classes.max() >= self.num_labels):
            raise ValueError(f"Label ids of the {role} must lie in 0..{self.num_labels - 1}, got {classes.tolist()}.")
        return as_array(image["segmentation"]).astype(np.int64), ids, classes


def _positions(segment_map: np.ndarray, ids: np.ndarray, role: str) -> np.ndarray:
    """Replaces segment ids by their position in `ids`, from 1; void becomes 0. Flat: `(height * width,)`."""
    found, inverse = np.unique(segment_map, return_inverse=True)
    position = {VOID: 0, **{int(segment_id): i for i, segment_id in enumerate(ids, start=1)}}
    unknown = [int(segment_id) for segment_id in found if int(segment_id) not in position]
    if unknown:
        raise ValueError(f"The {role}'s map holds segment ids {unknown}, which its segments_info does not list.")
    return np.array([position[int(segment_id)] for segment_id in found], dtype=np.int64)[inverse.ravel()]


def _check_not_empty(areas: np.ndarray, ids: np.ndarray, role: str) -> None:
    if not areas.all():
        empty = ids[areas == 0].tolist()
        raise ValueError(f"The {role}'s segments {empty} are listed in its segments_info but have no pixels.")

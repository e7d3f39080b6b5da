"""Mean intersection over union (Everingham et al., 2015, PASCAL VOC) of semantic segmentation, and accuracies."""

from __future__ import annotations

from typing import Any

import numpy as np

from image_processing_eomt import VOID

from .streaming import State, StreamingMetric, as_array, count_pairs, mean


class MeanIoU(StreamingMetric):
    """mIoU and accuracies over the pixels of all images together. Values are fractions, not percent.

    A prediction and a reference are one image each: a `(height, width)` integer map of label ids (array or tensor).

    - -1 in the reference is void: what was predicted there does not count.
    - -1 in the prediction is nothing found: a miss of the reference's class that no class is charged with.

    A class that occurs in neither is left out of the means.

    Raises:
        ValueError: on adding an image: sizes differ, a map does not hold integers, or a label id does not exist.

    ```py
    >>> metric = MeanIoU(num_labels=150)
    >>> metric.add(prediction=prediction, reference=reference)
    >>> metric.compute()["miou"]
    ```
    """

    def empty_state(self) -> State:
        """Returns `pixels`, a confusion matrix as [`confusion_matrix`] returns it."""
        return {"pixels": np.zeros((self.num_labels, 1 + self.num_labels), dtype=np.int64)}

    def image_state(self, prediction: Any, reference: Any) -> State:
        """Returns the statistics of one image, as in `empty_state`."""
        predicted_map = self._parse(prediction, "prediction")
        target_map = self._parse(reference, "reference")
        if target_map.shape != predicted_map.shape:
            raise ValueError(f"Reference is {target_map.shape} and prediction {predicted_map.shape} pixels.")
        # Reference by prediction, void first: (1 + num_labels, 1 + num_labels).
        size = self.num_labels + 1
        return {"pixels": count_pairs(target_map.ravel() - VOID, predicted_map.ravel() - VOID, (size, size))[1:]}

    def confusion_matrix(self) -> np.ndarray:
        matrix: np.ndarray = self._state["pixels"].copy()
        return matrix

    def result(self, state: State) -> dict[str, Any]:
        """Returns `miou`, `pixel_accuracy`, `mean_accuracy`, and `per_class`: `iou` and `accuracy` by label id.

        `accuracy` is the fraction of a class' pixels that were found. Where the reference has none it is NaN, and left
        out of `mean_accuracy`. A mean over no class is NaN.
        """
        pixels = state["pixels"]
        predictions, references, matches = pixels.sum(0)[1:], pixels.sum(1), pixels[:, 1:].diagonal()
        per_class = {}
        counts = zip(predictions.tolist(), references.tolist(), matches.tolist())
        for label_id, (predicted, reference, both) in enumerate(counts):
            if union := predicted + reference - both:
                per_class[label_id] = {"iou": both / union, "accuracy": _fraction(both, reference)}
        return {
            "miou": mean(values["iou"] for values in per_class.values()),
            "pixel_accuracy": _fraction(int(matches.sum()), int(references.sum())),
            "mean_accuracy": mean(per_class[label_id]["accuracy"] for label_id in np.flatnonzero(references).tolist()),
            "per_class": per_class,
        }

    def _parse(self, label_map: Any, role: str) -> np.ndarray:
        """Returns the map as int64."""
        array = as_array(label_map)
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"The {role}'s map must hold integer label ids, got {array.dtype}.")
        if array.size and (array.min() < VOID or array.max() >= self.num_labels):
            raise ValueError(
                f"Label ids of the {role} must lie in 0..{self.num_labels - 1} or be {VOID} (void), "
                f"got {array.min()}..{array.max()}."
            )
        return array.astype(np.int64)


def _fraction(part: int, whole: int) -> float:
    """Returns `part / whole`, NaN for nothing."""
    return part / whole if whole else float("nan")

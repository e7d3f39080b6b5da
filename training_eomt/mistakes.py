"""Where a segmentation differs from its target, by kinds that a person can act on."""

from collections.abc import Mapping
from typing import Any

import numpy as np


RIGHT, MISSED, FALSE, CONFUSED, INEXACT = range(5)
# What the kinds are called, and colours that are told apart without red or green: those of Okabe and Ito.
KINDS = {
    MISSED: ("missed", (213, 94, 0)),
    FALSE: ("not there", (0, 114, 178)),
    CONFUSED: ("of another class", (204, 121, 167)),
    INEXACT: ("inexact edge", (240, 228, 66)),
}


def find_mistakes(
    target: Mapping[str, Any], prediction: Mapping[str, Any], has_background: bool = False
) -> np.ndarray:
    """
    Finds the pixels that are wrong.

    Segments are matched as panoptic quality does: of one class, and their intersection more than half of their union.
    The pixels of a target without a match are missed, those of a prediction without one are not there; both at once,
    and the classes differ, is a thing taken for another. What else is wrong is where the edge of a match is inexact.

    Args:
        target: `segmentation`, `(height, width)` ids, and `segments_info` with `id`, `label_id` and maybe `iscrowd`.
            Nothing is a mistake in a crowd.
        prediction: the same, without crowds.
        has_background: whether pixels without a target are known to be of no class, as in instance segmentation;
            otherwise nothing is a mistake there.

    Returns:
        `(height, width)` uint8: 0 where nothing is wrong, else a key of `KINDS`.
    """
    targets, target_classes = _number(target)
    predictions, predicted_classes = _number(prediction)
    is_crowd = np.array([False, *(bool(info.get("iscrowd")) for info in target["segments_info"])])
    counts = ~is_crowd[targets] & ((targets > 0) | has_background)

    shape = len(target_classes), len(predicted_classes)
    pairs = targets[counts] * shape[1] + predictions[counts]
    overlap = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    unions = overlap.sum(axis=1, keepdims=True) + overlap.sum(axis=0) - overlap
    matches = (target_classes[:, None] == predicted_classes) & (2 * overlap > unions)
    matches[0, 0] = True  # nothing is found where nothing is
    is_missed, is_false = ~matches.any(axis=1)[targets], ~matches.any(axis=0)[predictions]
    differs = target_classes[targets] != predicted_classes[predictions]
    kinds = np.select(
        [~counts, is_missed & is_false & differs, is_missed, is_false, ~matches[targets, predictions]],
        [RIGHT, CONFUSED, MISSED, FALSE, INEXACT],
        RIGHT,
    )
    return kinds.astype(np.uint8)


def _number(segmentation: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(height, width)` numbers of segments in the order of their infos, from 1 and 0 for none, and the class
    of each number, -1 for none."""
    infos = segmentation["segments_info"]
    ids, inverse = np.unique(segmentation["segmentation"], return_inverse=True)
    numbers = {info["id"]: number for number, info in enumerate(infos, start=1)}
    table = np.array([numbers.get(id_, 0) for id_ in ids.tolist()], dtype=np.int64)
    classes = np.array([-1, *(info["label_id"] for info in infos)], dtype=np.int64)
    return table[inverse].reshape(np.shape(segmentation["segmentation"])), classes

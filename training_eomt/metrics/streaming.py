"""An `evaluate.Metric` that gathers statistics image by image, in memory only."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import evaluate
import numpy as np
import torch


State = dict[str, Any]


class StreamingMetric(evaluate.Metric):
    """Base of the metrics whose statistics can be merged: over images, batches and processes.

    `evaluate` itself writes every prediction to an Arrow file and reads all of them back in `compute`. Nothing is
    stored here: each image is reduced to its statistics as it is added, and nothing touches the disk or the network.

    Several processes: each adds its own images, then one merges the others' `state()` and calls `compute()`.

    Args:
        num_labels: number of classes.
        stuff_classes: label ids of the classes that are not things, for metrics that tell them apart.
    """

    def __init__(self, num_labels: int, stuff_classes: Iterable[int] = ()) -> None:
        self.num_labels = num_labels
        self.stuff_classes = frozenset(stuff_classes)
        super().__init__()
        self._state = self.empty_state()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=datasets.Features())

    @abstractmethod
    def empty_state(self) -> State:
        """Returns the statistics of no image at all."""

    @abstractmethod
    def image_state(self, prediction: Any, reference: Any) -> State:
        """Returns the statistics of one image."""

    @abstractmethod
    def result(self, state: State) -> dict[str, Any]:
        """Returns the metric's values by name, and `per_class`: the values of each class by label id."""

    def confusion_matrix(self) -> np.ndarray | None:
        """
        Returns the confusion matrix over all images added or merged so far.

        Returns:
            `(num_labels, 1 + num_labels)` int64: pixels by their class in the reference, void left out, and by their
            predicted class, no class first. None if the metric does not compare pixels.
        """
        return None

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one image."""
        self.merge(self.image_state(prediction, reference))

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds several images, given as two sequences of the same length."""
        if len(predictions) != len(references):
            raise ValueError(f"Got {len(predictions)} predictions for {len(references)} references.")
        for prediction, reference in zip(predictions, references):
            self.add(prediction=prediction, reference=reference)

    def state(self) -> State:
        """Returns a copy of the statistics so far, a plain dictionary to pickle, gather and `merge`."""
        return copy.deepcopy(self._state)

    def merge(self, *states: Mapping[str, Any]) -> None:
        """Adds statistics that another process, or `image_state`, returned."""
        for state in states:
            self.merge_into(self._state, state)

    def merge_into(self, total: State, state: Mapping[str, Any]) -> None:
        """Adds `state` to `total`, in place. Here, both hold arrays that are summed."""
        for name, values in total.items():
            values += state[name]

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns the values over all images added or merged so far, and forgets them.

        Args:
            predictions: of images to add first, as in `add_batch`.
            references: what is to be found in them.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        result = self.result(self._state)
        self._state = self.empty_state()
        return result

    def _build_data_dir(self) -> str:
        return ""  # where `evaluate` would make its cache folder


def mean(values: Iterable[float]) -> float:
    """Returns the mean, NaN for no value."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def as_array(label_map: Any) -> np.ndarray:
    """Converts an array, a tensor on any device or a nested list to an array."""
    return label_map.cpu().numpy() if isinstance(label_map, torch.Tensor) else np.asarray(label_map)


def count_pairs(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Counts how often each pair of numbers occurs at the same position of two flat int64 arrays: `shape` int64."""
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)

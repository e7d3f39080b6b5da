"""An evaluation: the model's outputs, the metrics of the task, and which of the logged values are results."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_eomt import EomtForUniversalSegmentationOutput

from .json_files import read_object
from .tasks import TASKS


MAX_WINDOWS = 4  # per image of a batch, that a model sees at a time; usual images are not split into more


class RunningEvaluation:
    """
    The statistics of an evaluation on one process: the metrics of a task, and the loss.

    Args:
        task: "panoptic", "instance" or "semantic".
        num_labels: number of classes.
        stuff_classes: label ids of the classes that are not things.
    """

    def __init__(self, task: str, num_labels: int, stuff_classes: Sequence[int] = ()) -> None:
        self.metrics = TASKS[task].create_metrics(num_labels, stuff_classes)
        self.loss = 0.0
        self.num_inputs = 0

    def add_batch(self, predictions: list[Any], references: list[Any], losses: Sequence[float]) -> None:
        """Adds a batch of images, and the loss of each input of the model, of which an image may have several."""
        for metric in self.metrics:
            metric.add_batch(predictions=predictions, references=references)
        self.loss += sum(losses)
        self.num_inputs += len(losses)

    def state(self) -> tuple[list[dict[str, Any]], float, int]:
        """Returns a copy of the statistics, to pickle, gather and `merge`."""
        return [metric.state() for metric in self.metrics], self.loss, self.num_inputs

    def merge(self, states: Sequence[tuple[list[dict[str, Any]], float, int]]) -> None:
        """Adds the statistics of other processes."""
        for metric_states, loss, num_inputs in states:
            for metric, metric_state in zip(self.metrics, metric_states, strict=True):
                metric.merge(metric_state)
            self.loss += loss
            self.num_inputs += num_inputs

    def confusion_matrix(self) -> np.ndarray | None:
        """Returns the confusion matrix of the first metric that has one."""
        matrices = (metric.confusion_matrix() for metric in self.metrics)
        return next((matrix for matrix in matrices if matrix is not None), None)

    def compute(self) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
        """Returns the values by name, and the values of each class by label id."""
        values: dict[str, float] = {}
        per_class: dict[int, dict[str, float]] = {}
        for metric in self.metrics:
            result = metric.compute()
            for label_id, of_class in result.pop("per_class").items():
                per_class.setdefault(label_id, {}).update(of_class)
            values |= result
        return {**values, "loss": self.loss / max(self.num_inputs, 1)}, per_class


def measured_names(task: str) -> list[str]:
    """Returns the names of what an evaluation measures."""
    return list(RunningEvaluation(task, num_labels=1).compute()[0])


def select_results(logs: Mapping[str, Any]) -> dict[str, float]:
    """
    Returns the metrics' values among the logged values of an evaluation, without the prefix `eval_`.

    Neither times nor the loss nor anything that is not logged by an evaluation are among them, nor are means over
    nothing (NaN, or null in JSON).
    """
    return {
        name.removeprefix("eval_"): value
        for name, value in logs.items()
        if name.startswith("eval_")
        and not name.endswith(("_loss", "_runtime", "_per_second", "_time"))
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and not math.isnan(value)
    }


def read_evaluation(path: str | PathLike) -> dict[str, float]:
    """
    Reads the metrics from an `evaluation.json`, without times and the loss.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds no results.
    """
    report = read_object(Path(path))
    results = select_results(report)
    if not results:
        raise ValueError(f"{path} holds no results.")
    for name, value in results.items():
        if not math.isfinite(value):
            raise ValueError(f"{path}: {name} is {value}, and must be a finite number. Evaluate again.")
    return results


def run_model(model: Any, pixel_values: torch.Tensor, num_images: int, **inputs: Any) -> Any:
    """
    Returns the model's outputs for a batch of images, however many windows the images are split into.

    Args:
        model: the model.
        pixel_values: `(num_inputs, 3, height, width)`.
        num_images: number of images.
        inputs: the model's other inputs, such as `patch_offsets`; left out if there are too many windows for one call.
    """
    most = MAX_WINDOWS * num_images
    if len(pixel_values) <= most:
        return model(pixel_values=pixel_values, **inputs)
    parts = [model(pixel_values=part) for part in pixel_values.split(most)]
    return EomtForUniversalSegmentationOutput(
        masks_queries_logits=torch.cat([part.masks_queries_logits for part in parts]),
        class_queries_logits=torch.cat([part.class_queries_logits for part in parts]),
        patch_offsets=inputs.get("patch_offsets"),
    )

"""What training knows about each task: what its targets are, how it is measured, and how a result is reported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import image_processing_eomt
from image_processing_eomt import VOID

from .data.samples import Sample
from .metrics import MaskAveragePrecision, MeanIoU, PanopticQuality, StreamingMetric


@dataclass(frozen=True, kw_only=True)
class Task(image_processing_eomt.Task):
    """
    A kind of segmentation, with what image processors know about it. [`TASKS`] has all of them.

    Args:
        metrics: classes of the metrics. They get the same predictions and references; their values are reported
            together, and must differ in their names.
        headline: name of the value that says most, the greater the better.
        headline_title: the headline's name in a sentence.
        details: values to print beside the headline.
        subject: what the metric is about, where there is none of it.
        absent_classes: says of a number of classes that they are in no result; `{}` stands for the number.
        build_reference: returns what the metrics compare predictions with: a sample's targets.
        predict: `(image_processor, outputs, target_sizes)` -> what the metrics compare with the references, for each
            image of a batch.
        scale_range: smallest and largest scale of the augmentation, as published.
    """

    metrics: tuple[type[StreamingMetric], ...]
    headline: str
    headline_title: str
    details: tuple[str, ...]
    subject: str
    build_reference: Callable[[Sample], Any]
    predict: Callable[[Any, Any, Sequence[tuple[int, int]]], list[Any]]
    absent_classes: str = "{} classes occur neither in the validation data nor in the predictions."
    scale_range: tuple[float, float] = (0.1, 2.0)

    def create_metrics(self, num_labels: int, stuff_classes: Sequence[int] = ()) -> list[StreamingMetric]:
        """Returns the metrics, before any image."""
        return [metric(num_labels, stuff_classes) for metric in self.metrics]


def build_panoptic_reference(sample: Sample) -> dict[str, Any]:
    """Returns the targets in the form of a panoptic result, crowds included: `segmentation` and `segments_info`."""
    segmentation = np.full(sample.size, VOID, dtype=np.int32)
    for index, target in enumerate(sample.targets):
        segmentation[target.mask()] = index
    info = [
        {"id": index, "label_id": target.label_id, "iscrowd": target.iscrowd}
        for index, target in enumerate(sample.targets)
    ]
    return {"segmentation": segmentation, "segments_info": info}


def build_instance_reference(sample: Sample) -> dict[str, Any]:
    """Returns the targets as instances that may overlap: run lengths, `segments_info` and the image's id."""
    info = [
        {"label_id": target.label_id, "iscrowd": target.iscrowd}
        | ({} if target.area is None else {"area": target.area})
        for target in sample.targets
    ]
    rles = [target.rle for target in sample.targets]
    return {"image_id": sample.image_id, "segmentation": rles, "segments_info": info}


def build_semantic_reference(sample: Sample) -> np.ndarray:
    """Returns the class of every pixel, `(height, width)` int16, `VOID` where there is none."""
    classes = np.full(sample.size, VOID, dtype=np.int16)
    for target in sample.targets:
        classes[target.mask()] = target.label_id
    return classes


def _predict_panoptic(image_processor: Any, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Any]:
    results = image_processor.post_process(outputs, sizes)
    return [{**result, "segmentation": result["segmentation"].cpu().numpy()} for result in results]


def _predict_instances(image_processor: Any, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Any]:
    # Precision is measured at every score, whatever the processor's threshold is.
    return image_processor.post_process(outputs, sizes, threshold=0.0, return_coco_annotation=True)


def _predict_semantic(image_processor: Any, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Any]:
    return [result.cpu().numpy() for result in image_processor.post_process(outputs, sizes)]


TASKS = {
    "panoptic": Task(
        **vars(image_processing_eomt.TASKS["panoptic"]),
        metrics=(PanopticQuality,),
        headline="pq",
        headline_title="Panoptic quality",
        details=("pq_things", "pq_stuff"),
        subject="segments",
        build_reference=build_panoptic_reference,
        predict=_predict_panoptic,
    ),
    "instance": Task(
        **vars(image_processing_eomt.TASKS["instance"]),
        metrics=(MaskAveragePrecision,),
        headline="ap",
        headline_title="Average precision of masks",
        details=("ap50", "ap75"),
        subject="instances",
        absent_classes="{} classes do not occur in the validation data.",
        build_reference=build_instance_reference,
        predict=_predict_instances,
    ),
    "semantic": Task(
        **vars(image_processing_eomt.TASKS["semantic"]),
        metrics=(MeanIoU,),
        headline="miou",
        headline_title="Mean IoU",
        details=("pixel_accuracy",),
        subject="annotated pixels",
        build_reference=build_semantic_reference,
        predict=_predict_semantic,
        scale_range=(0.5, 2.0),
    ),
}

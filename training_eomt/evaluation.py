"""What is measured for each task, from a model's outputs and what was to be found."""

from collections.abc import Sequence
from typing import Any

import torch

from modeling_eomt import EomtForUniversalSegmentationOutput

from .metrics import MaskAveragePrecision, MeanIoU, PanopticQuality
from .metrics.streaming import StreamingMetric


MAX_WINDOWS = 4  # for each image of a batch, that a model sees at a time; usual pictures are not cut into more

# The figure of each task that says most.
HEADLINES = {"panoptic": "pq", "instance": "ap", "semantic": "miou"}


def new_metric(task: str, num_labels: int, stuff_classes: Sequence[int]) -> StreamingMetric:
    """The metric of a task, without any picture."""
    if task == "panoptic":
        return PanopticQuality(num_labels, stuff_classes)
    return MaskAveragePrecision(num_labels) if task == "instance" else MeanIoU(num_labels)


def outputs_of(model: Any, pixel_values: torch.Tensor, num_images: int, **inputs: Any) -> Any:
    """
    What a model gives for images, however many windows they are cut into.

    Args:
        model: the model.
        pixel_values: `(num_inputs, 3, height, width)`.
        num_images: how many images they are of.
        inputs: what else the model takes, such as `patch_offsets`; of many windows it is given those alone.
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


def predictions(image_processor: Any, outputs: Any, target_sizes: Sequence[tuple[int, int]]) -> list[Any]:
    """
    What the metric of the processor's task compares with the references, for each picture of a batch.

    Args:
        image_processor: the image processor; its thresholds count, but not for instances: their precision is measured
            at every score.
        outputs: of the model.
        target_sizes: `(height, width)` of the pictures.
    """
    if image_processor.task == "instance":
        return image_processor.post_process(outputs, target_sizes, threshold=0.0, return_coco_annotation=True)
    results = image_processor.post_process(outputs, target_sizes)
    if image_processor.task == "semantic":
        return [result.cpu().numpy() for result in results]
    return [{**result, "segmentation": result["segmentation"].cpu().numpy()} for result in results]


def not_finite(outputs: Any) -> list[int]:
    """
    The images of a batch, by number, for which a model's outputs hold NaN or infinity, so that they say nothing.

    Args:
        outputs: of the model. Images that are split have several inputs, which `patch_offsets` tells apart.
    """
    logits = (outputs.masks_queries_logits.flatten(1), outputs.class_queries_logits.flatten(1))
    # NaN is both the largest and the smallest.
    are_finite = torch.stack([each.amax(1).isfinite() & each.amin(1).isfinite() for each in logits]).all(0)
    offsets = getattr(outputs, "patch_offsets", None)
    image_of_input = range(len(are_finite)) if offsets is None else [int(offset[0]) for offset in offsets]
    return sorted(
        {image for image, is_finite in zip(image_of_input, are_finite.tolist(), strict=True) if not is_finite}
    )

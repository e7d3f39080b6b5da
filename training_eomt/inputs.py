"""From samples to what the model takes: augmented for training, as deployed for evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil

from .augmentation import PanopticAugmentation
from .data.samples import Sample


ImageProcessor = EomtImageProcessor | EomtImageProcessorPil
VOID = -1


def segment_map(sample: Sample, with_crowds: bool) -> np.ndarray:
    """`(height, width)` int64: the index of the target at each pixel, `VOID` where there is none (or only a crowd)."""
    segments = np.full(sample.size, VOID, dtype=np.int64)
    for index, target in enumerate(sample.targets):
        if with_crowds or not target.iscrowd:
            segments[target.mask()] = index
    return segments


def reference_segmentation(sample: Sample) -> dict[str, Any]:
    """The targets in the form of a panoptic result, crowds included: `segmentation` and `segments_info`."""
    info = [
        {"id": index, "label_id": target.label_id, "iscrowd": target.iscrowd}
        for index, target in enumerate(sample.targets)
    ]
    return {"segmentation": segment_map(sample, with_crowds=True), "segments_info": info}


def processed(sample: Sample, image_processor: ImageProcessor) -> dict[str, Any]:
    """`pixel_values`, `mask_labels` and `class_labels` of a sample, prepared as pictures are at inference."""
    features = image_processor.preprocess(
        images=[sample.image],
        segmentation_maps=[segment_map(sample, with_crowds=False)],
        instance_id_to_semantic_id={index: target.label_id for index, target in enumerate(sample.targets)},
        ignore_index=VOID,
        do_reduce_labels=False,
        return_tensors="pt",
    )
    return {name: features[name][0] for name in ("pixel_values", "mask_labels", "class_labels")}


class TrainingInputs(Dataset):
    """Samples as training inputs.

    Args:
        samples: data set of [`Sample`].
        image_processor: normalises and, without augmentation, resizes and pads.
        augmentation: random augmentation of a sample, or None to train on pictures as they are deployed.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_processor: ImageProcessor,
        augmentation: PanopticAugmentation | None,
    ):
        self.samples = samples
        self.image_processor = image_processor
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        if self.augmentation is None:
            return processed(sample, self.image_processor)
        image, masks, labels = self.augmentation(sample)
        features = self.image_processor.preprocess(image, do_resize=False, do_pad=False, return_tensors="pt")
        return {"pixel_values": features["pixel_values"][0], "mask_labels": masks, "class_labels": labels}


class EvaluationInputs(Dataset):
    """Samples as evaluation inputs, each with a `reference`: what is to be found, at the picture's own size."""

    def __init__(self, samples: Sequence[Sample], image_processor: ImageProcessor):
        self.samples = samples
        self.image_processor = image_processor

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        return {**processed(sample, self.image_processor), "reference": reference_segmentation(sample)}


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: `pixel_values` stacked, everything else in lists, since images differ in their number of targets."""
    batch: dict[str, Any] = {name: [example[name] for example in examples] for name in examples[0]}
    sizes = {tuple(pixel_values.shape) for pixel_values in batch["pixel_values"]}
    if len(sizes) > 1:
        raise ValueError(f"Pictures of a batch must have one size, got {sorted(sizes)}: set the processor's do_pad.")
    batch["pixel_values"] = torch.stack(batch["pixel_values"])
    return batch

"""From samples to the model's inputs: in whole steps and augmented for training, as deployed for evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from image_processing_eomt import VOID, EomtImageProcessor, EomtImageProcessorPil

from .augmentation import SegmentationAugmentation
from .data.base import SegmentationDataset
from .data.samples import Sample
from .tasks import TASKS


ImageProcessor = EomtImageProcessor | EomtImageProcessorPil


def process_sample(sample: Sample, image_processor: ImageProcessor, **settings: Any) -> dict[str, Any]:
    """
    Prepares a sample as images are prepared at inference; crowds are left out.

    Args:
        sample: the sample.
        image_processor: its image processor.
        settings: of the image processor, over its own.

    Returns:
        `pixel_values` `(num_windows, 3, height, width)`, and for each window `mask_labels` and `class_labels`; where
        images are split also `patch_offsets`.

    Raises:
        ValueError: the image processor does not take the image, which is named.
    """
    keep = [index for index, target in enumerate(sample.targets) if not target.iscrowd]
    try:
        features = image_processor.preprocess(
            images=[sample.image],
            segmentation_maps=[replace(sample, targets=[sample.targets[index] for index in keep]).masks()],
            instance_id_to_semantic_id={number: sample.targets[index].label_id for number, index in enumerate(keep)},
            ignore_index=VOID,
            do_reduce_labels=False,
            return_tensors="pt",
            **settings,
        )
    except ValueError as error:
        raise ValueError(f"{sample.file_name or sample.image_id}: {error}") from error
    return dict(features)


class TrainingInputs(Dataset):
    """Samples as training inputs, each `pixel_values` `(1, 3, height, width)` with its targets.

    Item `i` is drawn from sample `i % len(self)`. The numbers go on from epoch to epoch, so that each of them stands
    for one draw of a sample, and whatever is random about it follows from the seed and this number alone: neither
    the number of workers and processes nor a run that was stopped and resumed changes anything.

    Args:
        samples: dataset of [`Sample`].
        image_processor: normalises and, without augmentation, resizes and pads.
        augmentation: random augmentation of a sample, or None to train on images as they are.
        seed: makes the randomness repeatable.
    """

    def __init__(
        self,
        samples: Sequence[Sample] | SegmentationDataset,
        image_processor: ImageProcessor,
        augmentation: SegmentationAugmentation | None,
        seed: int = 0,
    ):
        self.samples = samples
        self.image_processor = image_processor
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        sample = self.samples[draw % len(self.samples)]
        augmentation_seed, image_seed = np.random.SeedSequence([self.seed, draw]).generate_state(2).tolist()
        if self.augmentation is None:
            # Training sees an image as one input, where it would be split in use.
            whole = {"do_split_image": False, "do_pad": True} if self.image_processor.do_split_image else {}
            example = process_sample(sample, self.image_processor, **whole)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(augmentation_seed)
                image, masks, labels = self.augmentation(sample)
            features = self.image_processor.preprocess(
                image, do_resize=False, do_pad=False, do_split_image=False, return_tensors="pt"
            )
            example = {"pixel_values": features["pixel_values"], "mask_labels": [masks], "class_labels": [labels]}
        return {**example, "image_seeds": torch.tensor([image_seed]), "file_names": [sample.file_name]}


class DrawSampler(Sampler[int]):
    """Numbers of draws for [`TrainingInputs`]: every epoch another random order of all samples, in whole batches.

    Samples that do not fill a batch of the total size at the end of an epoch are left out, others each time. So every
    step has the same number of samples, and they are the same however many processes and micro-batches share them.
    A dataset smaller than one total batch is repeated until it fills one.

    Args:
        num_samples: number of samples.
        total_batch_size: samples in an optimiser step, over all processes.
        seed: makes the orders repeatable.

    Raises:
        ValueError: no samples.
    """

    def __init__(self, num_samples: int, total_batch_size: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError("There is no sample to train on.")
        self.num_samples = num_samples
        self.total_batch_size = total_batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Samples in an epoch, a multiple of the total batch size."""
        return max(self.num_samples // self.total_batch_size, 1) * self.total_batch_size

    def __iter__(self) -> Iterator[int]:
        rounds = -(-len(self) // self.num_samples)  # 1, or more for very small datasets
        draws: list[int] = []
        for number in range(self.epoch * rounds, (self.epoch + 1) * rounds):
            order = np.random.default_rng([self.seed, number]).permutation(self.num_samples)
            draws += (number * self.num_samples + order).tolist()
        return iter(draws[: len(self)])

    def start_at(self, step: int) -> None:
        """Chooses the epoch that an optimiser step belongs to."""
        self.epoch = step * self.total_batch_size // len(self)


class EvaluationInputs(Dataset):
    """Samples as evaluation inputs: the windows that the processor makes of an image, and its targets at its own size.

    Args:
        samples: dataset of [`Sample`].
        image_processor: prepares images as at inference.
    """

    def __init__(self, samples: Sequence[Sample] | SegmentationDataset, image_processor: ImageProcessor):
        self.samples = samples
        self.image_processor = image_processor
        self.task = TASKS[str(image_processor.task)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        example = process_sample(sample, self.image_processor)
        seeds = np.random.SeedSequence(index).generate_state(len(example["pixel_values"]))
        return {
            **example,
            "image_seeds": torch.from_numpy(seeds.astype(np.int64)),
            "references": [self.task.build_reference(sample)],
            "target_sizes": [sample.size],
            "indices": [index],
            "file_names": [sample.file_name],
        }


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Makes a batch: `pixel_values` of all windows, everything else in lists, since images differ in their targets."""
    batch: dict[str, Any] = {name: [value for example in examples for value in example[name]] for name in examples[0]}
    sizes = {tuple(pixel_values.shape) for pixel_values in batch["pixel_values"]}
    if len(sizes) > 1:
        raise ValueError(f"Images of a batch must have one size, got {sorted(sizes)}: set the processor's do_pad.")
    for name in ("pixel_values", "image_seeds"):
        if name in batch:
            batch[name] = torch.stack(batch[name])
    if "patch_offsets" in batch:  # the image's index, until now within its own example
        batch["patch_offsets"] = [
            torch.cat([torch.tensor([index]), offset[1:]])
            for index, example in enumerate(examples)
            for offset in example["patch_offsets"]
        ]
    return batch

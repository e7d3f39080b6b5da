"""What the torchvision and the PIL image processor share: everything but the resize."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
)

from .label_maps_eomt import as_label_maps, masks_and_classes, resize_nearest
from .model_card_eomt import finish_saved_folder, push_saved, save_and_push
from .post_processing_eomt import panoptic_segments
from .sizes_eomt import padded_size, resized_size


SUPPORTED_TASKS = ("panoptic",)


def check_task(task: str) -> None:
    """Raises a `ValueError` for a task that cannot be done."""
    if task not in SUPPORTED_TASKS:
        raise ValueError(f"not supported yet by this version: task={task!r}. Supported: {', '.join(SUPPORTED_TASKS)}.")


class EomtProcessorMixin(BaseImageProcessor):
    """
    Images to pixel values, segmentation maps to masks and classes, and model outputs to segments.

    A backend adds `resize`, which takes and gives its own kind of array; from there on everything is a tensor.
    """

    resize: Any  # the backend's

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: ClassVar[dict[str, int]] = {"shortest_edge": 640, "longest_edge": 640}
    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_pad = True
    do_split_image = False
    ignore_index = 255
    do_reduce_labels = False
    task = "panoptic"
    stuff_classes: list[int] | None = None
    threshold = 0.8
    mask_threshold = 0.5
    overlap_mask_area_threshold = 0.8

    def _standardize_kwargs(self, size: Any = None, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        check_task(kwargs["task"])
        if kwargs["do_split_image"]:
            raise ValueError("not supported yet by this version: do_split_image=True.")
        height, width = padded_size(size)
        return super()._standardize_kwargs(size=SizeDict(shortest_edge=height, longest_edge=width), **kwargs)

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: Any = None,
        instance_id_to_semantic_id: Mapping[int, int] | Sequence[Mapping[int, int]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Resizes images to fit in `size`, pads them with black at the bottom and on the right, rescales and normalises.

        Args:
            images: one image or several, of any sizes.
            segmentation_maps: for each image a `(height, width)` map of integer ids.
            instance_id_to_semantic_id: class of each id, for all images or a list with one mapping per image. Without
                it the ids are classes.
            kwargs: any setting of the processor, for this call only, and `return_tensors`.

        Returns:
            `pixel_values`: `(batch, 3, height, width)` float32 (a list of `(3, height, width)` without
            `return_tensors`). With `segmentation_maps` also `mask_labels`, a list of `(num_targets, height, width)`
            bool, and `class_labels`, a list of `(num_targets,)` int64. Ids equal to `ignore_index` and padding belong
            to no target; `do_reduce_labels` also drops 0 and makes every other class one less.

        Raises:
            ValueError: the maps do not fit the images, or an id has no class.
        """
        return super().preprocess(images, segmentation_maps, instance_id_to_semantic_id, **kwargs)

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self,
        images: ImageInput,
        segmentation_maps: Any,
        instance_id_to_semantic_id: Mapping[int, int] | Sequence[Mapping[int, int]] | None,
        *,
        return_tensors: str | None,
        do_convert_rgb: bool,
        input_data_format: Any,
        device: Any = None,
        **settings: Any,
    ) -> BatchFeature:
        arrays = self._prepare_image_like_inputs(
            images, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, device=device
        )
        pixel_values = [self._pixel_values(array, **settings) for array in arrays]
        batch = BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)
        if segmentation_maps is not None:
            batch["mask_labels"], batch["class_labels"] = self._targets(
                [(array.shape[-2], array.shape[-1]) for array in arrays],
                as_label_maps(segmentation_maps),
                instance_id_to_semantic_id,
                pixel_values[0].device,
                **settings,
            )
        return batch

    def _pixel_values(self, array: Any, *, resample: Any, **settings: Any) -> Tensor:
        """`(3, height, width)` in the backend's kind of array to a resized, padded and normalised tensor."""
        content_size, output_size = self._sizes((array.shape[-2], array.shape[-1]), **settings)
        if content_size != array.shape[-2:]:
            height, width = content_size
            array = self.resize(array, size=SizeDict(height=height, width=width), resample=resample)
        image = torch.as_tensor(array)
        image = F.pad(image, (0, output_size[1] - content_size[1], 0, output_size[0] - content_size[0])).float()
        if settings["do_rescale"]:
            image = image * settings["rescale_factor"]
        if settings["do_normalize"]:
            mean, std = (
                torch.as_tensor(settings[name], device=image.device).reshape(-1, 1, 1)
                for name in ("image_mean", "image_std")
            )
            image = (image - mean) / std
        return image

    def _targets(
        self,
        image_sizes: list[tuple[int, int]],
        label_maps: list[Tensor],
        mapping: Mapping[int, int] | Sequence[Mapping[int, int]] | None,
        device: torch.device,
        **settings: Any,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`mask_labels` and `class_labels` of a batch."""
        if len(label_maps) != len(image_sizes):
            raise ValueError(f"Got {len(image_sizes)} images but {len(label_maps)} segmentation maps.")
        if isinstance(mapping, Sequence) and len(mapping) != len(image_sizes):
            raise ValueError(f"Got {len(image_sizes)} images but {len(mapping)} mappings of instance ids to classes.")
        mask_labels, class_labels = [], []
        for index, (image_size, label_map) in enumerate(zip(image_sizes, label_maps)):
            if tuple(label_map.shape) != image_size:
                raise ValueError(
                    f"Segmentation map {index} is {tuple(label_map.shape)}, its image {image_size} (height, width)."
                )
            content_size, output_size = self._sizes(image_size, **settings)
            try:
                masks, classes = masks_and_classes(
                    resize_nearest(label_map.to(device), content_size),
                    mapping[index] if isinstance(mapping, Sequence) else mapping,
                    settings["ignore_index"],
                    settings["do_reduce_labels"],
                    output_size,
                )
            except KeyError as error:
                raise ValueError(
                    f"Id {error} of segmentation map {index} has no class in instance_id_to_semantic_id."
                ) from error
            mask_labels.append(masks)
            class_labels.append(classes)
        return mask_labels, class_labels

    @staticmethod
    def _sizes(
        image_size: tuple[int, int], *, size: Any, do_resize: bool, do_pad: bool, **_: Any
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """`(height, width)` of an image when it enters the model, without and with padding."""
        target_size = padded_size(size)
        content_size = resized_size(image_size, target_size) if do_resize else image_size
        if not do_pad:
            return content_size, content_size
        if content_size[0] > target_size[0] or content_size[1] > target_size[1]:
            raise ValueError(f"An image of {image_size} does not fit in {target_size} (height, width): set do_resize.")
        return content_size, target_size

    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        target_sizes: Any = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_mask_area_threshold: float | None = None,
        stuff_classes: list[int] | None = None,
        size: Any = None,
    ) -> list[dict[str, Any]]:
        """
        Panoptic segmentations of a batch. An argument that is None takes the processor's stored setting.

        Args:
            outputs: what the model returned: `masks_queries_logits` `(batch, num_queries, height / 4, width / 4)` and
                `class_queries_logits` `(batch, num_queries, num_classes + 1)`.
            target_sizes: `(height, width)` in pixels of each original image, as a list or a `(batch, 2)` tensor; None
                leaves the results at the size the model saw, padding included.
            threshold: a query needs a class score above this.
            mask_threshold: a mask covers the pixels where its probability is at least this.
            overlap_mask_area_threshold: a query needs to keep at least this share of its mask against the others.
            stuff_classes: classes of which there is at most one segment per image.
            size: the `size` the images were pre-processed with, if not the stored one.

        Returns:
            For each image a dict of `segmentation`, `(height, width)` int32 with -1 where there is nothing, and
            `segments_info`, a list of dicts with `id`, `label_id`, `score`, `area` (pixels), `bbox` (`[x, y, width,
            height]`, pixels) and `was_fused`.

        Raises:
            ValueError: `target_sizes` does not fit the batch, or a stuff class is not a class of the model.
        """
        size = self.size if size is None else size
        results = []
        batch_size = outputs.class_queries_logits.shape[0]
        for index, target_size in enumerate(_target_sizes(target_sizes, batch_size)):
            if target_size is None:
                content_size = input_size = output_size = padded_size(size)
            else:
                output_size = target_size
                content_size, input_size = self._sizes(
                    target_size, size=size, do_resize=self.do_resize, do_pad=self.do_pad
                )
            results.append(
                panoptic_segments(
                    outputs.masks_queries_logits[index],
                    outputs.class_queries_logits[index],
                    output_size,
                    padded_size=input_size,
                    content_size=content_size,
                    threshold=_or_stored(threshold, self.threshold),
                    mask_threshold=_or_stored(mask_threshold, self.mask_threshold),
                    overlap_mask_area_threshold=_or_stored(
                        overlap_mask_area_threshold, self.overlap_mask_area_threshold
                    ),
                    stuff_classes=_or_stored(stuff_classes, self.stuff_classes) or [],
                )
            )
        return results

    def post_process(
        self, outputs: Any, target_sizes: Any = None, task: str | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """
        What the checkpoint is for: post-processing for `task`, by default the stored one.

        Takes and returns what `post_process_panoptic_segmentation` does.

        Raises:
            ValueError: the task is not supported.
        """
        check_task(self.task if task is None else task)
        return self.post_process_panoptic_segmentation(outputs, target_sizes, **kwargs)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As Transformers' own; beside a model it also writes the model card, which now knows the task."""
        if push_to_hub:
            return save_and_push(self, save_directory, kwargs)
        saved = super().save_pretrained(save_directory, **kwargs)
        finish_saved_folder(save_directory)
        return saved

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """As Transformers' own; the card of a model in the repository gets to know the task, a person's own stays."""
        return push_saved(self, repo_id, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The stored settings, with the names of both backends' classes for `AutoImageProcessor`."""
        return {
            **super().to_dict(),
            "auto_map": {
                "AutoImageProcessor": {
                    "torchvision": "image_processing_eomt.EomtImageProcessor",
                    "pil": "image_processing_eomt.EomtImageProcessorPil",
                }
            },
        }


def _or_stored(given: Any, stored: Any) -> Any:
    return stored if given is None else given


def _target_sizes(target_sizes: Any, batch_size: int) -> list[tuple[int, int] | None]:
    """One `(height, width)` per image, or None for each."""
    if target_sizes is None:
        return [None] * batch_size
    sizes = [tuple(int(edge) for edge in size) for size in target_sizes]
    if len(sizes) != batch_size:
        raise ValueError(f"Got {len(sizes)} target sizes for a batch of {batch_size} images.")
    for index, size in enumerate(sizes):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"Target size {index} must be (height, width) in pixels, got {size}.")
    return sizes  # type: ignore[return-value]

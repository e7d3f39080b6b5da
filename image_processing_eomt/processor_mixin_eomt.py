"""What the torchvision and the PIL image processor share: everything but the resize."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)

from .instances_eomt import instance_segments
from .label_maps_eomt import as_label_maps, masks_and_classes, resize_nearest
from .model_card_eomt import finish_saved_folder, push_saved, save_and_push
from .panoptic_eomt import panoptic_segments
from .pixels_eomt import as_pixels
from .semantic_eomt import semantic_classes
from .sizes_eomt import View, padded_size, view_of
from .tasks_eomt import check_task, only_for_tasks


class EomtProcessorMixin(BaseImageProcessor):
    """
    Images to pixel values, segmentation maps to masks and classes, and model outputs to segments.

    A backend adds `resize`, which takes and gives its own kind of array; from there on everything is a tensor.
    """

    # The backend's:
    backend: str
    resize: Any

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: ClassVar[dict[str, int]] = {"shortest_edge": 640, "longest_edge": 640}
    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    # By default what the published models of the task do; a checkpoint without a task is what its splitting suggests.
    task: str | None = None
    do_split_image: bool | None = None
    do_pad: bool | None = None
    ignore_index = 255
    do_reduce_labels = False
    stuff_classes: list[int] | None = None
    threshold = 0.8
    mask_threshold = 0.5
    overlap_mask_area_threshold = 0.8
    top_k = 100

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A processor from stored settings; a `task` among `kwargs` brings its splitting and padding along."""
        return super().from_dict(image_processor_dict, **_with_settings_of_task(kwargs))

    def _standardize_kwargs(  # type: ignore[override]
        self,
        size: Any = None,
        task: str | None = None,
        do_split_image: bool | None = None,
        do_pad: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if task is None:
            task = "semantic" if do_split_image else "panoptic"
        check_task(task)
        if do_split_image is None:
            do_split_image = task == "semantic"
        if do_pad is None:
            do_pad = not do_split_image
        height, width = padded_size(size)
        return super()._standardize_kwargs(
            size=SizeDict(shortest_edge=height, longest_edge=width),
            task=task,
            do_split_image=do_split_image,
            do_pad=do_pad,
            **kwargs,
        )

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: Any = None,
        instance_id_to_semantic_id: Mapping[int, int] | Sequence[Mapping[int, int]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Resizes images, pads or splits them, rescales and normalises.

        Without `do_split_image` an image is made to fit in `size` and, with `do_pad`, padded with black at the bottom
        and on the right. With it (semantic segmentation) it is made to cover `size`, and is cut into windows of that
        size, which overlap evenly.

        Args:
            images: one image or several, of any kind and sizes. Pixels are taken as they are stored: turn photographs
                upright with `PIL.ImageOps.exif_transpose`. Transparency is dropped.
            segmentation_maps: for each image a `(height, width)` map of integer ids. In a list, an entry may also be
                `(num_masks, height, width)` bool masks, which may overlap and whose ids are their indices.
            instance_id_to_semantic_id: class of each id, for all images or a list with one mapping per image. Without
                it the ids are classes.
            kwargs: any setting of the processor, for this call only, and `return_tensors`. A `task` brings its
                splitting and padding along unless these are given too.

        Returns:
            `pixel_values`: `(batch, 3, height, width)` float32, in which every window of an image has its place;
            without `return_tensors` a list of `(3, height, width)`, NumPy arrays with the PIL backend. With
            `do_split_image` also `patch_offsets`: for each window the image's index, and the first pixel and the one
            after the last along the side that is split. With `segmentation_maps` also `mask_labels`, a list of
            `(num_targets, height, width)` bool, and `class_labels`, a list of `(num_targets,)` int64. Ids equal to
            `ignore_index` and padding belong to no target; `do_reduce_labels` also drops 0 and makes every other class
            one less.

        Raises:
            ValueError: the maps do not fit the images, or an id has no class.
        """
        channel_axis = -1 if kwargs.get("input_data_format") in ("channels_last", ChannelDimension.LAST) else 0
        if isinstance(images, list | tuple):
            images = [_with_channel(image, channel_axis) for image in images]
        else:
            images = _with_channel(images, channel_axis)
        return super().preprocess(
            images, segmentation_maps, instance_id_to_semantic_id, **_with_settings_of_task(kwargs)
        )

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        device: Any = None,
        **_: Any,
    ) -> Any:
        """An image of any kind as `(channels, height, width)` in the backend's kind of array, see `as_pixels`."""
        pixels = as_pixels(image, bool(do_convert_rgb), input_data_format)
        return pixels.to(device) if self.backend == "torchvision" else pixels.cpu().numpy()

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
        views = [view_of((array.shape[-2], array.shape[-1]), **settings) for array in arrays]
        pixel_values = [
            window for array, view in zip(arrays, views) for window in self._pixel_values(array, view, **settings)
        ]
        is_numpy = return_tensors is None and self.backend == "pil"  # as all of Transformers' PIL processors
        batch = BatchFeature(
            {"pixel_values": [window.numpy() if is_numpy else window for window in pixel_values]},
            tensor_type=return_tensors,
        )
        if settings["do_split_image"]:
            offsets = [[index, *span] for index, view in enumerate(views) for span in view.spans()]
            batch["patch_offsets"] = (
                offsets if return_tensors is None else [torch.tensor(offset) for offset in offsets]
            )
        if segmentation_maps is not None:
            batch["mask_labels"], batch["class_labels"] = self._targets(
                arrays,
                views,
                as_label_maps(segmentation_maps),
                instance_id_to_semantic_id,
                pixel_values[0].device,
                settings["ignore_index"],
                settings["do_reduce_labels"],
            )
        return batch

    def _pixel_values(self, array: Any, view: View, *, resample: Any, **settings: Any) -> list[Tensor]:
        """`(3, height, width)` in the backend's kind of array to the resized, padded, normalised inputs it makes."""
        height, width = view.content_size
        if view.content_size != tuple(array.shape[-2:]):
            array = self.resize(array, size=SizeDict(height=height, width=width), resample=resample)
        image = _pad(torch.as_tensor(array).contiguous(), view.input_size)
        # as / 255, to the last bit
        image = image / (1 / settings["rescale_factor"]) if settings["do_rescale"] else image.float()
        if settings["do_normalize"]:
            mean, std = (
                torch.as_tensor(settings[name], device=image.device).reshape(-1, 1, 1)
                for name in ("image_mean", "image_std")
            )
            image = (image - mean).div_(std)
        return [_window(image, view, index).contiguous() for index in range(len(view.windows))]

    @staticmethod
    def _targets(
        arrays: Sequence[Any],
        views: Sequence[View],
        label_maps: Sequence[Tensor],
        mapping: Mapping[int, int] | Sequence[Mapping[int, int]] | None,
        device: torch.device,
        ignore_index: int | None,
        do_reduce_labels: bool,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`mask_labels` and `class_labels` of a batch."""
        if len(label_maps) != len(views):
            raise ValueError(f"Got {len(views)} images but {len(label_maps)} segmentation maps.")
        if isinstance(mapping, Sequence) and len(mapping) != len(views):
            raise ValueError(f"Got {len(views)} images but {len(mapping)} mappings of instance ids to classes.")
        mask_labels, class_labels = [], []
        for index, (array, view, label_map) in enumerate(zip(arrays, views, label_maps)):
            image_size = (array.shape[-2], array.shape[-1])
            if tuple(label_map.shape[-2:]) != image_size:
                raise ValueError(
                    f"Segmentation map {index} is {tuple(label_map.shape[-2:])}, its image {image_size} (height, "
                    "width)."
                )
            resized = resize_nearest(label_map.to(device), view.content_size)
            for window in range(len(view.windows)):
                try:
                    masks, classes = masks_and_classes(
                        _window(resized, view, window),
                        mapping[index] if isinstance(mapping, Sequence) else mapping,
                        ignore_index,
                        do_reduce_labels,
                    )
                except KeyError as error:
                    raise ValueError(
                        f"Id {error} of segmentation map {index} has no class in instance_id_to_semantic_id."
                    ) from error
                mask_labels.append(_pad(masks, view.input_size))
                class_labels.append(classes)
        return mask_labels, class_labels

    @only_for_tasks("panoptic")
    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        target_sizes: Any = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_mask_area_threshold: float | None = None,
        stuff_classes: Sequence[int] | None = None,
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
            ValueError: `target_sizes` does not fit the batch, an image was split, or a stuff class is not a class of
                the model.
        """
        return [
            panoptic_segments(
                outputs.masks_queries_logits[index],
                outputs.class_queries_logits[index],
                view,
                output_size,
                threshold=_or_stored(threshold, self.threshold),
                mask_threshold=_or_stored(mask_threshold, self.mask_threshold),
                overlap_mask_area_threshold=_or_stored(overlap_mask_area_threshold, self.overlap_mask_area_threshold),
                stuff_classes=_or_stored(stuff_classes, self.stuff_classes) or (),
            )
            for index, (view, output_size) in enumerate(self._whole_views(outputs, target_sizes, size))
        ]

    @only_for_tasks("panoptic", "instance")
    def post_process_instance_segmentation(
        self,
        outputs: Any,
        target_sizes: Any = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_mask_area_threshold: float | None = None,
        top_k: int | None = None,
        return_binary_maps: bool = False,
        return_coco_annotation: bool = False,
        size: Any = None,
    ) -> list[dict[str, Any]]:
        """
        Instances in a batch, best first. An argument that is None takes the processor's stored setting.

        Args:
            outputs, target_sizes, size: as for `post_process_panoptic_segmentation`.
            threshold: an instance needs a score, class score x mean probability of its mask, of at least this.
            mask_threshold: a mask covers the pixels where its probability is above this.
            overlap_mask_area_threshold: not used, since instances may overlap; Transformers' own pipeline gives it.
            top_k: at most this many pairs of a query and a class are looked at.
            return_binary_maps: return each instance's own mask.
            return_coco_annotation: return each instance's own mask, run-length encoded.

        Returns:
            For each image a dict of `segmentation` and `segments_info`, a list of dicts with `id`, `label_id`,
            `score`, `area` and `bbox` of the whole mask (pixels) and `was_fused` (False). `segmentation` is
            `(height, width)` int32, the best instance at each pixel or -1; with `return_binary_maps`
            `(num_instances, height, width)` bool; with `return_coco_annotation` a list of `{"size", "counts"}` as
            pycocotools reads and JSON holds them.

        Raises:
            ValueError: `target_sizes` does not fit the batch, an image was split, or both forms are asked for.
        """
        return [
            instance_segments(
                outputs.masks_queries_logits[index],
                outputs.class_queries_logits[index],
                view,
                output_size,
                threshold=_or_stored(threshold, self.threshold),
                mask_threshold=_or_stored(mask_threshold, self.mask_threshold),
                top_k=_or_stored(top_k, self.top_k),
                return_binary_maps=return_binary_maps,
                return_coco_annotation=return_coco_annotation,
            )
            for index, (view, output_size) in enumerate(self._whole_views(outputs, target_sizes, size))
        ]

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Any = None, size: Any = None, return_segmentation_scores: bool = False
    ) -> list[Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        """
        The class of every pixel of the images in a batch; the windows of a split image are put together again.

        Args:
            outputs: as for `post_process_panoptic_segmentation`, and `patch_offsets` if the model was given them.
            target_sizes: `(height, width)` in pixels of each original image, as a list or a `(batch, 2)` tensor. None
                leaves the results at the size the model saw, padding included, and is not possible for split images.
            size: the `size` the images were pre-processed with, if not the stored one.
            return_segmentation_scores: return the scores of all classes too: `num_classes` x 4 bytes a pixel.

        Returns:
            For each image `(height, width)` int64 classes, or with `return_segmentation_scores` an object with these
            as `segmentation` and `segmentation_scores`, `(num_classes, height, width)` float32.

        Raises:
            ValueError: `target_sizes` does not fit the batch, or is missing.
        """
        results: list[Any] = []
        first = 0
        for view, output_size in self._views(outputs, target_sizes, size):
            windows = slice(first, first + len(view.windows))
            first = windows.stop
            segmentation, scores = semantic_classes(
                outputs.masks_queries_logits[windows],
                outputs.class_queries_logits[windows],
                view,
                output_size,
                return_segmentation_scores,
            )
            if return_segmentation_scores:
                data = {"segmentation": segmentation, "segmentation_scores": scores}
                results.append(SemanticSegmentationPostProcessorOutput(data))
            else:
                results.append(segmentation)
        return results

    def post_process(
        self, outputs: Any, target_sizes: Any = None, task: str | None = None, **kwargs: Any
    ) -> list[Any]:
        """
        What the checkpoint is for: `post_process_{task}_segmentation`, by default with the stored task.

        Raises:
            ValueError: the task does not exist, and what the task's method raises.
        """
        task = self.task if task is None else task
        assert task is not None  # the stored one never is
        check_task(task)
        # From the class, which has all of them.
        results: list[Any] = getattr(type(self), f"post_process_{task}_segmentation")(
            self, outputs, target_sizes, **kwargs
        )
        return results

    def _whole_views(self, outputs: Any, target_sizes: Any, size: Any) -> list[tuple[View, tuple[int, int]]]:
        """As `_views`, for tasks whose queries stand for things in the whole image."""
        views = self._views(outputs, target_sizes, size)
        if any(len(view.windows) > 1 for view, _ in views):
            raise ValueError(
                "Queries of different windows are different objects, so the windows of a split image cannot be put "
                "together: pre-process with do_split_image=False and do_pad=True."
            )
        return views

    def _views(self, outputs: Any, target_sizes: Any, size: Any) -> list[tuple[View, tuple[int, int]]]:
        """For each image, in the batch's order: what the model saw of it, and the `(height, width)` of its result."""
        num_inputs = outputs.class_queries_logits.shape[0]
        offsets = getattr(outputs, "patch_offsets", None)
        is_split = offsets is not None and len(offsets) > 0
        size = self.size if size is None else size
        if target_sizes is None:
            if is_split or self.do_split_image:
                raise ValueError("The windows of split images cannot be put together without target_sizes.")
            if not self.do_pad:
                raise ValueError("Images that are not padded differ in size: pass their sizes as target_sizes.")
            input_size = padded_size(size)
            return [(View(input_size, input_size), input_size)] * num_inputs
        sizes = _target_sizes(target_sizes)
        settings: dict[str, Any] = {"size": size, "do_resize": self.do_resize}
        if is_split or self.do_split_image:
            views = [view_of(image, **settings, do_pad=bool(self.do_pad), do_split_image=True) for image in sizes]
            if sum(len(view.windows) for view in views) == num_inputs:
                if is_split:
                    _check_offsets(offsets, views)
                return list(zip(views, sizes))
        if is_split or len(sizes) != num_inputs:
            raise ValueError(
                f"The model saw {num_inputs} inputs, which are not what {len(sizes)} images of the given target_sizes "
                "make with this processor's settings."
            )
        # A processor that splits can only have padded what it did not split.
        do_pad = bool(self.do_pad or self.do_split_image)
        return [(view_of(image, **settings, do_pad=do_pad, do_split_image=False), image) for image in sizes]

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
        height, width = padded_size(self.size)
        # Transformers' own processor makes an image cover the size only where there is no longest edge.
        is_cover = self.do_split_image and height == width
        return {
            **super().to_dict(),
            "size": {"shortest_edge": height, "longest_edge": None if is_cover else width},
            "auto_map": {
                "AutoImageProcessor": {
                    "torchvision": "image_processing_eomt.EomtImageProcessor",
                    "pil": "image_processing_eomt.EomtImageProcessorPil",
                }
            },
        }


def _pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`(..., height, width)` with zeros at the bottom and on the right, at least of `size`."""
    return F.pad(image, (0, max(0, size[1] - image.shape[-1]), 0, max(0, size[0] - image.shape[-2])))


def _window(image: Tensor, view: View, index: int) -> Tensor:
    """The part of `(..., height, width)` that is in one of the windows."""
    top, left = view.windows[index]
    height, width = view.input_size
    return image[..., top : top + height, left : left + width]


def _with_settings_of_task(given: dict[str, Any]) -> dict[str, Any]:
    """The settings that are given; with a task among them, those that follow from it are open again."""
    return {"do_split_image": None, "do_pad": None, **given} if given.get("task") is not None else given


def _with_channel(image: Any, axis: int) -> Any:
    """A grey array or tensor of `(height, width)` with a dimension for its channel; anything else as it is."""
    if isinstance(image, np.ndarray) and image.ndim == 2:
        return np.expand_dims(image, axis)
    if isinstance(image, Tensor) and image.ndim == 2:
        return image.unsqueeze(axis)
    return image


def _or_stored(given: Any, stored: Any) -> Any:
    return stored if given is None else given


def _target_sizes(target_sizes: Any) -> list[tuple[int, int]]:
    """One `(height, width)` per image."""
    sizes = [tuple(int(edge) for edge in size) for size in target_sizes]
    for index, size in enumerate(sizes):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"Target size {index} must be (height, width) in pixels, got {size}.")
    return sizes  # type: ignore[return-value]


def _check_offsets(offsets: Any, views: Sequence[View]) -> None:
    """Raises a `ValueError` if windows were elsewhere; Transformers' own processor may be a pixel off."""
    expected = [(index, start) for index, view in enumerate(views) for start, _ in view.spans()]
    for offset, (index, start) in zip(offsets, expected):
        given_index, given_start, *_ = torch.as_tensor(offset).tolist()
        if given_index != index or abs(given_start - start) > 1:
            raise ValueError(
                f"A window of image {given_index} starts at pixel {given_start}, but with the given target_sizes it "
                f"would be image {index}, pixel {start}: pass the sizes of the original images in their order."
            )

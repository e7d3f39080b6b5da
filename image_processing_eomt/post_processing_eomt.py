"""Model outputs to segments: what image processors do once the model has run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput

from .instances_eomt import segment_instances
from .outputs_eomt import check_outputs, checked_sizes
from .panoptic_eomt import segment_panoptic
from .semantic_eomt import segment_semantic
from .settings_eomt import TASKS, check_settings, post_processing
from .sizes_eomt import TooManyWindowsError, View, padded_size, view_of


class EomtPostProcessing:
    """The post-processing methods of an image processor, which has these settings."""

    size: Any
    task: str
    do_resize: bool
    do_pad: bool
    do_split_image: bool

    @post_processing("panoptic")
    def post_process_panoptic_segmentation(
        self, outputs: Any, target_sizes: Any = None, size: Any = None, **settings: Any
    ) -> list[dict[str, Any]]:
        """
        Returns the panoptic segmentation of each image in a batch, see `segment_panoptic`.

        Args:
            outputs: the model's output: `masks_queries_logits` `(batch, num_queries, height / 4, width / 4)` and
                `class_queries_logits` `(batch, num_queries, num_classes + 1)`.
            target_sizes: `(height, width)` in pixels of each original image, as a list or a `(batch, 2)` tensor; None
                leaves the results at the size the model saw, padding included.
            size: the `size` the images were pre-processed with, if not the stored one.
            settings: `threshold`, `mask_threshold`, `overlap_mask_area_threshold`, `stuff_classes`; the stored ones
                by default.

        Returns:
            For each image a dict of `segmentation`, `(height, width)` int32 with -1 where there is nothing, and
            `segments_info`, a list of dicts with `id`, `label_id`, `score`, `area` (pixels), `bbox` (`[x, y, width,
            height]`, pixels) and `was_fused`.

        Raises:
            ValueError: `target_sizes` does not fit the batch, an image was split, a stuff class is not a class of the
                model, an argument is unknown or out of range, or the outputs are not a model's or not finite.
        """
        return [segment_panoptic(*image, **settings) for image in self._whole_images(outputs, target_sizes, size)]

    @post_processing("instance")
    def post_process_instance_segmentation(
        self,
        outputs: Any,
        target_sizes: Any = None,
        size: Any = None,
        overlap_mask_area_threshold: Any = None,
        **settings: Any,
    ) -> list[dict[str, Any]]:
        """
        Returns the instances in each image of a batch, best first, see `segment_instances`.

        Args:
            outputs, target_sizes, size: as for `post_process_panoptic_segmentation`.
            overlap_mask_area_threshold: not used, since instances may overlap; Transformers' own pipeline passes it.
            settings: `threshold`, `mask_threshold`, `top_k`, the stored ones by default; `return_binary_maps` and
                `return_coco_annotation`, False by default, return a mask for each instance.

        Returns:
            For each image a dict of `segmentation` and `segments_info`, a list of dicts with `id`, `label_id`,
            `score`, `area` and `bbox` of the whole mask (pixels) and `was_fused` (False). `segmentation` is
            `(height, width)` int32, the best instance at each pixel or -1; with `return_binary_maps`
            `(num_instances, height, width)` bool; with `return_coco_annotation` a list of `{"size", "counts"}`, JSON
            that pycocotools reads.

        Raises:
            ValueError: `target_sizes` does not fit the batch, an image was split, both forms are asked for, an
                argument is unknown or out of range, or the outputs are not a model's or not finite.
        """
        return [segment_instances(*image, **settings) for image in self._whole_images(outputs, target_sizes, size)]

    @post_processing("semantic")
    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Any = None, size: Any = None, **settings: Any
    ) -> list[Tensor | SemanticSegmentationPostProcessorOutput]:
        """
        Returns the class of every pixel of each image in a batch, see `segment_semantic`; windows are merged.

        Args:
            outputs: as for `post_process_panoptic_segmentation`, and `patch_offsets` if the model was given them.
            target_sizes: as for `post_process_panoptic_segmentation`; split images need them.
            size: the `size` the images were pre-processed with, if not the stored one.
            settings: `return_segmentation_scores`: return the scores of all classes too, `num_classes` x 4 bytes a
                pixel.

        Returns:
            For each image `(height, width)` int64 classes, or with `return_segmentation_scores` an object with these
            as `segmentation` and `segmentation_scores`, `(num_classes, height, width)` float32.

        Raises:
            ValueError: `target_sizes` does not fit the batch, or is missing, an argument is unknown, or the outputs
                are not a model's or not finite.
        """
        return [segment_semantic(*image, **settings) for image in self._images(outputs, target_sizes, size)]

    def post_process(
        self, outputs: Any, target_sizes: Any = None, task: str | None = None, **kwargs: Any
    ) -> list[Any]:
        """
        Calls the post-processing method of a task, by default the stored one.

        Raises:
            ValueError: there is no such task, and what the method raises.
        """
        name = check_settings({"task": self.task if task is None else task})["task"]
        # from the class, which has the methods of all tasks
        results: list[Any] = getattr(type(self), TASKS[name].method)(self, outputs, target_sizes, **kwargs)
        return results

    def _whole_images(
        self, outputs: Any, target_sizes: Any, size: Any
    ) -> list[tuple[Tensor, Tensor, View, tuple[int, int]]]:
        """As `_images`, for tasks whose queries stand for things in the whole image: logits of one input each."""
        images = self._images(outputs, target_sizes, size)
        if any(len(view.windows) > 1 for *_, view, _ in images):
            raise ValueError(
                "Queries of different windows are different objects, so the windows of a split image cannot be put "
                "together: pre-process with do_split_image=False and do_pad=True."
            )
        return [(masks[0], classes[0], view, output_size) for masks, classes, view, output_size in images]

    def _images(
        self, outputs: Any, target_sizes: Any, size: Any
    ) -> list[tuple[Tensor, Tensor, View, tuple[int, int]]]:
        """For each image: mask and class logits of its inputs, what these saw of it, and the size of its result."""
        images, first = [], 0
        for view, output_size in self._views(outputs, target_sizes, size):
            inputs = slice(first, first + len(view.windows))
            first = inputs.stop
            images.append(
                (outputs.masks_queries_logits[inputs], outputs.class_queries_logits[inputs], view, output_size)
            )
        return images

    def _views(self, outputs: Any, target_sizes: Any, size: Any) -> list[tuple[View, tuple[int, int]]]:
        """For each image, in the batch's order: what the model saw of it, and the `(height, width)` of its result."""
        check_outputs(outputs)
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
        sizes = checked_sizes(target_sizes)
        settings: dict[str, Any] = {"size": size, "do_resize": self.do_resize}
        if is_split or self.do_split_image:
            try:
                views = [view_of(image, **settings, do_pad=bool(self.do_pad), do_split_image=True) for image in sizes]
            except TooManyWindowsError:
                if is_split or len(sizes) != num_inputs:
                    raise
                views = []  # they can only have been left whole
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


def _check_offsets(offsets: Any, views: Sequence[View]) -> None:
    """Raises a `ValueError` if windows were elsewhere; Transformers' own processor may be a pixel off."""
    expected = [(index, start) for index, view in enumerate(views) for start, _ in view.spans()]
    for offset, (index, start) in zip(offsets, expected):
        if len(offset) != 3:
            raise ValueError(f"An offset is an image's index, a first and a last pixel, got {offset}.")
        given_index, given_start, _ = torch.as_tensor(offset).tolist()
        if given_index != index or abs(given_start - start) > 1:
            raise ValueError(
                f"A window of image {given_index} starts at pixel {given_start}, but with the given target_sizes it "
                f"would be image {index}, pixel {start}: pass the sizes of the original images in their order."
            )

"""Model outputs to segments: what image processors do once the model has run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput

from .instances_eomt import instance_segments
from .outputs_eomt import check_outputs, checked_sizes
from .panoptic_eomt import panoptic_segments
from .semantic_eomt import semantic_classes
from .settings_eomt import checked_arguments, checked_settings
from .sizes_eomt import TooManyWindowsError, View, padded_size, view_of
from .tasks_eomt import check_task, only_for_tasks


class EomtPostProcessing:
    """The post-processing methods of an image processor, which has these settings."""

    size: Any
    task: str | None
    do_resize: bool
    do_pad: bool | None
    do_split_image: bool | None
    stuff_classes: list[int] | None
    threshold: float
    mask_threshold: float
    overlap_mask_area_threshold: float
    top_k: int

    @only_for_tasks("panoptic")
    @checked_arguments
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
            ValueError: `target_sizes` does not fit the batch, an image was split, a stuff class is not a class of the
                model, an argument is unknown or out of range, or the outputs are none of a model or not finite.
        """
        settings = self._settings(
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            stuff_classes=stuff_classes,
        )
        settings["stuff_classes"] = settings["stuff_classes"] or ()
        return [panoptic_segments(*image, **settings) for image in self._whole_images(outputs, target_sizes, size)]

    @only_for_tasks("panoptic", "instance")
    @checked_arguments
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
            ValueError: `target_sizes` does not fit the batch, an image was split, both forms are asked for, an
                argument is unknown or out of range, or the outputs are none of a model or not finite.
        """
        checked_settings({"overlap_mask_area_threshold": overlap_mask_area_threshold})
        settings = {
            **self._settings(threshold=threshold, mask_threshold=mask_threshold, top_k=top_k),
            **checked_settings(
                {"return_binary_maps": return_binary_maps, "return_coco_annotation": return_coco_annotation}
            ),
        }
        return [instance_segments(*image, **settings) for image in self._whole_images(outputs, target_sizes, size)]

    @checked_arguments
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
            ValueError: `target_sizes` does not fit the batch, or is missing, an argument is unknown, or the outputs
                are none of a model or not finite.
        """
        checked_settings({"return_segmentation_scores": return_segmentation_scores})
        results: list[Any] = []
        for image in self._images(outputs, target_sizes, size):
            segmentation, scores = semantic_classes(*image, return_segmentation_scores)
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

    def _settings(self, **given: Any) -> dict[str, Any]:
        """Arguments, checked; the stored setting where one is None, which may have been set since it was checked."""
        settings = checked_settings(
            {name: getattr(self, name) if value is None else value for name, value in given.items()}
        )
        for name in settings.keys() & {"threshold", "mask_threshold", "overlap_mask_area_threshold"}:
            if settings[name] is None:
                raise ValueError(f"The processor's {name} is None: set it to a number from 0 to 1.")
        return settings

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

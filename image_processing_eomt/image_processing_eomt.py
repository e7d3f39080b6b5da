"""Image processors of EoMT for both of Transformers' backends, torchvision and PIL: images in, pixel values out."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import requires_backends

from .geometry_eomt import (
    View,
    as_label_maps,
    compute_view,
    has_one_edge,
    masks_and_classes,
    parse_size,
    resize_nearest,
)
from .pipeline_eomt import EomtImageSegmentationPipeline
from .post_processing_eomt import EomtPostProcessing
from .reading_eomt import as_grey_levels, as_pixels, list_images, number_error
from .settings_eomt import STORED, TASKS, check_names, check_settings, check_spelling


logger = logging.getLogger(__name__)

# Entries of stored files beside settings: where they come from, and those of Transformers' own processors of EoMT.
PROVENANCE = frozenset(("auto_map", "feature_extractor_type", "image_processor_type", "num_labels", "processor_class"))
MAY_BE_NONE = ("ignore_index", *(name for name, setting in STORED.items() if setting.may_be_none))

_PostProcessingKwargs = TypedDict(  # type: ignore[misc]
    "_PostProcessingKwargs", {name: setting.type | None for name, setting in STORED.items()}, total=False
)


class EomtImageProcessorKwargs(_PostProcessingKwargs, ImagesKwargs, total=False):
    """
    Settings beyond those of every image processor and of post-processing.

    task: the kind of segmentation that the checkpoint is for: "panoptic", "instance" or "semantic".
    do_split_image: whether images are cut into windows; by default for semantic segmentation only.
    ignore_index: id or class of the pixels in a segmentation map that belong to no target.
    do_reduce_labels: whether 0 in a segmentation map is background too and classes start at 1.
    """

    task: str | None
    do_split_image: bool | None
    ignore_index: int | None
    do_reduce_labels: bool | None


class _EomtImageProcessor(EomtPostProcessing, BaseImageProcessor):
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
    size: Any = 640
    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    # By default what the published models of the task do; a checkpoint without a task is what its splitting suggests.
    task: Any = None
    do_split_image: Any = None
    do_pad: Any = None
    ignore_index = 255
    do_reduce_labels = False
    stuff_classes: list[int] | None

    def __init__(self, **kwargs: Any) -> None:
        """
        Takes every setting, and what a stored file holds beside them. None stands for the default, but for
        `ignore_index` (no id is ignored) and `top_k` (all pairs are looked at).

        Raises:
            ValueError: a setting is unknown or not what it must be.
        """
        check_names((name for name in kwargs if not _is_provenance(name)), self._setting_names(), type(self).__name__)
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name in MAY_BE_NONE}
        super().__init__(**check_settings(kwargs))
        if self.backend == "torchvision" and self.resample > PILImageResampling.BICUBIC:
            raise ValueError(f"resample={self.resample} is a filter that only EomtImageProcessorPil has: take 0 to 3.")

    @classmethod
    def _setting_names(cls) -> list[str]:
        return list(cls.valid_kwargs.__annotations__)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As Transformers' own.

        Raises:
            ValueError: a stored setting, or one given in its place, is not what it must be, or nearly has the name of
                another. Other names are the loader's, and stored ones that are no settings are warned of.
            OSError: there is no such file, or it cannot be read.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except ValueError as error:
            where = f"{pretrained_model_name_or_path} (preprocessor_config.json)"
            raise ValueError(f"Image processor of {where}: {error}") from error

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As Transformers' own, which does not look at what the file holds."""
        try:
            settings, kwargs = super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        except (TypeError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"the file holds no settings: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"the file must hold an object of settings, got {settings!r:.100}.")
        return settings, kwargs

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A processor from stored settings; a `task` among `kwargs` brings its splitting and padding along."""
        names = cls._setting_names()
        check_spelling(kwargs, names, cls.__name__)
        unknown = [name for name in image_processor_dict if name not in names and not _is_provenance(name)]
        if unknown:
            logger.warning("Image processors of EoMT have no settings %s: they are ignored.", ", ".join(unknown))
        image_processor_dict = {key: value for key, value in image_processor_dict.items() if key not in unknown}
        if kwargs.get("task") is not None and "size" in image_processor_dict:
            height, width = parse_size(image_processor_dict["size"])
            if height == width:  # how a square is stored depends on splitting too
                image_processor_dict = {**image_processor_dict, "size": height}
        return super().from_dict(image_processor_dict, **_with_settings_of_task(kwargs))

    def _standardize_kwargs(  # type: ignore[override]
        self,
        size: Any = None,
        task: str | None = None,
        do_split_image: bool | None = None,
        do_pad: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        kwargs = check_settings(
            {**kwargs, "size": size, "task": task, "do_split_image": do_split_image, "do_pad": do_pad}
        )
        size, task, do_split_image, do_pad = (
            kwargs.pop(name) for name in ("size", "task", "do_split_image", "do_pad")
        )
        if task is None:
            task = next(name for name, each in TASKS.items() if each.do_split_image == bool(do_split_image))
        if do_split_image is None:
            do_split_image = TASKS[task].do_split_image
        if do_pad is None:
            do_pad = not do_split_image
        height, width = parse_size(size)
        # Transformers' own processor makes an image cover a size that has no longest edge, as splitting wants it.
        covers = do_split_image and has_one_edge(size)
        return super()._standardize_kwargs(
            size=SizeDict(shortest_edge=height, longest_edge=None if covers else width),
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
            images: one image or several, of any kind and sizes: PIL images, arrays and tensors, as `as_pixels` takes
                them, and paths and addresses. Pixels are taken as they are stored, but for paths and addresses: turn
                photographs upright with `PIL.ImageOps.exif_transpose`. Transparency is dropped. Floating point is
                from 0 to 1 or from 0 to 255, and without `do_rescale` anything that is finite.
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
            ValueError: a setting is unknown or not what it must be, an image is none or cannot be taken, the maps do
                not fit the images, or an id has no class.
            OSError: a file or an address cannot be read.
        """
        check_names(kwargs, self._setting_names(), type(self).__name__)
        return super().preprocess(
            images,
            segmentation_maps,
            instance_id_to_semantic_id,
            **check_settings(_with_settings_of_task(kwargs)),
        )

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        device: Any = None,
        do_rescale: bool | None = None,
        **_: Any,
    ) -> Any:
        """
        An image of any kind as `(channels, height, width)` in the backend's kind of array, see `as_pixels`; of 8 bits
        where it is to be rescaled.
        """
        pixels = as_pixels(image, bool(do_convert_rgb), input_data_format)
        pixels = as_grey_levels(pixels) if do_rescale else pixels
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
        images = list_images(images)
        arrays, views = [], []
        for index, image in enumerate(images):
            try:
                array = self.process_image(image, do_convert_rgb, input_data_format, device, settings["do_rescale"])
                views.append(compute_view((array.shape[-2], array.shape[-1]), **settings))
            except ValueError as error:
                raise number_error(error, index if len(images) > 1 else None) from error
            arrays.append(array)
        pixel_values = [
            window for array, view in zip(arrays, views) for window in self._pixel_values(array, view, **settings)
        ]
        is_numpy = return_tensors is None and self.backend == "pil"  # as all of Transformers' PIL processors
        batch = BatchFeature(
            {"pixel_values": [window.numpy() if is_numpy else window for window in pixel_values]},
            tensor_type=return_tensors,
        )
        if settings["do_split_image"]:
            offsets = [[index, *span] for index, view in enumerate(views) for span in view.spans]
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
        image = view.pad(torch.as_tensor(array).contiguous())
        # as / 255, to the last bit
        image = image / (1 / settings["rescale_factor"]) if settings["do_rescale"] else image.float()
        if settings["do_normalize"]:
            mean, std = (
                torch.as_tensor(settings[name], device=image.device).reshape(-1, 1, 1)
                for name in ("image_mean", "image_std")
            )
            for name, values in (("image_mean", mean), ("image_std", std)):
                if len(values) not in (1, len(image)) and len(image) > 1:
                    raise ValueError(f"{name} has {len(values)} numbers, and the image {len(image)} channels.")
            image = (image - mean).div_(std)
        return [view.crop(image, index).contiguous() for index in range(len(view.windows))]

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
        for each in mapping if isinstance(mapping, list | tuple) else [mapping]:
            if each is not None and not isinstance(each, Mapping):
                raise ValueError(
                    f"instance_id_to_semantic_id must map ids to classes, or be a list of mappings, got {each!r:.100}."
                )
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
                        view.crop(resized, window),
                        mapping[index] if isinstance(mapping, Sequence) else mapping,
                        ignore_index,
                        do_reduce_labels,
                    )
                except KeyError as error:
                    raise ValueError(
                        f"Id {error} of segmentation map {index} has no class in instance_id_to_semantic_id."
                    ) from error
                mask_labels.append(view.pad(masks))
                class_labels.append(classes)
        return mask_labels, class_labels

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


for _name, _setting in STORED.items():
    setattr(_EomtImageProcessor, _name, _setting.default)


def _is_provenance(name: Any) -> bool:
    return name in PROVENANCE or str(name).startswith("_")


def _with_settings_of_task(given: dict[str, Any]) -> dict[str, Any]:
    """The settings that are given; with a task among them, those that follow from it are open again."""
    return {"do_split_image": None, "do_pad": None, **given} if given.get("task") is not None else given


class EomtImageProcessor(_EomtImageProcessor, TorchvisionBackend):
    """Image processor that resizes with torchvision, on any device."""

    valid_kwargs = EomtImageProcessorKwargs

    def __init__(self, **kwargs: Any) -> None:
        requires_backends(self, ["torchvision"])
        super().__init__(**kwargs)

    def resize(self, image: Any, size: Any, resample: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """`(channels, height, width)` at another size; of one pixel, where PyTorch fails, a channel at a time."""
        if size.height * size.width > 1:
            return super().resize(image, size, resample, **kwargs)
        return torch.cat([super(EomtImageProcessor, self).resize(c, size, resample, **kwargs) for c in image.split(1)])


class EomtImageProcessorPil(_EomtImageProcessor, PilBackend):
    """Image processor that resizes with PIL, as the reference implementation does; needs no torchvision."""

    valid_kwargs = EomtImageProcessorKwargs

    def resize(self, image: Any, size: Any, resample: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """`(channels, height, width)` at another size; Transformers' own takes 8-bit colours only."""
        if image.dtype == np.uint8 and len(image) in (1, 3, 4):
            return super().resize(image, size, resample, **kwargs)
        return np.stack(
            [np.asarray(Image.fromarray(channel).resize((size.width, size.height), resample)) for channel in image]
        )


# `save_pretrained` then copies the code: this file and what it imports, which is why the pipeline is imported here.
EomtImageProcessor.register_for_auto_class()
EomtImageProcessorPil.register_for_auto_class()

__all__ = [
    "EomtImageProcessor",
    "EomtImageProcessorKwargs",
    "EomtImageProcessorPil",
    "EomtImageSegmentationPipeline",
]

"""Image processors of EoMT for both of Transformers' backends, torchvision and PIL: images in, pixel values out."""

import logging
from collections.abc import Iterator, Mapping, Sequence
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

    Args:
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
        Takes every setting, and the other entries of stored files. None stands for the default, except for
        `ignore_index` (no id is ignored) and `top_k` (all pairs are candidates).

        Raises:
            ValueError: a setting is unknown or out of range.
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
        Loads a processor as Transformers' own do.

        Raises:
            ValueError: a setting, stored or given in its place, is out of range, or one given nearly has the name of
                another. Other names are the loader's; stored ones that are not settings get a warning.
            OSError: there is no such file, or it cannot be read.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (ValueError, TypeError, RecursionError) as error:  # the last two of JSON that is not settings
            where = f"{pretrained_model_name_or_path} (preprocessor_config.json)"
            raise ValueError(f"{where} cannot be read as an image processor: {error}") from error

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Makes a processor of stored settings; a `task` among `kwargs` brings its splitting and padding along."""
        if not isinstance(image_processor_dict, dict):
            raise ValueError(f"the file must hold an object of settings, got {image_processor_dict!r:.100}.")
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

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        settings = check_settings({**dict.fromkeys(("size", "task", "do_split_image", "do_pad")), **kwargs})
        if settings["task"] is None:
            is_split = bool(settings["do_split_image"])
            settings["task"] = next(task.name for task in TASKS.values() if task.do_split_image == is_split)
        if settings["do_split_image"] is None:
            settings["do_split_image"] = TASKS[settings["task"]].do_split_image
        if settings["do_pad"] is None:
            settings["do_pad"] = not settings["do_split_image"]
        height, width = parse_size(settings["size"])
        # Transformers' own processor makes an image cover a size that has no longest edge, as splitting wants it.
        covers = settings["do_split_image"] and has_one_edge(settings["size"])
        settings["size"] = SizeDict(shortest_edge=height, longest_edge=None if covers else width)
        return super()._standardize_kwargs(**settings)

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
            ValueError: a setting is unknown or out of range, an input is not an image or cannot be read, the maps do
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
        Returns an image of any kind as `(channels, height, width)` in the backend's kind of array, see `as_pixels`; of
        8 bits where it is to be rescaled.
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
            sizes = [(array.shape[-2], array.shape[-1]) for array in arrays]
            targets = self._targets(
                sizes, views, segmentation_maps, instance_id_to_semantic_id, pixel_values[0].device, settings
            )
            batch["mask_labels"], batch["class_labels"] = map(list, zip(*targets))
        return batch

    def _pixel_values(self, array: Any, view: View, *, resample: Any, **settings: Any) -> list[Tensor]:
        """Returns the inputs that `(3, height, width)` makes: resized, padded or cut into windows, normalised."""
        height, width = view.content_size
        if view.content_size != tuple(array.shape[-2:]):
            array = self.resize(array, size=SizeDict(height=height, width=width), resample=resample)
        image = view.pad(torch.as_tensor(array).contiguous())
        # as / 255, to the last bit
        image = image / (1 / settings["rescale_factor"]) if settings["do_rescale"] else image.float()
        if settings["do_normalize"]:
            statistics = []
            for name in ("image_mean", "image_std"):
                values = torch.as_tensor(settings[name], device=image.device).reshape(-1, 1, 1)
                if len(values) not in (1, len(image)) and len(image) > 1:
                    raise ValueError(f"{name} has {len(values)} numbers, and the image {len(image)} channels.")
                statistics.append(values)
            image = (image - statistics[0]).div_(statistics[1])
        return [view.crop(image, index).contiguous() for index in range(len(view.windows))]

    @staticmethod
    def _targets(
        sizes: Sequence[tuple[int, int]],
        views: Sequence[View],
        segmentation_maps: Any,
        mapping: Any,
        device: torch.device,
        settings: Mapping[str, Any],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the masks and the classes of each input in a batch."""
        label_maps = as_label_maps(segmentation_maps)
        mappings = mapping if isinstance(mapping, list | tuple) else [mapping] * len(views)
        for name, given in (("segmentation maps", label_maps), ("mappings of instance ids to classes", mappings)):
            if len(given) != len(views):
                raise ValueError(f"Got {len(views)} images but {len(given)} {name}.")
        for index, (size, view, label_map, id_to_class) in enumerate(zip(sizes, views, label_maps, mappings)):
            if id_to_class is not None and not isinstance(id_to_class, Mapping):
                raise ValueError(
                    f"instance_id_to_semantic_id must map ids to classes, or list such mappings, got {mapping!r:.100}."
                )
            found = tuple(label_map.shape[-2:])
            if found != size:
                raise ValueError(f"Segmentation map {index} is {found}, its image {size} (height, width).")
            resized = resize_nearest(label_map.to(device), view.content_size)
            for window in range(len(view.windows)):
                cropped = view.crop(resized, window)
                try:
                    masks, classes = masks_and_classes(
                        cropped, id_to_class, settings["ignore_index"], settings["do_reduce_labels"]
                    )
                except KeyError as error:
                    raise ValueError(
                        f"Id {error} of segmentation map {index} has no class in instance_id_to_semantic_id."
                    ) from error
                yield view.pad(masks), classes

    def to_dict(self) -> dict[str, Any]:
        """Returns the stored settings, with the names of both backends' classes for `AutoImageProcessor`."""
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
    """Returns the given settings; with a task among them, those that follow from it are open again."""
    return {"do_split_image": None, "do_pad": None, **given} if given.get("task") is not None else given


class EomtImageProcessor(_EomtImageProcessor, TorchvisionBackend):
    """Image processor that resizes with torchvision, on any device."""

    valid_kwargs = EomtImageProcessorKwargs

    def __init__(self, **kwargs: Any) -> None:
        requires_backends(self, ["torchvision"])
        super().__init__(**kwargs)

    def resize(self, image: Any, size: Any, resample: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Resizes `(channels, height, width)`; to one pixel, where PyTorch fails, a channel at a time."""
        if size.height * size.width > 1:
            return super().resize(image, size, resample, **kwargs)
        return torch.cat([super(EomtImageProcessor, self).resize(c, size, resample, **kwargs) for c in image.split(1)])


class EomtImageProcessorPil(_EomtImageProcessor, PilBackend):
    """Image processor that resizes with PIL, as the reference implementation does; needs no torchvision."""

    valid_kwargs = EomtImageProcessorKwargs

    def resize(self, image: Any, size: Any, resample: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Resizes `(channels, height, width)`; Transformers' own takes 8-bit colours only."""
        if image.dtype == np.uint8 and len(image) in (1, 3, 4):
            return super().resize(image, size, resample, **kwargs)
        return np.stack(
            [np.asarray(Image.fromarray(channel).resize((size.width, size.height), resample)) for channel in image]
        )


# `save_pretrained` then copies the code: this file and its imports, which is why the pipeline is imported here.
EomtImageProcessor.register_for_auto_class()
EomtImageProcessorPil.register_for_auto_class()

__all__ = [
    "EomtImageProcessor",
    "EomtImageProcessorKwargs",
    "EomtImageProcessorPil",
    "EomtImageSegmentationPipeline",
]

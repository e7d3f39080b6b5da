"""Image processors of EoMT for both of Transformers' backends, torchvision and PIL."""

from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.processing_utils import ImagesKwargs
from transformers.utils import requires_backends

from .pipeline_eomt import EomtImageSegmentationPipeline
from .processor_mixin_eomt import EomtProcessorMixin
from .settings_eomt import STORED


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


class EomtImageProcessor(EomtProcessorMixin, TorchvisionBackend):
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


class EomtImageProcessorPil(EomtProcessorMixin, PilBackend):
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

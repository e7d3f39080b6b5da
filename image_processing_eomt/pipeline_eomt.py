"""The class behind `pipeline("image-segmentation", ..., trust_remote_code=True)`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import IOBase
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import ImageSegmentationPipeline
from transformers.pipelines.base import ChunkPipeline

from .geometry_eomt import parse_size
from .reading_eomt import as_pixels, load_upright, number_error
from .settings_eomt import STORED, TASKS, check_names, check_settings, check_task_settings


logger = logging.getLogger(__name__)

# Transformers' own pipeline takes these for every task, and so does this one, though not every task has them.
_THRESHOLDS = {"threshold", "mask_threshold", "overlap_mask_area_threshold"}


@dataclass(frozen=True)
class _NumberedImage:
    """One of several images."""

    index: int
    image: Any


class EomtImageSegmentationPipeline(ChunkPipeline, ImageSegmentationPipeline):
    """
    Image segmentation with the checkpoint's own task, thresholds and stuff classes, for every batch size.

    Calling it takes one image (a URL, a path, base64, a PIL image, or an array or tensor as `as_pixels` takes it), a
    list, a batch in an array or tensor of four dimensions, an iterator, a dataset or a column of a dataset, and
    optionally `subtask` ("panoptic", "instance" or "semantic"), the settings of that task's post-processing
    (`threshold`, `mask_threshold`, `overlap_mask_area_threshold`, `stuff_classes`, `top_k`) and `timeout` (seconds).
    Iterators, datasets and columns give a generator. Images are turned upright; arrays and tensors are so already.
    16-bit images of URLs lose their low values.

    Each image gives a list of dicts: `score` (None for semantic segmentation), `label` (the class name) and `mask`, a
    PIL image of mode "L" in the size of the upright image, 255 inside of the segment. Masks of instances may overlap.
    A batch is one of windows where images are split into several.

    Raises:
        ValueError: a setting is unknown, out of range or (thresholds excepted) of another task, an input is not an
            image, cannot be decoded or holds values that are no brightness, or the model's predictions are not finite.
            The message says which image of several.
        OSError: a file or a URL cannot be read.
    """

    image_processor: Any
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_settings({name: kwargs.get(name) for name in ("batch_size", "num_workers")})
        super().__init__(*args, **kwargs)
        self._other_sizes: set[tuple[int, int]] = set()  # of images that were warned of

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_names(kwargs, ("subtask", "timeout", *STORED), "The pipeline")
        kwargs = check_settings(kwargs)
        preset = getattr(self, "_postprocess_params", {}).get("subtask")  # not there while the pipeline is made
        task = TASKS[kwargs.get("subtask") or preset or self.image_processor.task]
        check_task_settings({name for name, value in kwargs.items() if value is not None} - _THRESHOLDS, task)
        preprocess, postprocess = (
            {name: kwargs[name] for name in names if name in kwargs}
            for names in (("subtask", "timeout"), ("subtask", *STORED))
        )
        return preprocess, {}, postprocess

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        inputs = kwargs.pop("images", inputs)
        check_settings({name: kwargs.get(name) for name in ("batch_size", "num_workers")})
        if isinstance(inputs, tuple) or (isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 4):
            inputs = list(inputs)
        if isinstance(inputs, list):
            if not inputs:
                return []
            inputs = [_NumberedImage(index, image) for index, image in enumerate(inputs)]
        elif isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
            # by its length: not every dataset raises an IndexError at its end
            dataset: Any = inputs
            inputs = (_NumberedImage(index, dataset[index]) for index in range(len(dataset)))
        elif not isinstance(inputs, str | bytes | IOBase) and isinstance(inputs, Iterator | Sequence):
            # also a column of a dataset, whose images are not read all at once
            inputs = (_NumberedImage(index, image) for index, image in enumerate(inputs))
        return super().__call__(inputs, **kwargs)

    def preprocess(  # type: ignore[override]
        self, image: Any, subtask: str | None = None, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields the inputs that an image makes, each with a batch dimension of 1."""
        number, image = (image.index, image.image) if isinstance(image, _NumberedImage) else (None, image)
        processor = self.image_processor
        settings: dict[str, Any] = {}
        if processor.do_split_image and TASKS[subtask or processor.task].has_segments:
            settings = {"do_split_image": False, "do_pad": True}  # the queries stand for things in the whole image
        self._warn_of_other_size()
        try:
            if isinstance(image, np.ndarray | Tensor):
                image = as_pixels(image, bool(processor.do_convert_rgb))
                settings["input_data_format"] = "channels_first"
                target_size = tuple(image.shape[1:])
            else:
                image = load_upright(image, timeout)
                target_size = (image.height, image.width)
            inputs = processor(images=[image], return_tensors="pt", **settings)
        except (ValueError, OSError) as error:
            raise number_error(error, number) from error
        pixel_values = inputs["pixel_values"].to(self.dtype)
        for index in range(len(pixel_values)):
            yield {
                "pixel_values": pixel_values[index : index + 1],
                "target_size": target_size,
                "is_last": index == len(pixel_values) - 1,
            }

    def _warn_of_other_size(self) -> None:
        """Warns once for each size of inputs that is not the one the model is made for."""
        size = self.model.config.image_size
        made_for = (size, size) if isinstance(size, int) else tuple(size)
        given = parse_size(self.image_processor.size)
        if given != made_for and given not in self._other_sizes:
            self._other_sizes.add(given)
            logger.warning(
                "The image processor makes images of %s, and the model is made for %s (height, width): set the "
                "processor's size, or the model's with set_image_size, unless this is on purpose.",
                given,
                made_for,
            )

    def forward(self, model_inputs: dict[str, Any], **parameters: Any) -> dict[str, Any]:  # type: ignore[override]
        """Does as `Pipeline.forward`, but the results stay on the model's device: post-processing is faster there."""
        with self.device_placement(), self.get_inference_context()():
            inputs = self._ensure_tensor_on_device(model_inputs, device=self.device)
            outputs: dict[str, Any] = self._forward(inputs, **parameters)
            return outputs

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        outputs = self.model(pixel_values=model_inputs["pixel_values"])
        return {
            "masks_queries_logits": outputs.masks_queries_logits,
            "class_queries_logits": outputs.class_queries_logits,
            "target_size": model_inputs["target_size"],
            "is_last": model_inputs["is_last"],
        }

    def postprocess(  # type: ignore[override]
        self, model_outputs: list[dict[str, Any]], subtask: str | None = None, **settings: Any
    ) -> list[dict[str, Any]]:
        """Returns the segments of one image, from the outputs for all its windows."""
        outputs = SimpleNamespace(  # the masks, which take most of the memory, are not copied
            masks_queries_logits=[masks for output in model_outputs for masks in output["masks_queries_logits"]],
            class_queries_logits=torch.cat([output["class_queries_logits"] for output in model_outputs]),
        )
        task = TASKS[subtask or self.image_processor.task]
        # the pipeline may have been made with settings of another task than this call's
        settings = {name: value for name, value in settings.items() if name in task.settings}
        if task.segments_overlap:
            settings["return_binary_maps"] = True
        target_size = model_outputs[0]["target_size"]
        result = self.image_processor.post_process(outputs, [target_size], task=task.name, **settings)[0]
        if task.has_segments:
            segments = [info for info in result["segments_info"] if info["area"] > 0]
            found = [(info["label_id"], info["score"]) for info in segments]
            maps = result["segmentation"]
            masks = (maps[info["id"]] if task.segments_overlap else maps == info["id"] for info in segments)
        else:
            labels = result.unique()
            masks = (result == label for label in labels)
            found = [(label, None) for label in labels.tolist()]
        return [
            {"score": score, "label": self.model.config.id2label[label], "mask": _as_image(mask)}
            for (label, score), mask in zip(found, masks)
        ]


def _as_image(mask: Tensor) -> Image.Image:
    """Converts `(height, width)` bool to a PIL image of mode "L", 255 where it is True."""
    return Image.fromarray((mask.to(torch.uint8) * 255).cpu().numpy())

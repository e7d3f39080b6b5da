"""What `pipeline("image-segmentation", ..., trust_remote_code=True)` runs."""

import os
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import ImageSegmentationPipeline
from transformers.image_utils import load_image
from transformers.pipelines.base import ChunkPipeline

from .tasks_eomt import check_task


# What each task takes of the settings that a call may give.
_SETTINGS = {
    "panoptic": ("threshold", "mask_threshold", "overlap_mask_area_threshold", "stuff_classes"),
    "instance": ("threshold", "mask_threshold", "top_k"),
    "semantic": (),
}


class EomtImageSegmentationPipeline(ChunkPipeline, ImageSegmentationPipeline):
    """
    Image segmentation with the checkpoint's own task, thresholds and stuff classes, for every batch size.

    Calling it takes one image (a URL, a path, base64 or a PIL image), a list, a generator, a data set or a column of a
    data set, and optionally `subtask` ("panoptic", "instance" or "semantic"), the settings of that task's
    post-processing (`threshold`, `mask_threshold`, `overlap_mask_area_threshold`, `stuff_classes`, `top_k`; others are
    ignored) and `timeout` (seconds). Generators, data sets and columns give a generator. Images are turned upright.
    16-bit images have to be paths or PIL images.

    Each image gives a list of dicts: `score` (None for semantic segmentation), `label` (the class name) and `mask`, a
    PIL image of mode "L" in the size of the upright image, 255 inside of the segment. Masks of instances may overlap.
    A batch is one of windows where images are split into several. A `subtask` that does not exist is a `ValueError`.
    """

    image_processor: Any
    model: Any

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if kwargs.get("subtask") is not None:
            check_task(kwargs["subtask"])
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        postprocess.update({name: kwargs[name] for name in ("stuff_classes", "top_k") if name in kwargs})
        return preprocess, forward, postprocess

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        inputs = kwargs.pop("images", inputs)
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        elif isinstance(inputs, Sequence) and not isinstance(inputs, str | list):
            inputs = (image for image in inputs)  # a column of a data set, whose pictures are not read all at once
        return super().__call__(inputs, **kwargs)

    def preprocess(  # type: ignore[override]
        self, image: Any, subtask: str | None = None, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """One image to the inputs it makes, one at a time, each with a batch dimension of 1."""
        image = _upright(image, timeout)
        processor = self.image_processor
        settings: dict[str, Any] = {}
        if processor.do_split_image and (subtask or processor.task) != "semantic":
            settings = {"do_split_image": False, "do_pad": True}  # the queries stand for things in the whole image
        pixel_values = processor(images=[image], return_tensors="pt", **settings)["pixel_values"].to(self.dtype)
        for index in range(len(pixel_values)):
            yield {
                "pixel_values": pixel_values[index : index + 1],
                "target_size": (image.height, image.width),
                "is_last": index == len(pixel_values) - 1,
            }

    def forward(self, model_inputs: dict[str, Any], **parameters: Any) -> dict[str, Any]:  # type: ignore[override]
        """As `Pipeline.forward`, but the results stay where the model is: post-processing is faster there."""
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
        """The segments of one image, from the outputs for all that it was split into."""
        outputs = SimpleNamespace(
            **{
                name: torch.cat([output[name] for output in model_outputs])
                for name in ("masks_queries_logits", "class_queries_logits")
            }
        )
        task = subtask or self.image_processor.task
        settings = {name: settings[name] for name in _SETTINGS[task] if name in settings}
        if task == "instance":
            settings["return_binary_maps"] = True
        target_size = model_outputs[0]["target_size"]
        result = self.image_processor.post_process(outputs, [target_size], task=task, **settings)[0]
        if task == "semantic":
            labels = result.unique()
            masks = (result == label for label in labels)
            found = [(label, None) for label in labels.tolist()]
        else:
            segments = [info for info in result["segments_info"] if info["area"] > 0]
            found = [(info["label_id"], info["score"]) for info in segments]
            maps = result["segmentation"]
            masks = (maps[info["id"]] if maps.ndim == 3 else maps == info["id"] for info in segments)
        return [
            {"score": score, "label": self.model.config.id2label[label], "mask": _as_image(mask)}
            for (label, score), mask in zip(found, masks)
        ]


def _upright(image: Any, timeout: float | None) -> Image.Image:
    """A picture in its own mode, since 16-bit ones do not survive `load_image`'s conversion, turned upright."""
    if isinstance(image, str) and os.path.isfile(image):
        image = Image.open(image)
    elif not isinstance(image, Image.Image):
        image = load_image(image, timeout=timeout)
    upright: Image.Image = ImageOps.exif_transpose(image)
    return upright


def _as_image(mask: Tensor) -> Image.Image:
    """`(height, width)` bool as a PIL image of mode "L", 255 where it is True."""
    return Image.fromarray((mask.to(torch.uint8) * 255).cpu().numpy())

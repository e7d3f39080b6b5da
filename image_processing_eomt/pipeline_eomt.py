"""What `pipeline("image-segmentation", ..., trust_remote_code=True)` runs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ImageSegmentationPipeline
from transformers.image_utils import load_image

from .processor_mixin_eomt import check_task


class EomtImageSegmentationPipeline(ImageSegmentationPipeline):
    """
    Image segmentation with the checkpoint's own task, thresholds and stuff classes, for every batch size.

    Calling it takes one image (a URL, a path or a PIL image), a list, a generator or a data set, and optionally
    `subtask`, `threshold`, `mask_threshold`, `overlap_mask_area_threshold`, `stuff_classes` and `timeout` (seconds).
    Each image gives a list of dicts: `score`, `label` (the class name) and `mask`, a PIL image of mode "L" in the
    original size, 255 inside of the segment. A `subtask` that is not supported is a `ValueError`.
    """

    image_processor: Any
    model: Any

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if kwargs.get("subtask") is not None:
            check_task(kwargs["subtask"])
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if "stuff_classes" in kwargs:
            postprocess["stuff_classes"] = kwargs["stuff_classes"]
        return preprocess, forward, postprocess

    def preprocess(  # type: ignore[override]
        self, image: Any, subtask: str | None = None, timeout: float | None = None
    ) -> dict[str, Tensor]:
        """One image to tensors with a batch dimension of 1, which the data loader concatenates."""
        image = load_image(image, timeout=timeout)
        pixel_values = self.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        return {
            "pixel_values": pixel_values.to(self.dtype),
            "target_size": torch.tensor([[image.height, image.width]]),
        }

    def _forward(self, model_inputs: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        outputs = self.model(pixel_values=model_inputs["pixel_values"])
        return {
            "masks_queries_logits": outputs.masks_queries_logits,
            "class_queries_logits": outputs.class_queries_logits,
            "target_size": model_inputs["target_size"],
        }

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Tensor], subtask: str | None = None, **settings: Any | None
    ) -> list[dict[str, Any]]:
        """The segments of one image."""
        result = self.image_processor.post_process(
            SimpleNamespace(**model_outputs), model_outputs["target_size"], task=subtask, **settings
        )[0]
        segmentation = result["segmentation"].numpy()
        return [
            {
                "score": segment["score"],
                "label": self.model.config.id2label[segment["label_id"]],
                "mask": Image.fromarray((segmentation == segment["id"]).astype(np.uint8) * 255),
            }
            for segment in result["segments_info"]
        ]

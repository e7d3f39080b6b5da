"""An image to segments as one graph: pre-processing, the model and the task's post-processing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image_processing_eomt import TASKS
from image_processing_eomt.geometry_eomt import parse_size
from image_processing_eomt.settings_eomt import check_settings

from .decoder import BICUBIC, BILINEAR
from .formats import Graph
from .resizing import resize
from .segmenter_semantic import segment_semantic, window_starts
from .segmenter_tasks import Frame, segment_instances, segment_panoptic


class Segmenter(nn.Module):
    """
    A model with its image processor's settings: takes one image as it is, and returns the segments.

    The results are those of the image processor's post-processing. There are three kinds, because runtimes differ:

    - `resizes=True`, for onnxruntime and for PyTorch's own runtimes: the image is of any size, and so is the result.
      Images are resized to the byte as the processor does with torchvision, see `resizing`.
    - `resizes=False`, for runtimes whose loops take no maps of open sizes (OpenVINO): the caller resizes the image to
      the size that the model sees, and pads it with black at the bottom and on the right. The number of segments still
      depends on the image.
    - `resizes=False` and `max_segments`, for runtimes in which no shape may depend on data (ExecuTorch, Core ML,
      TensorRT's fixed profiles): as before, but a fixed number of queries is upsampled, in a graph without loops.
      Those with the highest scores count, so that results are the same as long as no more are above the threshold.

    Inputs:
        image: uint8 RGB, upright. `(height, width, 3)` of any size if `resizes`; else the size of the model's input,
            or, where images are cut into windows, any size that covers a window on one side exactly.
        content_size: without `resizes` and windows, `(2,)` int64: height and width in pixels of what is not padding.

    Outputs, for all but semantic segmentation of n segments, ids from 0:
        segmentation: `(height, width)` int32: panoptic the segment's id, semantic the class; -1 for none. In the size
            of the image.
        masks: instance segmentation in place of it, `(n, height, width)` bool.
        labels: `(n,)` int64 classes.
        scores: `(n,)` float32.
        areas: `(n,)` int64 in pixels.
        boxes: `(n, 4)` int64: x, y, width and height in pixels.
        num_segments: with `max_segments` only, int64: how many of n are segments; the others have label -1.

    Args:
        model: an EoMT model in evaluation mode, or whatever takes `pixel_values` and returns its logits.
        image_processor: its image processor.
        task: "panoptic", "instance" or "semantic"; the processor's by default.
        resizes: whether the graph resizes the image.
        max_segments: see above.

    Raises:
        ValueError: the processor has settings that no such graph can follow.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        model: nn.Module,
        image_processor: Any,
        *,
        task: str | None = None,
        resizes: bool = True,
        max_segments: int | None = None,
    ):
        super().__init__()
        self.model = model
        self.task = TASKS[check_settings({"task": task or image_processor.task})["task"]]
        self.resizes, self.max_segments = resizes, max_segments
        self.input_size = parse_size(image_processor.size)
        self.resample = image_processor.resample
        self.is_split = bool(image_processor.do_split_image) and not self.task.has_segments
        self.settings = check_settings(
            {name: getattr(image_processor, name) for name, rule in self.task.settings.items() if rule.is_stored}
        )
        self.scale = 1 / image_processor.rescale_factor if image_processor.do_rescale else None
        self.do_normalize = bool(image_processor.do_normalize)
        for name in ("image_mean", "image_std"):
            values = torch.as_tensor(getattr(image_processor, name), dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self._check(image_processor)

    def _check(self, image_processor: Any) -> None:
        is_padded = image_processor.do_pad or image_processor.do_split_image
        if not self.is_split and not is_padded:
            raise ValueError(
                "The image processor has do_pad=False, so that inputs are of any size, and the graph of a segmenter "
                "has inputs of one size: set do_pad=True, or export the raw graph."
            )
        if self.resizes and not image_processor.do_resize:
            raise ValueError(
                "The image processor has do_resize=False, and the graph would resize: export it for images of the "
                "model's size (resizes=False), or the raw graph."
            )
        if self.resizes and self.resample not in (BILINEAR, BICUBIC):
            raise ValueError(
                f"The image processor has resample={self.resample}, and graphs resize bilinearly ({BILINEAR}) or "
                f"bicubically ({BICUBIC}): export it for images of the model's size (resizes=False), or the raw graph."
            )
        if self.max_segments is not None and (self.resizes or self.is_split or self.max_segments < 1):
            raise ValueError(
                f"max_segments={self.max_segments} is for graphs whose shapes are all fixed: at least 1, with "
                "resizes=False, and not for images that are cut into windows."
            )
        num_classes = getattr(getattr(self.model, "config", None), "num_labels", None)
        for label in self.settings.get("stuff_classes") or ():
            if num_classes is not None and label >= num_classes:
                raise ValueError(
                    f"Stuff class {label} is out of range: the model has the classes 0 to {num_classes - 1}."
                )

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in their order."""
        if not self.task.has_segments:
            return ("segmentation",)
        names = ("masks" if self.task.segments_overlap else "segmentation", "labels", "scores", "areas", "boxes")
        return names if self.max_segments is None else (*names, "num_segments")

    def forward(self, image: Tensor, content_size: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the outputs by name, see the class."""
        frame = self._frame(image, content_size)
        if self.resizes and frame.content_size is not None:
            image = resize(image, frame.content_size, self.resample)
        pixels = image.permute(2, 0, 1)
        if self.is_split:
            windows = self._split(pixels)
        else:
            height, width = (edge - length for edge, length in zip(self.input_size, pixels.shape[1:]))
            windows = F.pad(pixels, (0, width, 0, height))[None] if self.resizes else pixels[None]
        outputs = self.model(pixel_values=self._normalize(windows))
        masks, classes = outputs.masks_queries_logits, outputs.class_queries_logits
        if self.task.name == "panoptic":
            return segment_panoptic(masks[0], classes[0], frame, **self.settings, max_segments=self.max_segments)
        if self.task.name == "instance":
            return segment_instances(masks[0], classes[0], frame, **self.settings, max_segments=self.max_segments)
        is_unrolled = not self.resizes and not self.is_split
        return segment_semantic(masks, classes, frame, is_resized=self.resizes, is_unrolled=is_unrolled)

    def _frame(self, image: Tensor, content_size: Tensor | None) -> Frame:
        """Returns how `(height, width, 3)` becomes the model's input."""
        height, width = image.shape[:2]
        everywhere = torch.full((), True, device=image.device)
        if not self.resizes and not self.is_split:
            if content_size is None:
                raise ValueError("content_size is missing: the height and width in pixels of what is not padding.")
            rows, columns = (torch.arange(edge, device=image.device) for edge in self.input_size)
            inside = (rows < content_size[0])[:, None] & (columns < content_size[1])
            return Frame(self.input_size, self.input_size, None, is_split=False, inside=inside)
        if not self.resizes:
            return Frame(self.input_size, (height, width), (height, width), is_split=True, inside=everywhere)
        # In float64, as `geometry_eomt.fit_size` and `cover_size` compute, which matters to what is rounded.
        size = torch.tensor([height, width], dtype=torch.float64)
        scales = torch.tensor(self.input_size, dtype=torch.float64) / size
        scale = scales.amax(dim=0) if self.is_split else scales.amin(dim=0)
        content_height, content_width = (size * scale).round().clamp(min=1).long().tolist()
        for edge, limit in zip((content_height, content_width), self.input_size):
            torch._check(edge >= (limit if self.is_split else 1))
            if not self.is_split:
                torch._check(edge <= limit)
        content = (content_height, content_width)
        return Frame(self.input_size, (height, width), content, is_split=self.is_split, inside=everywhere)

    def _split(self, pixels: Tensor) -> Tensor:
        """Cuts `(3, height, width)` into windows, `(num_windows, 3, input_height, input_width)`."""
        rows, columns = (
            window_starts(length, edge, pixels.device)[:, None] + torch.arange(edge, device=pixels.device)
            for length, edge in zip(pixels.shape[1:], self.input_size)
        )
        # (3, rows of windows, input_height, columns of windows, input_width), of which one is 1
        windows = pixels[:, rows][..., columns]
        return windows.permute(1, 3, 0, 2, 4).flatten(0, 1)

    def _normalize(self, pixels: Tensor) -> Tensor:
        """Turns `(..., 3, height, width)` uint8 into what the model takes."""
        image = pixels.float() if self.scale is None else pixels / self.scale
        return (image - self.image_mean) / self.image_std if self.do_normalize else image


def build_segmenter_graph(
    model: nn.Module,
    image_processor: Any,
    *,
    task: str | None = None,
    resizes: bool = True,
    max_segments: int | None = None,
) -> Graph:
    """Describes the graph of a [`Segmenter`], whose arguments these are."""
    segmenter = Segmenter(model, image_processor, task=task, resizes=resizes, max_segments=max_segments).eval()
    height, width = segmenter.input_size
    axes = {"image": {0: "height", 1: "width"}}
    if resizes:
        # No side of the example is one of the model's, which would be taken for the same.
        shape = (height + height // 2 + 1, width + width // 4 + 1)
    elif segmenter.is_split:
        # Two windows by three: what there is one of, torch.export takes for one that there is always one of.
        shape = (height + height // 2 + 1, 2 * width + 1)
    else:
        shape, axes = (height, width), {}
    inputs = {"image": torch.zeros(*shape, 3, dtype=torch.uint8)}
    if not resizes and not segmenter.is_split:
        inputs["content_size"] = torch.tensor(shape)
    return Graph(segmenter, inputs, axes, segmenter.output_names, has_loop=max_segments is None)

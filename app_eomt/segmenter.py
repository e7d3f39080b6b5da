"""A checkpoint that keeps what it predicted, so that its segments can be asked for again with other thresholds."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from eomt_transformers import pipeline
from eomt_transformers.segment import describe_segment
from image_processing_eomt import TASKS, VOID, draw_segmentation
from image_processing_eomt.geometry_eomt import encode_masks
from image_processing_eomt.settings_eomt import POST_PROCESSING
from image_processing_eomt.visualization_eomt import shade_segments

from .photographs import read_photograph


MAX_KEPT_BYTES = 2**29  # of predictions, for each checkpoint
MAX_SHOWN_SIDE = 1280  # pixels of what is drawn; segments of larger photographs are drawn at this size
MIN_SHOWN_SIDE = 640  # pixels; smaller drawings are enlarged


@dataclass(frozen=True)
class Prediction:
    """
    What a model found in a photograph.

    Args:
        masks: `(num_queries, height / 4, width / 4)` logits, of each window.
        classes: `(num_windows, num_queries, num_classes + 1)` logits.
        size: `(height, width)` of the photograph in pixels.
        picture: the photograph, at the size in which it is shown.
        seconds: that the model took.
    """

    masks: Sequence[torch.Tensor]
    classes: torch.Tensor
    size: tuple[int, int]
    picture: Image.Image
    seconds: float

    @property
    def num_bytes(self) -> int:
        """The memory that it takes."""
        tensors = [*self.masks, self.classes]
        return sum(tensor.nbytes for tensor in tensors) + 3 * self.picture.width * self.picture.height


@dataclass(frozen=True)
class Drawing:
    """
    Segments drawn over a photograph.

    Args:
        image: the drawing.
        segments: for each segment its `label`, `score` (None for semantic segmentation), `color` in the drawing and
            `share` of the image, 0 to 1. The largest comes first.
    """

    image: Image.Image
    segments: list[dict[str, Any]]


class Segmenter:
    """
    A checkpoint behind the page. One thread uses it at a time.

    Args:
        name: whatever `eomt_transformers.pipeline` takes.

    Raises:
        OSError, ValueError: there is no such checkpoint, or it cannot be loaded.
    """

    def __init__(self, name: str):
        self.pipeline: Any = pipeline(name)
        self.name = Path(name).name if Path(name).is_dir() else name
        self._kept: OrderedDict[tuple[str, bool], Prediction] = OrderedDict()  # the last one used comes last

    @property
    def processor(self) -> Any:
        """The image processor."""
        return self.pipeline.image_processor

    @property
    def id2label(self) -> dict[int, str]:
        """The names of the classes."""
        return {label_id: str(name) for label_id, name in self.pipeline.model.config.id2label.items()}

    @property
    def tasks(self) -> list[str]:
        """The tasks that the checkpoint can be used for: its own, and those that ask for less."""
        return [name for name, task in TASKS.items() if hasattr(self.processor, task.method)]

    def own_threshold(self, name: str) -> float:
        """Returns the checkpoint's own value of a threshold."""
        value = getattr(self.processor, name, None)
        return float(POST_PROCESSING[name].default if value is None else value)

    def predict(self, path: str, task: str) -> Prediction:
        """
        Returns what the model finds in a photograph; it runs only where that is not known any more.

        Raises what `read_photograph` raises.
        """
        for gone in [key for key in self._kept if not Path(key[0]).is_file()]:
            del self._kept[gone]  # with the photograph that somebody uploaded
        # Queries stand for things in the whole image, so that no windows are cut for tasks that have segments.
        key = path, bool(self.processor.do_split_image) and not TASKS[task].has_segments
        if key not in self._kept:
            photograph = read_photograph(path)
            start = time.perf_counter()
            inputs = self.pipeline.preprocess(np.array(photograph), subtask=task)
            outputs = [self.pipeline.forward(window) for window in inputs]
            seconds = time.perf_counter() - start
            size = photograph.height, photograph.width
            photograph.thumbnail((MAX_SHOWN_SIDE, MAX_SHOWN_SIDE), reducing_gap=2.0)
            self._kept[key] = Prediction(
                [masks for output in outputs for masks in output["masks_queries_logits"]],
                torch.cat([output["class_queries_logits"] for output in outputs]),
                size,
                photograph,
                seconds,
            )
            while len(self._kept) > 1 and sum(kept.num_bytes for kept in self._kept.values()) > MAX_KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def draw(self, path: str, task: str, thresholds: Mapping[str, float]) -> Drawing:
        """
        Draws the segments of a photograph, at most `MAX_SHOWN_SIDE` pixels large.

        Args:
            path: the photograph.
            task: one of `tasks`.
            thresholds: those that are not the checkpoint's own.
        """
        prediction = self.predict(path, task)
        picture = prediction.picture
        result = self._post_process(prediction, (picture.height, picture.width), task, thresholds)
        segment_map, found = _as_segments(result)
        label_ids = [segment["label_id"] for segment in found]
        segments = [
            {
                "label": self.id2label[segment["label_id"]],
                "score": segment["score"],
                "color": color,
                "share": segment["area"] / segment_map.numel(),
            }
            for segment, color in zip(found, shade_segments(label_ids), strict=True)
        ]
        factor = -(-MIN_SHOWN_SIDE // max(picture.size))  # rounded up; whole, so that pixels stay squares
        segment_map = segment_map.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        enlarged = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
        drawing = draw_segmentation(enlarged, segment_map, found, self.id2label)
        return Drawing(drawing, sorted(segments, key=lambda segment: -segment["share"]))

    def segment(self, path: str, task: str, thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
        """
        Returns the segments of a photograph at its own size: those of the pipeline.

        Args:
            path, task, thresholds: as for `draw`.

        Returns:
            For each segment `label`, `label_id`, `score` (None for semantic segmentation), `area` in pixels, `bbox` as
            `[x, y, width, height]` in pixels, and `segmentation` in COCO's run lengths.
        """
        prediction = self.predict(path, task)
        forms = {"return_coco_annotation": True} if TASKS[task].segments_overlap else {}
        result = self._post_process(prediction, prediction.size, task, thresholds, **forms)
        if TASKS[task].segments_overlap:
            run_lengths, found = result["segmentation"], result["segments_info"]
        else:
            segment_map, found = _as_segments(result)
            run_lengths = [encode_masks((segment_map == segment["id"])[None])[0] for segment in found]
        return [
            describe_segment(self.id2label[segment["label_id"]], segment["label_id"], segment["score"], encoded)
            for segment, encoded in zip(found, run_lengths, strict=True)
            if segment["area"] > 0
        ]

    def _post_process(
        self, prediction: Prediction, size: tuple[int, int], task: str, thresholds: Mapping[str, float], **forms: bool
    ) -> Any:
        outputs = SimpleNamespace(masks_queries_logits=prediction.masks, class_queries_logits=prediction.classes)
        return self.processor.post_process(outputs, [size], task=task, **thresholds, **forms)[0]


def _as_segments(result: Any) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Returns a map of ids, `(height, width)`, and the segments that it shows, from any task's post-processing."""
    if not isinstance(result, torch.Tensor):
        return result["segmentation"].cpu(), result["segments_info"]
    classes, areas = result.cpu().unique(return_counts=True)
    segments = [
        {"id": label_id, "label_id": label_id, "score": None, "area": area}
        for label_id, area in zip(classes.tolist(), areas.tolist(), strict=True)
        if label_id != VOID
    ]
    return result.cpu(), segments

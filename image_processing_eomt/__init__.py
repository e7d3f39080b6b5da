"""Pixels in, segments out: both image-processor backends, post-processing, the pipeline and the drawing of results."""

from .image_processing_eomt import EomtImageProcessor, EomtImageProcessorKwargs, EomtImageProcessorPil
from .pipeline_eomt import EomtImageSegmentationPipeline
from .post_processing_eomt import VOID, segment_instances, segment_panoptic, segment_semantic
from .settings_eomt import TASKS, Task
from .visualization_eomt import class_color, draw_segmentation


__all__ = [
    "TASKS",
    "VOID",
    "EomtImageProcessor",
    "EomtImageProcessorKwargs",
    "EomtImageProcessorPil",
    "EomtImageSegmentationPipeline",
    "Task",
    "class_color",
    "draw_segmentation",
    "segment_instances",
    "segment_panoptic",
    "segment_semantic",
]

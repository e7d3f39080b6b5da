"""Pixels in, segments out: both image-processor backends, post-processing, the pipeline and the drawing of results."""

from .image_processing_eomt import EomtImageProcessor, EomtImageProcessorKwargs, EomtImageProcessorPil
from .instances_eomt import instance_segments
from .panoptic_eomt import panoptic_segments
from .pipeline_eomt import EomtImageSegmentationPipeline
from .semantic_eomt import semantic_classes
from .visualization_eomt import class_color, draw_segmentation


__all__ = [
    "EomtImageProcessor",
    "EomtImageProcessorKwargs",
    "EomtImageProcessorPil",
    "EomtImageSegmentationPipeline",
    "class_color",
    "draw_segmentation",
    "instance_segments",
    "panoptic_segments",
    "semantic_classes",
]

"""Pixels in, segments out: both image-processor backends, post-processing, the pipeline and the drawing of results."""

from .image_processing_eomt import EomtImageProcessor, EomtImageProcessorKwargs, EomtImageProcessorPil
from .pipeline_eomt import EomtImageSegmentationPipeline
from .post_processing_eomt import panoptic_segments
from .visualization_eomt import class_color, draw_segmentation


__all__ = [
    "EomtImageProcessor",
    "EomtImageProcessorKwargs",
    "EomtImageProcessorPil",
    "EomtImageSegmentationPipeline",
    "class_color",
    "draw_segmentation",
    "panoptic_segments",
]

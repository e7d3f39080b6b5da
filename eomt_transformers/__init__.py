"""EoMT for Hugging Face Transformers: the one name to import from.

Re-exports the public names of `configuration_eomt`, `modeling_eomt`, `image_processing_eomt` and `training_eomt`, has
[`pipeline`] for any checkpoint, and loads a package when the first of its names is used: this import alone loads
neither torch nor Transformers.
"""

from typing import TYPE_CHECKING

from loading_eomt.lazy import lazy_attributes


if TYPE_CHECKING:
    from configuration_eomt import *  # noqa: F403
    from image_processing_eomt import *  # noqa: F403
    from modeling_eomt import *  # noqa: F403
    from training_eomt import *  # noqa: F403
    from training_eomt.metrics import *  # noqa: F403

    from .pipelines import *  # noqa: F403

__version__ = "0.1.0"

_PACKAGES = {
    "configuration_eomt": ("EOMT_SIZES", "EomtConfig", "EomtDinov3Config", "EomtEva02Config"),
    "modeling_eomt": (
        "MODEL_CLASSES",
        "EomtDinov3ForUniversalSegmentation",
        "EomtEva02ForUniversalSegmentation",
        "EomtForUniversalSegmentation",
        "EomtForUniversalSegmentationOutput",
        "EomtLoss",
        "EomtPreTrainedModel",
        "NonFinitePredictionsError",
        "convert_official_checkpoint",
        "count_items",
        "official_parameter_name",
    ),
    "image_processing_eomt": (
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
    ),
    "eomt_transformers.pipelines": ("pipeline",),
    "training_eomt": ("EomtTrainer", "EomtTrainingArguments"),
    "training_eomt.metrics": ("MaskAveragePrecision", "MeanIoU", "PanopticQuality", "StreamingMetric"),
}
_PACKAGE_BY_NAME = {name: package for package, names in _PACKAGES.items() for name in names}

__all__ = ["__version__", *_PACKAGE_BY_NAME]


__getattr__ = lazy_attributes(__name__, _PACKAGE_BY_NAME)


def __dir__() -> list[str]:
    return sorted(__all__)

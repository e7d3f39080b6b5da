"""What an EoMT model does: the ViT, the mask module, the loss, checkpoint conversion."""

from typing import Any

from .configuration_eomt import EomtConfig, EomtDinov3Config
from .loss_eomt import EomtLoss, NonFinitePredictionsError, count_items
from .modeling_eomt import (
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    EomtForUniversalSegmentationOutput,
    EomtPreTrainedModel,
)


__all__ = [
    "EomtConfig",
    "EomtDinov3Config",
    "EomtDinov3ForUniversalSegmentation",
    "EomtForUniversalSegmentation",
    "EomtForUniversalSegmentationOutput",
    "EomtLoss",
    "EomtPreTrainedModel",
    "NonFinitePredictionsError",
    "convert_official_checkpoint",
    "count_items",
    "official_parameter_name",
]

_OF_CONVERSION = ("convert_official_checkpoint", "official_parameter_name")


def __getattr__(name: str) -> Any:
    # On first use, so that `python -m modeling_eomt.convert_official` does not import its module a second time.
    if name in _OF_CONVERSION:
        from . import convert_official

        return getattr(convert_official, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

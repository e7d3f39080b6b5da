"""EoMT models: the ViT, the mask module, the loss, checkpoints."""

from .checkpoints_eomt import official_parameter_name
from .configuration_eomt import EomtConfig, EomtDinov3Config, EomtEva02Config
from .loss_eomt import EomtLoss, NonFinitePredictionsError, count_items
from .modeling_eomt import (
    MODEL_CLASSES,
    EomtDinov3ForUniversalSegmentation,
    EomtEva02ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    EomtForUniversalSegmentationOutput,
    EomtPreTrainedModel,
)
from .official_checkpoints import convert_official_checkpoint


__all__ = [
    "MODEL_CLASSES",
    "EomtConfig",
    "EomtDinov3Config",
    "EomtDinov3ForUniversalSegmentation",
    "EomtEva02Config",
    "EomtEva02ForUniversalSegmentation",
    "EomtForUniversalSegmentation",
    "EomtForUniversalSegmentationOutput",
    "EomtLoss",
    "EomtPreTrainedModel",
    "NonFinitePredictionsError",
    "convert_official_checkpoint",
    "count_items",
    "official_parameter_name",
]

"""What an EoMT model does: the ViT, the mask module, the loss, checkpoint conversion."""

from .configuration_eomt import EomtConfig
from .convert_official import convert_official_checkpoint, official_parameter_name
from .loss_eomt import EomtLoss
from .modeling_eomt import EomtForUniversalSegmentation, EomtForUniversalSegmentationOutput, EomtPreTrainedModel


__all__ = [
    "EomtConfig",
    "EomtForUniversalSegmentation",
    "EomtForUniversalSegmentationOutput",
    "EomtLoss",
    "EomtPreTrainedModel",
    "convert_official_checkpoint",
    "official_parameter_name",
]

"""The configurations of EoMT models, and the named sizes."""

from .configuration_eomt import EOMT_SIZES, EomtConfig, EomtDinov3Config, EomtEva02Config


__all__ = ["EOMT_SIZES", "EomtConfig", "EomtDinov3Config", "EomtEva02Config"]

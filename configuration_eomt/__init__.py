"""What an EoMT model is: its configuration."""

from .configuration_eomt import EomtConfig


__all__ = ["EomtConfig"]

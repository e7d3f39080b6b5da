"""What an EoMT model is: its configuration, and the named sizes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .configuration_eomt import EOMT_SIZES, EomtConfig, EomtDinov3Config

__all__ = ["EOMT_SIZES", "EomtConfig", "EomtDinov3Config"]


def __getattr__(name: str) -> Any:
    """Loads the configuration when it is asked for: whoever shows a text does not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".configuration_eomt", __name__), name)

"""How an EoMT model leaves PyTorch: graphs for other runtimes, and what reads their outputs without PyTorch.

- `export`: the function, and `__main__`: the command `python -m deployment_eomt MODEL OUT --format onnx`.
- `raw`: the graph from pixel values to logits.
- `formats/`: what writes a graph, one module per format.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .export import export_model

__all__ = ["export_model"]

_MODULES = {"export_model": ".export"}


def __getattr__(name: str) -> Any:
    """Imports on first use (PEP 562): what runs without PyTorch does not wait for it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)

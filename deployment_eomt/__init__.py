"""How an EoMT model leaves PyTorch: graphs for other runtimes, and what reads their outputs without PyTorch.

- `export`: the function, and `__main__`: the command `python -m deployment_eomt MODEL OUT --format onnx`.
- `raw`: the graph from pixel values to logits.
- `formats/`: what writes a graph, one module per format.
- `decoder`: pixel values and segments in NumPy alone, and `predict`: a graph in its runtime. Both are copied into
  exported folders.
- `exported`: a folder in place of a model for the project's pipeline.
"""

from typing import TYPE_CHECKING

from loading_eomt.lazy import lazy_attributes


if TYPE_CHECKING:
    from .export import export_model
    from .exported import ExportedSegmenter, pipeline

__all__ = ["ExportedSegmenter", "export_model", "pipeline"]

# What runs without PyTorch does not wait for it.
__getattr__ = lazy_attributes(
    __name__, {"ExportedSegmenter": ".exported", "export_model": ".export", "pipeline": ".exported"}
)

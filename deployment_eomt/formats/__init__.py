"""What writes a graph: one module per format.

A format is an entry of `FORMATS`. Its module has a function `write(graph, folder, options)`, which writes the graph to
`folder / format.file` and what belongs to it beside it, and returns what `export.json` says about the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Graph:
    """
    What is exported.

    Args:
        module: takes the inputs by name, returns a dict of tensors.
        example_inputs: inputs by name. Axes that are open have other sizes than 0 and 1.
        dynamic_shapes: for each input the axes that are left open, and their names.
        output_names: the names of the outputs, in order.
    """

    module: nn.Module
    example_inputs: dict[str, Tensor]
    dynamic_shapes: dict[str, dict[int, str]]
    output_names: tuple[str, ...]

    def torch_shapes(self) -> dict[str, Any]:
        """Returns the open axes as `torch.export` takes them. One that turns out not to be open is an error there."""
        return {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in self.dynamic_shapes.items()}


@dataclass(frozen=True)
class Options:
    """
    How a graph is written.

    Args:
        opset: version of the ONNX operators.
        compile: whether a `torch` graph is compiled for this processor, by AOTInductor.
    """

    opset: int = 20
    compile: bool = False


@dataclass(frozen=True)
class Format:
    """
    A format of graphs.

    Args:
        name: what it is called on the command line.
        extra: the extra of this project's packages that installs what it needs.
        packages: what it needs, by the names to import.
        file: the name of a graph's file.
        module: the module in this package that writes it.
    """

    name: str
    extra: str
    packages: tuple[str, ...]
    file: str
    module: str

    def write(self, graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
        """Writes a graph, see the package's docstring."""
        written: Mapping[str, Any] = import_module(f".{self.module}", __package__).write(graph, folder, options)
        return written


FORMATS = {
    each.name: each for each in (Format("onnx", "onnx", ("onnx", "onnxscript", "onnxruntime"), "model.onnx", "onnx"),)
}

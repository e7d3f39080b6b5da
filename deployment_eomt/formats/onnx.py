"""ONNX, by Transformers' exporter.

It writes weights beside the graph always. Here they are in the graph's own file as long as they fit: protocol buffers
end at 2 GiB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter

from . import Graph, Options


FILE, DATA = "model.onnx", "model.onnx.data"
MAX_BYTES = 2**31 - 2**24  # of the weights in one file: the rest is the graph's


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """
    Writes `model.onnx`, and from 2 GiB on its weights to `model.onnx.data`.

    Raises:
        onnx.checker.ValidationError: the graph breaks a rule of ONNX.
    """
    config = OnnxConfig(opset_version=options.opset, dynamic_shapes=graph.torch_shapes())
    module: Any = graph.module
    component = OnnxExporter().export(module, dict(graph.example_inputs), config).components["model"]
    program = component.program
    name_axes(program, graph)
    num_bytes = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    onnx_ir.save(program, folder / FILE, external_data=DATA if num_bytes > MAX_BYTES else None)
    onnx.checker.check_model(str(folder / FILE), full_check=True)
    return dataclasses.asdict(component.metadata)


def name_axes(program: onnx_ir.Model, graph: Graph) -> None:
    """Gives the open axes of inputs their names, and forgets what was written down of shapes that depend on them."""
    for value in program.graph.inputs:
        shape: list[Any] = list(value.shape or ())
        for axis, name in graph.dynamic_shapes.get(str(value.name), {}).items():
            shape[axis] = name
        value.shape = onnx_ir.Shape(shape)

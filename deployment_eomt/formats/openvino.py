"""OpenVINO's intermediate representation, by Transformers' exporter where it has no loop.

OpenVINO does not take PyTorch's loops. It does take ONNX's, so graphs with a loop are converted from ONNX.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
from transformers.exporters.configs import OpenVINOConfig
from transformers.exporters.exporter_openvino import OpenVINOExporter

from ..precision import DTYPES, quantize_openvino
from . import FORMATS, Graph, Options, Precision


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """Writes `model.xml`, the graph, and `model.bin`, its weights."""
    file = folder / FORMATS["openvino"].file
    if graph.has_loop:
        from . import onnx as onnx_format

        with tempfile.TemporaryDirectory() as onnx_folder:
            in_float32 = dataclasses.replace(options, precision=Precision())
            metadata = onnx_format.write(graph, Path(onnx_folder), in_float32)
            program = openvino.convert_model(Path(onnx_folder, onnx_format.FILE))
            save(program, file, graph, options)
        return metadata
    module: Any = graph.module
    config = OpenVINOConfig(dynamic_shapes=graph.torch_shapes(), stateful=False)
    component = OpenVINOExporter().export(module, dict(graph.example_inputs), config).components["model"]
    # The exporter leaves every axis open, and a graph that takes an image of any size fails inside at best.
    shapes = {
        name: [-1 if axis in graph.dynamic_shapes.get(name, {}) else size for axis, size in enumerate(example.shape)]
        for name, example in graph.example_inputs.items()
    }
    component.program.reshape(shapes)
    for port in component.program.inputs:  # which may have got other names besides
        port.get_tensor().set_names(port.get_names() & shapes.keys())
    save(component.program, file, graph, options)
    return dataclasses.asdict(component.metadata)


def save(program: openvino.Model, file: Path, graph: Graph, options: Options) -> None:
    """Writes a converted graph in a precision, see `precision`."""
    program = quantize_openvino(program, graph, options.precision)
    openvino.save_model(program, file, compress_to_fp16=options.precision.name in DTYPES)

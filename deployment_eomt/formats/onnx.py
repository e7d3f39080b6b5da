"""ONNX, by Transformers' exporter, but for the file.

The exporter puts weights into a file of their own always. Here they are in the graph's file as long as they fit, so
that there is one file to copy; protocol buffers end at 2 GiB. Transformers 5.24's `ExportedModel.from_pretrained` asks
for the other file, so it does not read these folders.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter

from ..precision import quantize_onnx
from . import FORMATS, Graph, Options


FILE = FORMATS["onnx"].file
MAX_BYTES = 2**31 - 2**24  # of the weights in the graph's file; the rest is for the graph


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """
    Writes `model.onnx`, and if they do not fit in there its weights to `model.onnx.data`.

    Raises:
        ValueError: there is no exporting to this version of the operators.
        onnx.checker.ValidationError: the graph breaks a rule of ONNX.
    """
    config = OnnxConfig(opset_version=options.opset, dynamic_shapes=graph.torch_shapes())
    module: Any = graph.module
    component = OnnxExporter().export(module, dict(graph.example_inputs), config).components["model"]
    program = component.program
    if (opset := program.opset_imports[""]) != options.opset:
        raise ValueError(f"opset={options.opset} cannot be written by the installed onnxscript, but {opset} can.")
    name_axes(program, graph)
    program = quantize_onnx(program, graph, options.precision)
    drop_traces(program)
    # For programs that read no JSON: the names of the classes, one a line.
    program.metadata_props["labels"] = "\n".join(label.replace("\n", " ") for label in graph.labels)
    num_bytes = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    onnx_ir.save(program, folder / FILE, external_data=f"{FILE}.data" if num_bytes > MAX_BYTES else None)
    onnx.checker.check_model(str(folder / FILE), full_check=True)
    return dataclasses.asdict(component.metadata)


def drop_traces(program: onnx_ir.Model) -> None:
    """Drops from operators where they stand in Python, with paths of this machine: a fifth of a small file."""
    parts: list[onnx_ir.Graph | onnx_ir.Function] = [program.graph, *program.functions.values()]
    for node in (node for part in parts for node in part.all_nodes()):
        node.metadata_props.clear()


def name_axes(program: onnx_ir.Model, graph: Graph) -> None:
    """Calls open axes by their names, in all shapes, instead of by PyTorch's symbols."""
    names = {}
    for value in program.graph.inputs:
        for axis, name in graph.dynamic_shapes.get(str(value.name), {}).items():
            multiple = graph.multiples.get(name, 1)
            symbol = str(value.shape[axis]).split("*")[-1] if value.shape else ""
            names[f"{multiple}*{symbol}"] = name
            names[symbol] = f"({name}//{multiple})" if multiple > 1 else name
    if not names:
        return
    pattern = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names))
    for value in [*program.graph.inputs, *(output for node in program.graph for output in node.outputs)]:
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else size.value for size in value.shape]
            value.shape = onnx_ir.Shape(
                [pattern.sub(lambda found: names[found[0]], size) if isinstance(size, str) else size for size in sizes]
            )

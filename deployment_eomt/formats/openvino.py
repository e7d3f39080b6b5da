"""OpenVINO's intermediate representation, by Transformers' exporter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.exporters.configs import OpenVINOConfig
from transformers.exporters.exporter_openvino import OpenVINOExporter

from . import FORMATS, Graph, Options


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """Writes `model.xml`, the graph, and `model.bin`, its weights in float32."""
    exporter = OpenVINOExporter()
    config = OpenVINOConfig(dynamic_shapes=graph.torch_shapes(), stateful=False)
    module: Any = graph.module
    component = exporter.export(module, dict(graph.example_inputs), config).components["model"]
    # The exporter leaves every axis open, and a graph that takes an image of any size fails inside at best.
    shapes = {
        name: [-1 if axis in graph.dynamic_shapes.get(name, {}) else size for axis, size in enumerate(example.shape)]
        for name, example in graph.example_inputs.items()
    }
    component.program.reshape(shapes)
    for port in component.program.inputs:  # which may have got other names besides
        port.get_tensor().set_names(port.get_names() & shapes.keys())
    exporter.save_program(component.program, folder / FORMATS["openvino"].file)
    return dataclasses.asdict(component.metadata)

"""A program of `torch.export`, by Transformers' exporter, or what AOTInductor compiles of it, which that does not do.

Programs refuse inputs of a size that they are not for. What is compiled does not, and crops them: whoever runs it has
to check sizes, as `predict.py` does.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor.exc import InvalidCxxCompiler
from transformers.exporters.configs import DynamoConfig
from transformers.exporters.exporter_dynamo import DynamoExporter

from . import FORMATS, Graph, Options


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """
    Writes `model.pt2`, which `torch.export.load` reads, or if it is compiled `torch._inductor.aoti_load_package`.

    Raises:
        OSError: there is no C++ compiler to compile with.
    """
    exporter, file = DynamoExporter(), folder / FORMATS["torch"].file
    # A copy, for whoever has the model goes on with it where it is.
    module: Any = graph.module if options.device == "cpu" else copy.deepcopy(graph.module).to(options.device)
    inputs: dict[str, Any] = {name: example.to(options.device) for name, example in graph.example_inputs.items()}
    config = DynamoConfig(dynamic_shapes=graph.torch_shapes())
    component = exporter.export(module, inputs, config).components["model"]
    for part in component.program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # lines of Python with paths on this machine
    if options.compile:
        try:
            torch._inductor.aoti_compile_and_package(component.program, package_path=str(file))
        except InvalidCxxCompiler as error:
            raise OSError("Compiling needs a C++ compiler: install g++, or name one in the variable CXX.") from error
    else:
        exporter.save_program(component.program, file)
    return dataclasses.asdict(component.metadata)

"""Core ML, for Apple's devices. Converting works everywhere, running on macOS and iOS only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coremltools
import torch
from coremltools.converters.mil import Operation
from torch import Tensor, nn
from transformers.exporters.configs import DynamoConfig
from transformers.exporters.exporter_dynamo import DynamoExporter

from configuration_eomt.configuration_eomt import patch_grid
from modeling_eomt import EomtForUniversalSegmentation

from . import FORMATS, Graph, Options
from .attention import attention


MAX_BATCH = 8
TARGET = coremltools.target.iOS17  # and macOS 14, of 2023


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """
    Writes `model.mlpackage`, a folder. The batch may be left open, up to `MAX_BATCH`.

    Raises:
        ValueError: height or width are left open, or an unknown precision.
    """
    precisions = {
        "float32": coremltools.precision.FLOAT32,
        "float16": coremltools.transform.FP16ComputePrecision(op_selector=fits_float16),
    }
    if options.precision.name not in precisions:
        raise ValueError(f"precision={options.precision.name!r}: the format 'coreml' has {' and '.join(precisions)}.")
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    inputs: list[Any] = []
    shapes: dict[str, dict[int, Any]] = {}
    for name, example in graph.example_inputs.items():
        shape: list[Any] = list(example.shape)
        for axis, size in graph.dynamic_shapes.get(name, {}).items():
            if size != "batch":
                raise ValueError(f"The {size} cannot be left open in the format 'coreml'. Export once for each size.")
            shape[axis] = coremltools.RangeDim(1, MAX_BATCH, default=example.shape[axis])
            shapes.setdefault(name, {})[axis] = batch
        inputs.append(coremltools.TensorType(name, shape=shape))
    with attention(graph.module, "sdpa"), fixed_rope(graph.module):
        module: Any = graph.module
        config = DynamoConfig(dynamic_shapes=shapes or None)
        component = DynamoExporter().export(module, dict(graph.example_inputs), config).components["model"]
    # `alias`, which some versions of PyTorch leave in their graphs, is not known to coremltools.
    program = component.program.run_decompositions({torch.ops.aten.alias.default: itself})
    converted = coremltools.convert(
        program,
        inputs=inputs,
        outputs=[coremltools.TensorType(name) for name in graph.output_names],
        minimum_deployment_target=TARGET,
        compute_precision=precisions[options.precision.name],
        skip_model_load=True,
    )
    converted.save(str(folder / FORMATS["coreml"].file))
    return dataclasses.asdict(component.metadata)


class FixedRope(nn.Module):
    """Rotary embeddings at the size of images that a model is made for, as constants: coremltools rounds angles in
    its own way, which the logits show (4e-5 of the largest)."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, model: Any):
        super().__init__()
        grid = patch_grid(model.config.image_size, model.config.patch_size)
        num_others = model.config.num_queries + model.embeddings.num_prefix_tokens
        cosines, sines = model.rope_embeddings(grid, num_others, model.device)
        self.register_buffer("cosines", cosines)
        self.register_buffer("sines", sines)

    def forward(self, *args: Any) -> tuple[Tensor, Tensor]:
        return self.cosines, self.sines


@contextmanager
def fixed_rope(module: nn.Module) -> Iterator[None]:
    """Lets the models in a module take their rotary embeddings from [`FixedRope`] for a while."""
    models: list[Any] = [part for part in module.modules() if isinstance(part, EomtForUniversalSegmentation)]
    before = {model: model.rope_embeddings for model in models if model.rope_embeddings is not None}
    try:
        for model in before:
            model.rope_embeddings = FixedRope(model)
        yield
    finally:
        for model, rope in before.items():
            model.rope_embeddings = rope


def itself(tensor: Tensor) -> Tensor:
    return tensor


def fits_float16(operation: Operation) -> bool:
    """Whether an operation may be computed in float16: all but attention's scores and their softmax, which overflow
    in some checkpoints."""
    return operation.op_type != "softmax" and not any(feeds_softmax(output) for output in operation.outputs)


def feeds_softmax(variable: Any) -> bool:
    return any(
        child.op_type == "softmax" or (child.op_type in ("add", "mul", "select") and feeds_softmax(child.outputs[0]))
        for child in variable.child_ops
    )

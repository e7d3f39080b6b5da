"""ExecuTorch, for phones and other small machines, computed by XNNPACK on the CPU.

Transformers' exporter traces the model. Lowered as it is, it takes a tenth more time, so that is done here. Each of
these makes the graph smaller, and all that is left to ExecuTorch's own kernels are the layer norms:

- Attention is written out: of the fused operation, XNNPACK leaves the test for rows that see nothing.
- What does not depend on the image, rotary embeddings first of all, is computed once, here.
- The matrix products of attention come with copies of their arguments that change nothing, and are left out of graphs
  for a fixed batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack._passes.remove_noop_expand_copy_pass import RemoveNoopExpandCopyPass
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from torch.export import Dim
from transformers.exporters.configs import DynamoConfig
from transformers.exporters.exporter_dynamo import DynamoExporter

from . import FORMATS, Graph, Options
from .attention import attention


MAX_BATCH = 4  # ExecuTorch sets aside the memory that the largest batch takes, whatever batch comes


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """
    Writes `model.pte`. The batch may be left open, up to `MAX_BATCH`.

    Raises:
        ValueError: height or width are left open.
    """
    shapes = {name: bounded(axes) for name, axes in graph.dynamic_shapes.items()}
    with attention(graph.module, "eager"):
        module: Any = graph.module
        config = DynamoConfig(dynamic_shapes=shapes)
        component = DynamoExporter().export(module, dict(graph.example_inputs), config).components["model"]
    program = constant_prop_pass(component.program.run_decompositions({}))
    # In an open batch, XNNPACK is handed a part that returns its input, and fails.
    passes = None if any(shapes.values()) else [RemoveNoopExpandCopyPass()]
    lowered = to_edge_transform_and_lower(program, transform_passes=passes, partitioner=[XnnpackPartitioner()])
    with open(folder / FORMATS["executorch"].file, "wb") as file:
        lowered.to_executorch().write_to_file(file)
    return dataclasses.asdict(component.metadata)


def bounded(axes: Mapping[int, str]) -> dict[int, Dim]:
    """Returns the open axes as `torch.export` takes them, with a largest size."""
    if others := set(axes.values()) - {"batch"}:
        raise ValueError(
            f"ExecuTorch sets memory aside for one size of images: {' and '.join(sorted(others))} cannot be left open "
            "in the format 'executorch'. Export once for each size."
        )
    return {axis: Dim(name, min=1, max=MAX_BATCH) for axis, name in axes.items()}

"""What writes a graph: one module per format.

A format is an entry of `FORMATS`. Its module has a function `write(graph, folder, options)`, which writes the graph to
`folder / format.file`, and what belongs to it beside it, and returns what `export.json` says about the graph: the
metadata of Transformers' exporters, where one of them wrote it.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import Tensor, nn
from torch.export import Dim


# Of Transformers' exporters: earlier ones write no metadata, and not all formats.
NEEDED_VERSIONS = {"transformers": "5.24", "torch": "2.11"}


@dataclass(frozen=True)
class Graph:
    """
    What is exported.

    Args:
        module: takes the inputs by name, returns a dict of tensors.
        example_inputs: inputs by name. Axes that are open have other sizes than 0 and 1.
        dynamic_shapes: for each input the axes that are left open, and their names.
        output_names: the names of the outputs, in order.
        multiples: of some of the open axes a number that divides their sizes.
        has_loop: whether it has control flow of PyTorch's.
        labels: the names of the classes, in order.
    """

    module: nn.Module
    example_inputs: dict[str, Tensor]
    dynamic_shapes: dict[str, dict[int, str]]
    output_names: tuple[str, ...]
    multiples: dict[str, int] = field(default_factory=dict)
    has_loop: bool = False
    labels: tuple[str, ...] = ()

    def torch_shapes(self) -> dict[str, Any]:
        """
        Returns the open axes as `torch.export` takes them. One that turns out not to be open is an error there; what
        else it finds out about a size becomes a part of the program, but not of an ONNX graph.
        """
        names = {name for axes in self.dynamic_shapes.values() for name in axes.values()}
        multiples = self.multiples
        sizes = {name: multiples[name] * Dim(f"{name}_") if name in multiples else Dim.DYNAMIC for name in names}
        return {
            name: {axis: sizes[size] for axis, size in self.dynamic_shapes.get(name, {}).items()}
            for name in self.example_inputs
        }


@dataclass(frozen=True)
class Precision:
    """
    How numbers are stored and multiplied in a graph; `precision.choose_precision` makes it.

    Args:
        name: an entry of `precision.PRECISIONS`.
        instruction_set: a key of `precision.INSTRUCTION_SETS`, that of the processor the graph is for.
        calibration: inputs of the graph by name, from which "int8_static" takes the ranges of activations.
    """

    name: str = "float32"
    instruction_set: str = "avx2"
    calibration: Sequence[Mapping[str, Tensor]] = field(default=(), repr=False)


@dataclass(frozen=True)
class Options:
    """
    How a graph is written.

    Args:
        opset: version of the ONNX operators.
        compile: whether a `torch` graph is compiled for this machine, by AOTInductor.
        device: what a `torch` graph runs on.
        precision: of weights, and of products with them.
    """

    opset: int = 20
    compile: bool = False
    device: str = "cpu"
    precision: Precision = Precision()


@dataclass(frozen=True)
class Format:
    """
    A format of graphs.

    Args:
        name: what it is called on the command line, and the module in this package that writes it.
        export_format: what Transformers calls it.
        file: the name of a graph's file.
        extra: the extra of this project that installs what it needs; None if PyTorch is enough.
        packages: what that is, by the names to import.
        resizes: whether a segmenter in this format resizes images itself, see [`Segmenter`].
        max_segments: the number of segments that it looks for, where shapes may not depend on the image.
        has_segmenters: whether its runtime has what a segmenter needs: ExecuTorch does not sort, and Core ML takes no
            images of bytes as arrays.
    """

    name: str
    export_format: str
    file: str
    extra: str | None = None
    packages: tuple[str, ...] = ()
    resizes: bool = False
    max_segments: int | None = None
    has_segmenters: bool = True

    def write(self, graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
        """Writes a graph, see the package's docstring."""
        written: Mapping[str, Any] = import_module(f".{self.name}", __package__).write(graph, folder, options)
        return written

    def check_installed(self) -> None:
        """
        Raises:
            ImportError: a package is missing or too old; the message says how to install it.
        """
        for package, needed in NEEDED_VERSIONS.items():
            if Version(installed := version(package)) < Version(needed):
                raise ImportError(
                    f"Exporting needs {package} {needed} or newer, and {installed} is installed: "
                    f"pip install --upgrade '{package}>={needed}'"
                )
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(
                f"The format {self.name!r} needs {', '.join(missing)}: pip install 'eomt-transformers[{self.extra}]'"
            )


FORMATS = {
    each.name: each
    for each in (
        Format("onnx", "onnx", "model.onnx", "onnx", ("onnx", "onnxscript", "onnxruntime"), resizes=True),
        Format("openvino", "openvino", "model.xml", "openvino", ("openvino", "onnx", "onnxscript")),
        Format("torch", "dynamo", "model.pt2", resizes=True),
        Format("executorch", "executorch", "model.pte", "executorch", ("executorch",), has_segmenters=False),
        Format("coreml", "coreml", "model.mlpackage", "coreml", ("coremltools",), has_segmenters=False),
        Format("tensorrt", "onnx", "model.onnx", "tensorrt", ("onnx", "onnxscript", "onnxruntime"), max_segments=100),
    )
}


def find_format(name: str) -> Format:
    """Returns an entry of `FORMATS`. Raises a `ValueError` that names the nearest one if there is none."""
    if name not in FORMATS:
        similar = difflib.get_close_matches(name.lower(), FORMATS, n=1)
        hint = f" Did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"There is no format {name!r}, only {', '.join(FORMATS)}.{hint}")
    return FORMATS[name]

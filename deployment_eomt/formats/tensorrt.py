"""TensorRT, for NVIDIA's GPUs: an ONNX graph that it takes, how to build an engine of it, and the engine.

An engine is for one kind of GPU and one version of TensorRT. So the folder holds the graph and `tensorrt.json`, which
says how to build it there: its command is `trtexec`'s. Where TensorRT is installed, the engine is built at once.

Networks are strongly typed, which from TensorRT 11 on all are: each operation computes in the dtype that the graph
gives it. What a float16 graph keeps in float32, an engine does.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from . import Graph, Options
from . import onnx as onnx_format


SETTINGS, ENGINE = "tensorrt.json", "model.engine"
MAX_BATCH = 8  # of an engine whose batch is open

# What TensorRT's parser takes: the table of TensorRT 10.15, docs/operators.md of github.com/onnx/onnx-tensorrt, less
# `Attention`, which is in no table before.
TABLE = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BlackmanWindow Cast
CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements
GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf
IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max
MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow
QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
Upsample Where Xor
"""
OPERATORS = frozenset(TABLE.split())
INSTEAD = {
    "Attention": "export with opset 20, where attention is written out",
    "DynamicQuantizeLinear": "quantise with calibration images, not dynamically",
    "MatMulInteger": "quantise with calibration images, not dynamically",
}


def write(graph: Graph, folder: Path, options: Options) -> Mapping[str, Any]:
    """
    Writes `model.onnx`, `tensorrt.json` and, if TensorRT is installed, `model.engine`.

    Raises:
        ValueError: the graph has an operation that TensorRT does not take.
        RuntimeError: TensorRT does not build an engine.
    """
    metadata = onnx_format.write(graph, folder, options)
    model = onnx.load(folder / onnx_format.FILE, load_external_data=False)
    check_operators(model)
    profile = find_profile(graph)
    uses_tf32 = has_float16(model)
    command = ["trtexec", f"--onnx={onnx_format.FILE}", f"--saveEngine={ENGINE}", "--stronglyTyped"]
    if not uses_tf32:
        command.append("--noTF32")
    if any(graph.dynamic_shapes.values()):
        for limit in ("min", "opt", "max"):
            shapes = (f"{name}:{'x'.join(map(str, shapes[limit]))}" for name, shapes in profile.items())
            command.append(f"--{limit}Shapes={','.join(shapes)}")
    settings = {
        "command": " ".join(command),
        "tensorrt": ">=10.12",
        "profile": profile,
        "strongly_typed": True,
        "tf32": uses_tf32,
        "float32_layers": find_float32_layers(model),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if importlib.util.find_spec("tensorrt") is not None:
        build_engine(folder / onnx_format.FILE, folder / ENGINE, profile, uses_tf32)
    return metadata


def check_operators(model: onnx.ModelProto) -> None:
    """Raises a `ValueError` that names each operation that TensorRT does not take, and why."""
    dtypes, constants = find_dtypes(model), {each.name: each for each in model.graph.initializer}
    refused: dict[str, None] = {}
    for node in model.graph.node:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            refused[f"{name} is not in its table ({INSTEAD.get(node.op_type, 'nothing stands in for it')})"] = None
        elif node.op_type == "Resize" and attributes.get("antialias", 0):
            refused["Resize with antialiasing (leave height and width fixed)"] = None
        elif node.op_type == "Resize" and attributes.get("mode", b"nearest") == b"cubic":
            refused["cubic Resize (leave height and width fixed)"] = None
        elif node.op_type == "Pad" and dtypes.get(node.input[0]) == onnx.TensorProto.BOOL:
            refused["Pad of truth values"] = None
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            zero_point = constants.get(node.input[2])
            if zero_point is None or numpy_helper.to_array(zero_point).any():
                refused["quantisation with zero points other than 0 (quantise symmetrically, to int8)"] = None
    if refused:
        raise ValueError(f"TensorRT does not take this graph: {'; '.join(refused)}.")


def find_dtypes(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the dtypes of a graph's values, as numbers of `onnx.TensorProto`."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    dtypes = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return dtypes | {each.name: each.data_type for each in graph.initializer}


def has_float16(model: onnx.ModelProto) -> bool:
    return onnx.TensorProto.FLOAT16 in find_dtypes(model).values()


def find_float32_layers(model: onnx.ModelProto) -> list[str]:
    """Returns the names of what a float16 graph computes in float32, inputs and outputs aside."""
    if not has_float16(model):
        return []
    dtypes = find_dtypes(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type not in ("Cast", "Constant") and dtypes.get(node.output[0]) == onnx.TensorProto.FLOAT
    ]


def find_profile(graph: Graph) -> dict[str, dict[str, list[int]]]:
    """
    Returns the smallest, usual and largest shape of each input. An open batch reaches from 1, which is usual, to
    `MAX_BATCH`, an open height or width from a patch to the size that the model is made for, which is usual.
    """
    profile = {}
    for name, example in graph.example_inputs.items():
        shapes = {limit: list(example.shape) for limit in ("min", "opt", "max")}
        for axis, size in graph.dynamic_shapes.get(name, {}).items():
            shapes["min"][axis] = graph.multiples.get(size, 1)
            if size == "batch":
                shapes["opt"][axis], shapes["max"][axis] = 1, MAX_BATCH
        profile[name] = shapes
    return profile


def build_engine(model: Path, engine: Path, profile: Mapping[str, Mapping[str, list[int]]], uses_tf32: bool) -> None:
    """
    Builds an engine for the GPU of this machine, as `trtexec` does.

    Args:
        model: an ONNX graph.
        engine: the file to write.
        profile: see [`find_profile`].
        uses_tf32: whether products of float32 may be rounded to 10 bits.

    Raises:
        RuntimeError: TensorRT does not take the graph, or finds no way to compute it.
    """
    import tensorrt  # type: ignore[import-not-found]

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise RuntimeError(f"TensorRT {tensorrt.__version__} does not take {model}: {errors}")
    config = builder.create_builder_config()
    if not uses_tf32:
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    shapes = builder.create_optimization_profile()
    for name, limits in profile.items():
        shapes.set_shape(name, limits["min"], limits["opt"], limits["max"])
    config.add_optimization_profile(shapes)
    program = builder.build_serialized_network(network, config)
    if program is None:
        raise RuntimeError(f"TensorRT {tensorrt.__version__} built no engine of {model}: what it logged says why.")
    engine.write_bytes(program)

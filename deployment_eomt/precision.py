"""Precisions lower than float32: 16 bits for the model, 8 and 4 bits for its linear layers.

16 bits are a matter of the model: its copy is in float16 or bfloat16, takes and returns float32, and has attention
probabilities in float32. Whatever surrounds the model in a graph (resizing, thresholds, ratios of areas) stays in
float32, and so do sums within layer norms, which all runtimes compute so.

8 bits are a matter of the graph. Only the linear layers of the blocks are quantised, which hold nine tenths of the
weights: the heads that make classes and mask embeddings, the patch embeddings, the upscaling and the product of masks
are few weights, and lists of segments hang on them.
"""

from __future__ import annotations

import copy
import dataclasses
import platform
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from modeling_eomt import EomtForUniversalSegmentation
from modeling_eomt.kernels_eomt import ALL_ATTENTION_FUNCTIONS

from .formats import Graph, Precision
from .predict import read_image


# The precisions of each format. The first with 8 bits is what "int8" stands for.
PRECISIONS = {
    "onnx": ("float32", "float16", "int8_dynamic", "int8_static", "int8_weights", "int4_weights"),
    "openvino": ("float32", "float16", "bfloat16", "int8_static", "int8_weights"),
    "torch": ("float32", "float16", "bfloat16"),
    "executorch": ("float32",),
    "coreml": ("float32", "float16"),
    "tensorrt": ("float32", "float16", "int8_static"),
}
CALIBRATED = "int8_static"  # which needs images
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

# Whether a processor adds products of 8-bit numbers in 16 bits, which saturate. One that has better instructions than
# those for which a graph was quantised runs it as well.
INSTRUCTION_SETS = {"avx2": True, "avx512": True, "vnni": False, "amx": False, "neon": False}

UNQUANTIZED = ("mask_head", "class_predictor")  # modules of the model
STABLE, FUSED = "eomt_float32_probabilities", "eomt_onnxruntime"  # names of attention functions
WEIGHTS_BLOCK_SIZE = {8: 128, 4: 32}  # weights that share a scale, by their number of bits
MAX_CALIBRATION = 128  # images; more change little
MIN_HALVED = 1024  # numbers in an array that is worth being stored in 16 bits


def find_precision(name: str, format: str) -> str:
    """
    Returns an entry of `PRECISIONS` for a format; for "int8" the best that it has with 8 bits.

    Raises:
        ValueError: there is no such precision in the format.
    """
    names = PRECISIONS.get(format, ("float32",))
    found = next((each for each in names if each.startswith("int8")), name) if name == "int8" else name
    if found not in names:
        raise ValueError(f"The format {format!r} has no precision {name!r}, only {', '.join(names)}.")
    return found


def choose_precision(
    name: str,
    format: str,
    instruction_set: str | None = None,
    calibration: Sequence[Mapping[str, Tensor]] = (),
) -> Precision:
    """
    Checks what a user asks for, and chooses what is left open.

    Args:
        name, format: see [`find_precision`].
        instruction_set: a key of `INSTRUCTION_SETS`; this machine's by default.
        calibration: see [`Precision`].

    Raises:
        ValueError: there is no such precision or instruction set, or no image to calibrate with.
    """
    name = find_precision(name, format)
    if instruction_set is None:
        instruction_set = detect_instruction_set()
    elif instruction_set not in INSTRUCTION_SETS:
        raise ValueError(f"There is no instruction set {instruction_set!r}, only {', '.join(INSTRUCTION_SETS)}.")
    if name == CALIBRATED and not calibration:
        raise ValueError(
            f"{name} takes the ranges of activations from images like those it will see: name a folder of some dozens "
            "with --calibration_data."
        )
    return Precision(name, instruction_set, calibration)


def detect_instruction_set() -> str:
    """Returns the key of `INSTRUCTION_SETS` for this machine; of x86 processors "avx2" where nothing is known."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "neon"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    for name, flags in {"amx": ("amx_int8",), "vnni": ("avx512_vnni", "avx_vnni"), "avx512": ("avx512_bw",)}.items():
        if any(capabilities.get(flag) for flag in flags):
            return name
    return "avx2"


def list_images(folder: str | PathLike) -> list[Path]:
    """
    Returns the files in a folder that Pillow has a reader for, by their names, sorted.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """
    Image.init()
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in Image.EXTENSION)
    if not found:
        raise FileNotFoundError(f"{folder} is no folder with images.")
    return found


def read_calibration(folder: str | PathLike, image_processor: Any) -> list[dict[str, Tensor]]:
    """Returns the inputs of a raw graph, of batch size 1, for images of a folder, the first `MAX_CALIBRATION`."""
    calibration = []
    for path in list_images(folder)[:MAX_CALIBRATION]:
        inputs = image_processor(images=Image.fromarray(read_image(path)), return_tensors="pt")
        calibration += [{"pixel_values": window} for window in inputs["pixel_values"].split(1)]
    return calibration


def lower_graph(graph: Graph, precision: Precision, format: str) -> Graph:
    """
    Returns the graph whose model computes in a lower precision, as far as PyTorch can say so: in 16 bits, or with the
    attention of onnxruntime beside linear layers of 8 bits. What else there is to do follows when it is converted.

    Inputs and outputs remain float32. The given graph remains as it is.
    """
    has_fused_attention = format == "onnx" and precision.name.startswith("int")
    is_in_16_bits = precision.name in DTYPES and format not in ("openvino", "coreml")  # which choose how they compute
    if not is_in_16_bits and not has_fused_attention:
        return graph
    module = copy.deepcopy(graph.module)
    model = next(each for each in module.modules() if isinstance(each, EomtForUniversalSegmentation))
    model.config._attn_implementation = FUSED if has_fused_attention else STABLE
    if is_in_16_bits:
        set_dtype(model, DTYPES[precision.name])
        # Transformers' exporters cast inputs to the dtype of a module's first parameter.
        module.register_parameter("float32", nn.Parameter(torch.empty(0), requires_grad=False))
    return dataclasses.replace(graph, module=module)


def set_dtype(model: EomtForUniversalSegmentation, dtype: torch.dtype) -> None:
    """Has a model compute in a dtype, but take and return float32."""
    nn.Module.to(model, dtype)

    def lower(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        arguments = tuple(each.to(dtype) if isinstance(each, Tensor) else each for each in arguments)
        if "pixel_values" in keywords:
            keywords = {**keywords, "pixel_values": keywords["pixel_values"].to(dtype)}
        return arguments, keywords

    def raise_again(model: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> Any:
        for name in ("masks_queries_logits", "class_queries_logits"):
            outputs[name] = outputs[name].float()
        return outputs

    model.register_forward_pre_hook(lower, with_kwargs=True)
    model.register_forward_hook(raise_again)


def attend_with_float32_probabilities(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention for 16 bits, `(batch, rows, heads, head_dim)`: queries are scaled first, so that products stay in
    range, and exponentials and their sums are float32."""
    scores = ((query * scaling) @ key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2), None


def attend_in_onnxruntime(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention as one operator of onnxruntime, which does not write scores to memory: beside linear layers of 8 bits
    they would take most of the time. Masked rows are few, and written out."""
    if mask is not None:
        return attend_with_float32_probabilities(module, query, key, value, mask, scaling)
    num_heads, head_dim = query.shape[1], query.shape[3]
    inputs = [each.transpose(1, 2).flatten(2) for each in (query, key, value)]  # (batch, rows, hidden_size)
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        inputs,
        {"num_heads": num_heads, "scale": scaling},
        dtype=query.dtype,
        shape=inputs[0].shape,
        version=1,
    )
    return output.unflatten(2, (num_heads, head_dim)), None


ALL_ATTENTION_FUNCTIONS.register(STABLE, attend_with_float32_probabilities)
ALL_ATTENTION_FUNCTIONS.register(FUSED, attend_in_onnxruntime)


def quantize_onnx(program: Any, graph: Graph, precision: Precision) -> Any:
    """
    Quantises the linear layers of an ONNX graph, and stores what other weights there are in 16 bits.

    Args:
        program: the `onnx_ir.Model`.
        graph: what it was exported from.
        precision: how; other precisions than those of 8 and 4 bits leave it as it is.

    Returns:
        The `onnx_ir.Model`.
    """
    if not precision.name.startswith("int"):
        return program
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig
    from transformers.exporters.configs import ExportFormat

    linear_layers = find_linear_layers(program)
    settings: dict[str, Any] = {
        "op_types_to_quantize": ["MatMul", "Gemm"],
        "nodes_to_quantize": linear_layers,
        "per_channel": True,
        "weight_type": QuantType.QInt8,
        "reduce_range": INSTRUCTION_SETS[precision.instruction_set],
    }
    if precision.name.endswith("_weights"):
        program = _quantize_weights(program, linear_layers, num_bits=int(precision.name[3]))
    else:
        config: Any = OnnxRuntimeDynamicConfig(**settings)
        if precision.name == CALIBRATED:
            # Zero points of 0, which TensorRT needs; outputs of linear layers are not rounded.
            options = {"ActivationSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
            config = OnnxRuntimeStaticConfig(**settings, activation_type=QuantType.QInt8, extra_options=options)
        quantizer = OnnxRuntimeQuantizer(config, [dict(inputs) for inputs in precision.calibration] or None)
        program = quantizer.quantize(program, dict(graph.example_inputs), ExportFormat.ONNX)
    store_in_16_bits(program)
    return program


def find_linear_layers(program: Any) -> list[str]:
    """Returns the names of the nodes that multiply with the weights of the blocks' linear layers."""
    found = []
    for node in program.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        is_inside = "'model." in scopes and not any(f".{name}" in scopes for name in UNQUANTIZED)
        if node.op_type in ("MatMul", "Gemm") and is_inside and node.inputs[1].is_initializer():
            found.append(str(node.name))
    return found


def _quantize_weights(program: Any, linear_layers: list[str], num_bits: int) -> Any:
    """Quantises weights alone, in blocks: they are multiplied with float32."""
    import onnx_ir
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(WEIGHTS_BLOCK_SIZE[num_bits], is_symmetric=True, bits=num_bits)
    others = [str(node.name) for node in program.graph if node.op_type == "MatMul" and node.name not in linear_layers]
    quantizer = MatMulNBitsQuantizer(onnx_ir.to_proto(program), algo_config=config, nodes_to_exclude=others)
    quantizer.process()
    return onnx_ir.from_proto(quantizer.model.model)


def quantize_openvino(program: Any, graph: Graph, precision: Precision) -> Any:
    """
    Quantises the linear layers of an OpenVINO graph. The other weights remain float32: of what NNCF has quantised
    OpenVINO compresses nothing more.

    Args:
        program: the `openvino.Model`.
        graph: what it was exported from.
        precision: how; other precisions than those of 8 bits leave it as it is.

    Returns:
        The `openvino.Model`.
    """
    if not precision.name.startswith("int8"):
        return program
    import nncf
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFQuantizationConfig, NNCFWeightCompressionConfig
    from transformers.exporters.configs import ExportFormat

    heads = [
        weight.detach().numpy()
        for name, weight in graph.module.named_parameters()
        if weight.ndim == 2 and any(f".{head}." in name for head in UNQUANTIZED)
    ]
    others, other_types = [], set()
    for node in program.get_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind in ("ScaledDotProductAttention", "Einsum") or "Convolution" in kind:
            other_types.add(kind)
        elif kind == "MatMul":
            weight = node.input_value(1).get_node()
            values = weight.data if weight.get_type_name() == "Constant" else None
            if values is None or any(np.array_equal(values, head) for head in heads):
                others.append(name)
    scope = nncf.IgnoredScope(names=others, types=sorted(other_types))
    config: Any = NNCFWeightCompressionConfig(mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)
    if precision.name == CALIBRATED:
        fix = nncf.OverflowFix.ENABLE if INSTRUCTION_SETS[precision.instruction_set] else nncf.OverflowFix.DISABLE
        config = NNCFQuantizationConfig(
            ignored_scope=scope,
            subset_size=len(precision.calibration),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
    quantizer = NNCFOpenVINOQuantizer(config, [dict(inputs) for inputs in precision.calibration] or None)
    return quantizer.quantize(program, dict(graph.example_inputs), ExportFormat.OPENVINO)


def store_in_16_bits(program: Any) -> None:
    """Stores the float32 weights of a graph as float16. Runtimes make float32 of them as they load."""
    import onnx_ir

    values = [each for each in program.graph.initializers.values() if each.dtype == onnx_ir.DataType.FLOAT]
    scales = {use.node.inputs[1] for each in values for use in each.uses() if use.node.op_type.endswith("Linear")}
    for value in values:
        array = value.const_value.numpy()
        if array.size < MIN_HALVED or value in scales or np.abs(array).max() > np.finfo(np.float16).max:
            continue
        name = str(value.name)
        stored = onnx_ir.val(f"{name}_float16", const_value=onnx_ir.tensor(array.astype(np.float16)))
        cast = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT}, name=f"{name}_cast")
        onnx_ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        program.graph.initializers.pop(name)
        cast.outputs[0].name = name
        program.graph.register_initializer(stored)
        program.graph.insert_before(program.graph[0], cast)

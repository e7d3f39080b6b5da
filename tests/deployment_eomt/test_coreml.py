"""Graphs for Core ML. Only Apple's systems run them; here a few lines of PyTorch compute what they say."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deployment_eomt.formats import FORMATS, Options, Precision
from deployment_eomt.raw import OUTPUTS, build_raw_graph


coremltools = pytest.importorskip("coremltools")
from coremltools.converters.mil.mil.types import builtin_to_string  # noqa: E402


pytestmark = pytest.mark.slow


def layer_norm(x, axes, gamma, beta, epsilon):
    return F.layer_norm(x, [x.shape[axis] for axis in axes], gamma, beta, epsilon)


def slice_by_index(x, begin, end, begin_mask=None, end_mask=None, **others):
    assert set(others) <= {"squeeze_mask", "stride"}
    assert not any(others.get("squeeze_mask", [False]))
    slices = []
    for axis in range(x.ndim):
        start = 0 if begin_mask is not None and begin_mask[axis] else begin[axis]
        stop = x.shape[axis] if end_mask is not None and end_mask[axis] else end[axis]
        slices.append(slice(start, stop))
    return x[tuple(slices)]


def conv(x, weight, bias=None, strides=(1, 1), pad_type="valid", pad=(0, 0, 0, 0), dilations=(1, 1), groups=1):
    assert list(dilations) == [1, 1]
    pad = tuple(pad) if pad_type == "custom" else (0, 0, 0, 0)  # top, bottom, left, right
    x = F.pad(x, (*pad[2:], *pad[:2]))
    return F.conv2d(x, weight, bias, tuple(strides), groups=groups)


def conv_transpose(x, weight, bias=None, strides=(1, 1), **others):
    assert not any(others.get("pad", ()))
    return F.conv_transpose2d(x, weight, bias, tuple(strides))


def upsample_bilinear(x, scale_factor_height, scale_factor_width, align_corners=True, **others):
    size = round(x.shape[2] * scale_factor_height), round(x.shape[3] * scale_factor_width)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=bool(align_corners))


def softmax(x, axis=-1):
    return x.softmax(axis)


def matmul(x, y, transpose_x=False, transpose_y=False):
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def pad(x, pad, mode="constant", constant_val=0.0):
    assert mode == "constant"
    assert x.is_floating_point()
    pairs = [pad[index : index + 2] for index in range(0, len(pad), 2)]  # of the last axes, in order
    return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=float(constant_val))


# What operations of Core ML's intermediate language compute, by its reference.
OPERATIONS = {
    "add": lambda x, y: x + y,
    "cast": lambda x, dtype: x.to({"fp16": torch.float32, "fp32": torch.float32, "bool": torch.bool}[dtype]),
    "concat": lambda values, axis, interleave=False: torch.cat(values, axis),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "expand_dims": lambda x, axes: x.unsqueeze(axes[0]),
    "gelu": lambda x, mode: F.gelu(x, approximate={"EXACT": "none"}[mode]),
    "greater": lambda x, y: x > y,
    "layer_norm": layer_norm,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": matmul,
    "logical_not": lambda x: ~x,
    "mul": lambda x, y: x * y,
    "pad": pad,
    "reshape": lambda x, shape: x.reshape(shape),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "slice_by_index": slice_by_index,
    "softmax": softmax,
    "sub": lambda x, y: x - y,
    "transpose": lambda x, perm: x.permute(perm),
    "upsample_bilinear": upsample_bilinear,
}


def compute(program, **inputs):
    """Computes a converted program in float32, whatever its precision."""
    function, values = program.functions["main"], dict(inputs)

    def read(variable):
        if isinstance(variable, (list, tuple)):
            return [read(each) for each in variable]
        if variable.name in values:
            return values[variable.name]
        value = variable.val
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value.astype(np.float32)) if value.dtype.kind == "f" else value.tolist()
        return value.item() if isinstance(value, np.generic) else value

    for operation in function.operations:
        if operation.op_type != "const":
            arguments = {name: read(each) for name, each in operation.inputs.items() if each is not None}
            (output,) = operation.outputs
            values[output.name] = OPERATIONS[operation.op_type](**arguments)
    return {output.name: values[output.name] for output in function.outputs}


@pytest.fixture
def converted(monkeypatch):
    """The models that were saved, by which their programs are at hand."""
    saved, save = [], coremltools.models.MLModel.save
    monkeypatch.setattr(coremltools.models.MLModel, "save", lambda self, path: (saved.append(self), save(self, path)))
    return saved


def check_equal(program, model, tolerance):
    """The program's logits are the model's, to `tolerance` of the largest."""
    pixel_values = torch.randn(1, 3, 64, 64)
    outputs, expected = compute(program, pixel_values=pixel_values), model(pixel_values)
    assert tuple(outputs) == OUTPUTS
    for name, output in outputs.items():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(output, expected[name], rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("probability", [0.0, 1.0], ids=["without masks", "with masks"])
def test_the_program_equals_the_model(model, probability, converted, tmp_path):
    model.set_mask_probabilities([probability] * 2)
    FORMATS["coreml"].write(build_raw_graph(model, ()), tmp_path, Options())
    assert (tmp_path / "model.mlpackage" / "Manifest.json").is_file()
    assert model.config._attn_implementation == "sdpa"
    (saved,) = converted
    check_equal(saved._mil_program, model, tolerance=1e-5)


def test_scores_of_attention_are_float32_in_float16(model, converted, tmp_path):
    model.set_mask_probabilities([0.0] * 2)
    FORMATS["coreml"].write(build_raw_graph(model, ()), tmp_path, Options(precision=Precision("float16")))
    (saved,) = converted
    dtypes = {"softmax": set(), "scores": set(), "linear": set()}
    for operation in saved._mil_program.functions["main"].operations:
        if operation.op_type == "softmax":
            dtypes["softmax"].add(builtin_to_string(operation.outputs[0].dtype))
            dtypes["scores"].add(builtin_to_string(operation.inputs["x"].dtype))
        elif operation.op_type == "linear":
            dtypes["linear"].add(builtin_to_string(operation.outputs[0].dtype))
    assert dtypes == {"softmax": {"fp32"}, "scores": {"fp32"}, "linear": {"fp16"}}
    check_equal(saved._mil_program, model, tolerance=1e-2)  # the weights are rounded


def test_an_open_batch_is_a_range(model, converted, tmp_path):
    FORMATS["coreml"].write(build_raw_graph(model, ("batch",)), tmp_path, Options())
    (saved,) = converted
    (described,) = saved.get_spec().description.input
    ranges = described.type.multiArrayType.shapeRange.sizeRanges
    assert [(each.lowerBound, each.upperBound) for each in ranges] == [(1, 8), (3, 3), (64, 64), (64, 64)]


def test_what_core_ml_cannot_have_is_refused(model, tmp_path):
    graph = build_raw_graph(model, ())
    any_height = dataclasses.replace(graph, dynamic_shapes={"pixel_values": {2: "height"}})
    with pytest.raises(ValueError, match=r"height cannot be left open.*Export once"):
        FORMATS["coreml"].write(any_height, tmp_path, Options())
    with pytest.raises(ValueError, match=r"int8.*float32 and float16"):
        FORMATS["coreml"].write(graph, tmp_path, Options(precision=Precision("int8_static")))
    assert not any(tmp_path.iterdir())

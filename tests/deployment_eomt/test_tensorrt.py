"""Graphs for TensorRT, and how an engine is built; what builds engines, which needs a GPU, is recorded."""

import json
import shlex
import sys
from types import SimpleNamespace

import pytest

from deployment_eomt.formats import FORMATS, Options
from deployment_eomt.raw import build_raw_graph
from modeling_eomt import EomtForUniversalSegmentation


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
from onnx import TensorProto, helper  # noqa: E402

from deployment_eomt.formats.tensorrt import OPERATORS, build_engine, check_operators, find_float32_layers  # noqa: E402


class Recorder:
    """Stands in for the package `tensorrt`: takes the calls that build an engine, of which `calls` keeps arguments."""

    __version__ = "11.4.0"
    __spec__ = "found"  # for `importlib.util.find_spec`
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="TF32")

    def __init__(self, errors=(), program=b"an engine"):
        self.calls = {}
        self.Logger = lambda level: SimpleNamespace(level=level)
        self.Logger.WARNING = "WARNING"
        self.Builder = lambda logger: SimpleNamespace(
            create_network=self.record("network", SimpleNamespace()),
            create_builder_config=lambda: SimpleNamespace(
                clear_flag=self.record("cleared"), add_optimization_profile=self.record("profile")
            ),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=self.record("shape")),
            build_serialized_network=self.record("built", program),
        )
        self.OnnxParser = lambda network, logger: SimpleNamespace(
            parse_from_file=self.record("parsed", not errors),
            num_errors=len(errors),
            get_error=lambda index: errors[index],
        )

    def record(self, name, result=None):
        def call(*arguments):
            self.calls.setdefault(name, []).append(arguments)
            return result

        return call

    def install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorrt", self)
        return self


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.0, 1.0], ids=["without masks", "with masks"])
def test_the_graph_has_what_tensorrt_takes(model, probability, tmp_path):
    model.set_mask_probabilities([probability] * 2)
    FORMATS["tensorrt"].write(build_raw_graph(model, ("batch",)), tmp_path, Options())
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {"MatMul", "Softmax", "Conv"} < operators <= OPERATORS
    settings = json.loads((tmp_path / "tensorrt.json").read_text())
    assert settings["profile"] == {
        "pixel_values": {"min": [1, 3, 64, 64], "opt": [1, 3, 64, 64], "max": [8, 3, 64, 64]}
    }
    assert settings["float32_layers"] == []
    assert shlex.split(settings["command"]) == [
        "trtexec",
        "--onnx=model.onnx",
        "--saveEngine=model.engine",
        "--stronglyTyped",
        "--noTF32",
        "--minShapes=pixel_values:1x3x64x64",
        "--optShapes=pixel_values:1x3x64x64",
        "--maxShapes=pixel_values:8x3x64x64",
    ]


@pytest.mark.slow
def test_a_fixed_size_needs_no_profile_and_tensorrt_builds_its_engine(model, tmp_path, monkeypatch):
    recorder = Recorder().install(monkeypatch)
    FORMATS["tensorrt"].write(build_raw_graph(model, ()), tmp_path, Options())
    assert "Shapes" not in json.loads((tmp_path / "tensorrt.json").read_text())["command"]
    assert (tmp_path / "model.engine").read_bytes() == b"an engine"
    assert recorder.calls["parsed"] == [(str(tmp_path / "model.onnx"),)]
    assert recorder.calls["network"] == [(2,)]  # the flag STRONGLY_TYPED is bit 1
    assert recorder.calls["cleared"] == [("TF32",)]
    assert recorder.calls["shape"] == [("pixel_values", *[[1, 3, 64, 64]] * 3)]


def test_what_tensorrt_cannot_build_is_an_error(tmp_path, monkeypatch):
    model, engine = tmp_path / "model.onnx", tmp_path / "model.engine"
    Recorder(errors=["no Foo", "no Bar"]).install(monkeypatch)
    with pytest.raises(RuntimeError, match=r"TensorRT 11.4.0 does not take .*model.onnx: no Foo; no Bar"):
        build_engine(model, engine, {}, uses_tf32=True)
    Recorder(program=None).install(monkeypatch)
    with pytest.raises(RuntimeError, match=r"built no engine of .*model.onnx"):
        build_engine(model, engine, {}, uses_tf32=True)
    assert not engine.exists()


@pytest.mark.slow
def test_the_operation_attention_of_opset_23_is_refused(tiny_config, tmp_path):
    graph = build_raw_graph(EomtForUniversalSegmentation(tiny_config).eval(), ())
    with pytest.raises(ValueError, match=r"Attention is not in its table.*opset 20"):
        FORMATS["tensorrt"].write(graph, tmp_path, Options(opset=23))


def build(*nodes, inputs=(("x", TensorProto.FLOAT),), constants=()):
    """An ONNX graph of a few nodes; its inputs have shape `(1, 3, 8, 8)`."""
    values = [helper.make_tensor_value_info(name, dtype, [1, 3, 8, 8]) for name, dtype in inputs]
    outputs = [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "graph", values, outputs, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    )


def scalar(name, dtype, value):
    return helper.make_tensor(name, dtype, [], [value])


def resize(**attributes):
    return helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)


@pytest.mark.parametrize(
    "node, constants, reason",
    [
        (resize(mode="cubic"), [], "cubic Resize"),
        (resize(mode="linear", antialias=1), [], "Resize with antialiasing"),
        (helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]), [], "DynamicQuantizeLinear.*calibration"),
        (helper.make_node("MatMulInteger", ["x", "x"], ["y"]), [], "MatMulInteger.*calibration"),
        (helper.make_node("BiasGelu", ["x", "x"], ["y"], domain="com.microsoft"), [], "com.microsoft.BiasGelu"),
        (
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"]),
            [scalar("scale", TensorProto.FLOAT, 0.1), scalar("zero", TensorProto.UINT8, 128)],
            "zero points other than 0",
        ),
    ],
)
def test_what_tensorrt_does_not_take_is_refused_with_a_reason(node, constants, reason):
    with pytest.raises(ValueError, match=f"TensorRT does not take this graph: .*{reason}"):
        check_operators(build(node, constants=constants))


def test_pads_of_truth_values_are_refused():
    nodes = [helper.make_node("Greater", ["x", "z"], ["m"]), helper.make_node("Pad", ["m", "pads"], ["y"])]
    inputs = [("x", TensorProto.FLOAT), ("z", TensorProto.FLOAT)]
    pads = helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 0, 1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="Pad of truth values"):
        check_operators(build(*nodes, inputs=inputs, constants=[pads]))


def test_what_tensorrt_takes_is_not_refused():
    check_operators(build(resize(mode="linear")))
    constants = [scalar("scale", TensorProto.FLOAT, 0.1), scalar("zero", TensorProto.INT8, 0)]
    check_operators(build(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"]), constants=constants))


def test_what_a_float16_graph_computes_in_float32_is_listed():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="in float16"),
        helper.make_node("Cast", ["a"], ["b"], name="to float32", to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["b"], ["c"], name="softmax"),
        helper.make_node("Cast", ["c"], ["y"], name="to float16", to=TensorProto.FLOAT16),
    ]
    assert find_float32_layers(build(*nodes, inputs=[("x", TensorProto.FLOAT16)])) == ["softmax"]
    assert find_float32_layers(build(helper.make_node("Relu", ["x"], ["y"]))) == []

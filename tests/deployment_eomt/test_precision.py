"""Lower precisions: what is lowered and what is not, for which processors, and how far the logits move."""

import numpy as np
import pytest
import torch

from deployment_eomt import precision
from deployment_eomt.precision import INSTRUCTION_SETS, PRECISIONS, choose_precision, detect_instruction_set


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

LINEAR_LAYERS = 3 * 6  # of the tiny models' blocks: queries, keys, values, output, two of the MLP
# Of the largest logit. Weights of tiny models are noise, which is harder on them than trained ones are.
LARGEST_DIFFERENCE = {"float16": 0.01, "int8_dynamic": 0.15, "int8_static": 0.15, "int8_weights": 0.03}


@pytest.fixture
def export(save_checkpoint, tmp_path):
    """Exports a tiny model in a precision; returns the graph, and how far its logits are from those of the model."""
    from deployment_eomt.export import export_model, load_model
    from deployment_eomt.predict import load_graph

    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        precision.Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(images / f"{index}.png")

    def run(name, family="eomt", mask_probability=0.0, **arguments):
        checkpoint = save_checkpoint(family, mask_probability)
        if name == "int8_static":
            arguments["calibration_data"] = images
        folder = export_model(checkpoint, tmp_path / name, precision=name, report_images=0, **arguments)
        pixel_values = torch.randn(2, 3, 64, 64)
        found = load_graph(folder)(pixel_values=pixel_values.numpy())
        model, _ = load_model(checkpoint)
        expected = model(pixel_values=pixel_values)
        assert all(values.dtype == np.float32 for values in found.values())
        differences = [
            np.abs(values - expected[name].numpy()).max() / expected[name].abs().max().item()
            for name, values in found.items()
        ]
        graph = folder / "model.onnx"
        return (onnx.load(graph) if graph.is_file() else folder), max(differences)

    return run


def arrays(graph, ending):
    """The initializers with an ending to their name, as arrays."""
    found = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    return [array for name, array in found.items() if name.endswith(ending)]


@pytest.mark.parametrize("name", LARGEST_DIFFERENCE)
@pytest.mark.parametrize("family", ["eomt", "eomt_dinov3"])
def test_logits_stay_close(export, name, family):
    _, difference = export(name, family)
    assert 0 < difference < LARGEST_DIFFERENCE[name]


@pytest.mark.parametrize("name", ["float16", "int8_dynamic"])
def test_masked_attention_is_exported_too(export, name):
    # Masks cut attention off where a logit is below zero: a small difference may move much, but makes no NaN.
    _, difference = export(name, mask_probability=1.0)
    assert np.isfinite(difference)


def test_float16_leaves_inputs_outputs_and_exponentials_in_float32(export):
    graph, _ = export("float16")
    ends = [*graph.graph.input, *graph.graph.output]
    assert {each.type.tensor_type.elem_type for each in ends} == {onnx.TensorProto.FLOAT}
    inferred = onnx.shape_inference.infer_shapes(graph)
    types = {each.name: each.type.tensor_type.elem_type for each in inferred.graph.value_info}
    softmax = [types[node.input[0]] for node in graph.graph.node if node.op_type == "Softmax"]
    assert softmax == [onnx.TensorProto.FLOAT] * 3
    products = [types[node.output[0]] for node in graph.graph.node if node.op_type == "MatMul"]
    assert set(products) == {onnx.TensorProto.FLOAT16}
    assert not [each for each in graph.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]


def test_int8_quantises_the_linear_layers_of_the_blocks_alone(export):
    graph, _ = export("int8_dynamic", instruction_set="vnni")
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("MatMulInteger") == LINEAR_LAYERS
    assert operators.count("MatMul") == 4  # the mask head's three layers and the class head
    assert operators.count("MultiHeadAttention") == 3
    large = [each for each in graph.graph.initializer if np.prod(each.dims) >= precision.MIN_HALVED]
    assert onnx.TensorProto.FLOAT not in {each.data_type for each in large}
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("instruction_set, largest", [("avx2", 64), ("vnni", 127)])
def test_weights_have_7_bits_where_sums_of_products_saturate(export, instruction_set, largest):
    graph, _ = export("int8_dynamic", instruction_set=instruction_set)
    weights = arrays(graph, "_quantized")
    assert len(weights) == LINEAR_LAYERS
    assert max(np.abs(each.astype(int)).max() for each in weights) == largest


def test_int8_static_has_symmetric_activations(export):
    graph, _ = export("int8_static")
    zero_points = arrays(graph, "_zero_point")
    assert len(zero_points) > LINEAR_LAYERS
    assert not any(each.any() for each in zero_points)


def test_int4_is_smaller_than_int8(export):
    sizes = [export(name)[0].ByteSize() for name in ("int4_weights", "int8_weights")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_openvino_stores_16_bits(export, name, tmp_path):
    pytest.importorskip("openvino")
    folder, difference = export(name, format="openvino")
    assert difference < 0.1
    in_float32 = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert (folder / "model.bin").stat().st_size < 0.55 * in_float32


@pytest.mark.parametrize("name", ["int8_weights", "int8_static"])
def test_openvino_stores_8_bits_of_the_linear_layers_alone(export, name):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    folder, difference = export(name, format="openvino")
    assert 0 < difference < 0.15
    constants = [
        node
        for node in openvino.Core().read_model(folder / "model.xml").get_ops()
        if node.get_type_name() == "Constant"
    ]
    in_8_bits = [node for node in constants if node.get_element_type() == openvino.Type.i8 and len(node.shape) == 2]
    assert len(in_8_bits) == LINEAR_LAYERS


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_torch(export, name):
    _, difference = export(name, format="torch")
    assert 0 < difference < 0.1


def test_int8_stands_for_the_best_of_a_format():
    assert choose_precision("int8", "onnx").name == "int8_dynamic"
    assert choose_precision("int8", "openvino", calibration=[{}]).name == "int8_static"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("int9", "onnx"), "no precision 'int9', only float32, float16, int8_dynamic"),
        (("bfloat16", "onnx"), "no precision 'bfloat16'"),
        (("int8", "torch"), "no precision 'int8', only float32, float16, bfloat16"),
        (("int8", "onnx", "sse"), "no instruction set 'sse', only avx2"),
        (("int8_static", "onnx"), "--calibration_data"),
    ],
)
def test_refuses_what_there_is_not(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_precision(*arguments)


@pytest.mark.parametrize(
    "capabilities, expected",
    [
        ({"avx2": True}, "avx2"),
        ({"avx2": True, "avx_vnni": True}, "vnni"),
        ({"avx512_bw": True}, "avx512"),
        ({"avx512_bw": True, "avx512_vnni": True}, "vnni"),
        ({"avx512_vnni": True, "amx_int8": True}, "amx"),
        ({}, "avx2"),
    ],
)
def test_detects_the_instruction_set(monkeypatch, capabilities, expected):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert detect_instruction_set() == expected


def test_arm_multiplies_exactly(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not INSTRUCTION_SETS[detect_instruction_set()]


def test_every_format_has_its_precisions():
    from deployment_eomt.formats import FORMATS

    assert set(FORMATS) <= set(PRECISIONS)
    assert all(names[0] == "float32" for names in PRECISIONS.values())

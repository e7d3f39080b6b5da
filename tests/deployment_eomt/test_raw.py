"""Raw graphs give the logits of the model, in each runtime, and refuse images of a size that they are not for."""

import pytest
import torch

from configuration_eomt import EomtConfig
from deployment_eomt import export_model
from deployment_eomt.predict import load_graph
from modeling_eomt import MODEL_CLASSES


pytest.importorskip("transformers", minversion="5.24")

pytestmark = pytest.mark.slow

NAMES = ["masks_queries_logits", "class_queries_logits"]
# Square and not, the trained size (64x64) included, which is also the one that graphs are traced with.
SHAPES = [(1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 32, 96), (1, 3, 96, 128), (3, 3, 160, 48)]
OTHERS = [(1, 3, 70, 100), (1, 3, 64, 70), (1, 3, 60, 64)]
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}


def load(checkpoint):
    model_type = EomtConfig.get_config_dict(checkpoint)[0]["model_type"]
    return MODEL_CLASSES[model_type].from_pretrained(checkpoint).eval()


def compare(graph, model, shapes, tolerance=1e-5):
    """Rounding differs between runtimes: by about 1e-6 of the largest logit, and the bar is 1e-5."""
    with torch.no_grad():
        for shape in shapes:
            pixel_values = torch.randn(*shape)
            expected, found = model(pixel_values), graph(pixel_values=pixel_values.numpy())
            assert list(found) == NAMES
            for name in NAMES:
                difference = (torch.from_numpy(found[name]) - expected[name]).abs().max()
                assert difference <= tolerance * expected[name].abs().max(), (shape, name)


def check_file(path):
    """Breaks no rule, has stable names, and no operation that depends on data or that TensorRT does not take."""
    import onnx

    from deployment_eomt.formats.tensorrt import check_operators

    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "pixel_values": ["batch", 3, "height", "width"],
        "masks_queries_logits": ["batch", 7, "4*(height//16)", "4*(width//16)"],
        "class_queries_logits": ["batch", 7, 4],
    }
    operators = {node.op_type for node in model.graph.node}
    assert operators <= OPERATORS
    check_operators(model)


# All that raw graphs consist of. A new one has to be in TensorRT's table, and in the other runtimes'.
OPERATORS = {
    "Abs",
    "Add",
    "And",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Div",
    "Einsum",
    "Equal",
    "Expand",
    "Gather",
    "Gelu",
    "Greater",
    "LayerNormalization",
    "Less",
    "MatMul",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Pad",
    "Range",
    "ReduceSum",
    "Reshape",
    "Resize",
    "Shape",
    "Sign",
    "Sin",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
}


@pytest.mark.parametrize("format", RUNTIMES)
@pytest.mark.parametrize("mask_probability", [0.0, 1.0], ids=["without masks", "with masks"])
@pytest.mark.parametrize("family", ["eomt", "eomt_dinov3"])
def test_a_graph_for_any_size_equals_the_model(save_checkpoint, tmp_path, family, mask_probability, format):
    pytest.importorskip(RUNTIMES[format])
    checkpoint = save_checkpoint(family, mask_probability)
    folder = export_model(checkpoint, tmp_path / "out", format, dynamic=["batch", "height", "width"])
    graph = load_graph(folder)
    compare(graph, load(checkpoint), SHAPES)
    if format == "onnx":
        check_file(folder / "model.onnx")
    for shape in OTHERS:
        pixel_values = torch.randn(*shape).numpy()
        with pytest.raises(Exception, match=r"(?i)reshape|guard"):
            graph.run({"pixel_values": pixel_values})
        with pytest.raises(ValueError, match="patch size"):
            graph(pixel_values=pixel_values)


@pytest.mark.parametrize("format", RUNTIMES)
def test_a_graph_for_one_size_equals_the_model(save_checkpoint, tmp_path, format):
    """Of another size than the trained one: position embeddings are resampled before."""
    pytest.importorskip(RUNTIMES[format])
    checkpoint = save_checkpoint("eomt", 1.0)
    graph = load_graph(export_model(checkpoint, tmp_path / "out", format, image_size=(96, 64)))
    compare(graph, load(checkpoint), [(1, 3, 96, 64), (3, 3, 96, 64)])
    for shape in [(1, 3, 64, 96), (1, 3, 64, 64), *OTHERS]:
        with pytest.raises(Exception, match=r"(?i)invalid dimensions|incompatible|guard"):
            graph.run({"pixel_values": torch.randn(*shape).numpy()})


@pytest.mark.parametrize("family", ["eomt", "eomt_dinov3"])
def test_a_compiled_graph_equals_the_model(save_checkpoint, tmp_path, fresh_compiler_cache, family):
    checkpoint = save_checkpoint(family, 1.0 if family == "eomt" else 0.0)
    folder = export_model(checkpoint, tmp_path / "out", "torch", dynamic=["batch", "height", "width"], compile=True)
    graph = load_graph(folder)
    compare(graph, load(checkpoint), SHAPES)
    with pytest.raises(ValueError, match="patch size"):
        graph(pixel_values=torch.randn(*OTHERS[0]).numpy())

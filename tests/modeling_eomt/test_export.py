"""`torch.export` with a dynamic batch, height and width: the graph equals the eager model at every size."""

import pytest
import torch
from torch.export import Dim

from modeling_eomt import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation


pytestmark = pytest.mark.slow

LOGITS = ("masks_queries_logits", "class_queries_logits", "last_hidden_state")
# Square and not, the trained size (64x64) included. The batches vary as well.
SHAPES = [(1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 32, 96), (1, 3, 96, 64), (2, 3, 128, 128), (1, 3, 80, 112)]


@pytest.fixture(params=["eomt", "eomt_dinov3"])
def model(request, tiny_config, tiny_dinov3_config):
    if request.param == "eomt":
        model = EomtForUniversalSegmentation(tiny_config)
    else:
        model = EomtDinov3ForUniversalSegmentation(tiny_dinov3_config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(params=[0.0, 1.0], ids=["without masks", "with masks"])
def masked_model(request, model):
    model.set_mask_probabilities([request.param] * 2)
    return model


def export(model, *shape, size):
    """The graph of a model, traced with an input of `shape`, as a module."""
    dynamic_shapes = {"pixel_values": {0: Dim.AUTO, 2: size("height"), 3: size("width")}}
    with torch.no_grad():
        return torch.export.export(model, (torch.randn(*shape),), dynamic_shapes=dynamic_shapes, strict=False).module()


def patches(name):
    return 16 * Dim(name, max=256)


@pytest.mark.parametrize("traced_at", [(2, 3, 64, 64), (2, 3, 96, 160)], ids=["trained size", "another size"])
def test_the_graph_equals_the_model_at_every_size(masked_model, traced_at):
    graph = export(masked_model, *traced_at, size=lambda name: Dim.AUTO)
    with torch.no_grad():
        for shape in SHAPES:
            pixel_values = torch.randn(*shape)
            outputs, expected = graph(pixel_values), masked_model(pixel_values)
            for name in LOGITS:
                assert torch.equal(outputs[name], expected[name]), (shape, name)


def test_sizes_may_be_declared_as_multiples_of_the_patch_size(model):
    graph = export(model, 2, 3, 64, 64, size=patches)
    pixel_values = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        assert torch.equal(graph(pixel_values).masks_queries_logits, model(pixel_values).masks_queries_logits)


@pytest.mark.parametrize("size", [Dim.AUTO, None], ids=["dynamic", "fixed"])
def test_a_size_that_the_patch_size_does_not_divide_is_an_error(model, size):
    graph = export(model, 2, 3, 64, 64, size=lambda name: size)
    for height, width in ((70, 100), (64, 70), (60, 64)):
        with pytest.raises(Exception, match=r"(?i)guard|expected|unflatten|assertion"):
            graph(torch.randn(1, 3, height, width))
        with pytest.raises(ValueError, match=f"{height}x{width}.*16x16"):
            model(torch.randn(1, 3, height, width))


@pytest.mark.parametrize("with_gradients", [False, True])
def test_no_tensor_of_the_graph_has_more_than_five_axes(masked_model, with_gradients):
    # Core ML takes no more.
    with torch.set_grad_enabled(with_gradients):
        graph = torch.export.export(masked_model, (torch.randn(1, 3, 64, 64),), strict=False)
    values = [node.meta.get("val") for node in graph.graph.nodes]
    axes = [value.ndim for value in values if isinstance(value, torch.Tensor)]
    assert len(axes) > 100
    assert max(axes) <= 5

"""`torch.compile` without graph breaks and `torch.export`, for all families."""

import pytest
import torch

from modeling_eomt import MODEL_CLASSES, EomtLoss, NonFinitePredictionsError
from modeling_eomt.random_eomt import StepRandomness


pytestmark = pytest.mark.slow


@pytest.fixture
def model(family_config):
    return MODEL_CLASSES[family_config.model_type](family_config)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compile_model(model):
    """The model as one graph; `aot_eager` traces like the default backend and skips generating code."""
    return torch.compile(model, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_inference_is_one_graph(model, probability):
    model.eval().set_mask_probabilities([probability] * 2)
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values)
        outputs = compile_model(model)(pixel_values)
    torch.testing.assert_close(outputs.masks_queries_logits, expected.masks_queries_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.class_queries_logits, expected.class_queries_logits, rtol=1e-4, atol=1e-4)


def test_another_size_is_one_graph(model):
    model.eval().set_mask_probabilities([0.0] * 2)
    pixel_values = torch.randn(1, 3, 32, 96)
    with torch.no_grad():
        outputs = compile_model(model)(pixel_values)
        torch.testing.assert_close(
            outputs.masks_queries_logits, model(pixel_values).masks_queries_logits, rtol=1e-4, atol=1e-4
        )


def test_training_is_one_graph_and_a_new_mask_probability_does_not_compile_again(model):
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:] = True, True
    labels = {"mask_labels": [masks] * 2, "class_labels": [torch.tensor([0, 2])] * 2}
    labels["image_seeds"] = torch.tensor([3, 2**62])
    pixel_values = torch.randn(2, 3, 64, 64)
    step = compile_model(model.train())
    model.set_mask_probabilities([0.9, 0.8])
    loss = step(pixel_values, **labels).loss
    torch.testing.assert_close(loss, model(pixel_values, **labels).loss, rtol=1e-5, atol=0)  # the same random numbers
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for probability in (0.7, 0.31, 0.05):
            model.set_mask_probabilities([probability, probability / 2])
            assert step(pixel_values, **labels).loss.isfinite()


def test_training_draws_seeds_in_the_graph_and_says_which_image_is_not_finite(model):
    labels = {"mask_labels": [torch.ones(1, 64, 64)] * 2, "class_labels": [torch.tensor([0])] * 2}
    pixel_values = torch.randn(2, 3, 64, 64)
    step = compile_model(model.train())
    model.set_mask_probabilities([0.9, 0.8])
    assert not step(pixel_values, **labels).loss.equal(step(pixel_values, **labels).loss)
    pixel_values[1] = torch.nan
    with pytest.raises(NonFinitePredictionsError) as caught:
        step(pixel_values, **labels)
    assert caught.value.images == [1]


def test_export_with_a_dynamic_batch(model):
    model.eval().set_mask_probabilities([0.0] * 2)
    batch = torch.export.Dim("batch", min=1, max=16)
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.randn(2, 3, 64, 64),), dynamic_shapes={"pixel_values": {0: batch}}, strict=False
        )
        for batch_size in (1, 5):
            pixel_values = torch.randn(batch_size, 3, 64, 64)
            outputs, expected = program.module()(pixel_values), model(pixel_values)
            torch.testing.assert_close(
                outputs["masks_queries_logits"], expected.masks_queries_logits, rtol=1e-4, atol=1e-4
            )


def test_the_loss_is_the_same_in_generated_code(tiny_config, fresh_compiler_cache):
    """Of the default backend, which generates code."""
    criterion = EomtLoss.from_config(tiny_config).train()
    counts = (3, 0, 2)
    masks = [torch.rand(count, 64, 64) > 0.5 for count in counts]
    classes = [torch.arange(count) % 3 for count in counts]
    random = StepRandomness(torch.tensor([1, 2**62, 5]), 3, torch.device("cpu"))

    def loss(mask_logits, class_logits):
        return sum(criterion(mask_logits, class_logits, masks, classes, random).values())

    logits = torch.randn(3, 7, 16, 16, requires_grad=True), torch.randn(3, 7, 4, requires_grad=True)
    expected, result = loss(*logits), torch.compile(loss)(*logits)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(value, logits) for value in (result, expected)]
    for gradient, of_eager in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, of_eager, rtol=1e-3, atol=1e-5)

"""What is not finite is an error with its step, images and weights."""

import math
from types import SimpleNamespace

import pytest
import torch

from training_eomt.finiteness import GradientNorms, check_finite_weights, find_not_finite


@pytest.mark.parametrize("norm", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_gradient_that_is_not_finite_names_its_step_and_images(norm):
    norms = GradientNorms()
    norms.add(1, ["a.png"], torch.tensor(3.0))
    norms.check()
    norms.add(2, ["b.png", "c.png"], norm)
    with pytest.raises(FloatingPointError, match=r"Step 2: the gradient is not finite.* b\.png, c\.png\. "):
        norms.check()


def test_weights_that_are_not_finite_are_named():
    weights = {"good": torch.ones(2), "bad": torch.tensor([1.0, math.inf]), "number": torch.tensor([1])}
    with pytest.raises(FloatingPointError, match="1 of 2 weights are not finite, and are not saved: bad"):
        check_finite_weights(weights.items())
    check_finite_weights([("good", weights["good"]), ("number", weights["number"])])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["masks_queries_logits", "class_queries_logits"])
def test_images_whose_outputs_are_not_finite_are_found(which, value):
    outputs = SimpleNamespace(masks_queries_logits=torch.zeros(3, 2, 4, 4), class_queries_logits=torch.zeros(3, 2, 5))
    assert find_not_finite(outputs) == []
    getattr(outputs, which)[1, 0, 2] = value
    assert find_not_finite(outputs) == [1]
    # The second of two windows of the first image.
    outputs.patch_offsets = [torch.tensor(offset) for offset in ([0, 0, 8], [0, 4, 12], [1, 0, 8])]
    assert find_not_finite(outputs) == [0]

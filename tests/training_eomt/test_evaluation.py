"""Outputs that say nothing are told apart from those that do."""

from types import SimpleNamespace

import pytest
import torch

from training_eomt.evaluation import not_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["masks_queries_logits", "class_queries_logits"])
def test_images_whose_outputs_are_not_finite_are_found(which, value):
    outputs = SimpleNamespace(masks_queries_logits=torch.zeros(3, 2, 4, 4), class_queries_logits=torch.zeros(3, 2, 5))
    assert not_finite(outputs) == []
    getattr(outputs, which)[1, 0, 2] = value
    assert not_finite(outputs) == [1]
    # The second of two windows of the first image.
    outputs.patch_offsets = [torch.tensor(offset) for offset in ([0, 0, 8], [0, 4, 12], [1, 0, 8])]
    assert not_finite(outputs) == [0]

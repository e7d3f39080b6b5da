"""A size at which every step runs anywhere."""

import pytest
import torch

from benchmarks.baselines import stepwise_model


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_blocks": 2,
    "num_register_tokens": 2,
    "train_num_points": 64,
}
LABELS = {0: "cat", 1: "dog", 2: "sky"}


@pytest.fixture
def tiny_step():
    """Builds the model of a step at 64x64 pixels, with 7 queries and 3 classes."""

    def build(step, **settings):
        torch.manual_seed(0)
        return stepwise_model(step, TINY, **{"image_size": 64, "num_queries": 7, "num_labels": 3, **settings})

    return build


@pytest.fixture
def batch() -> dict[str, object]:
    """Two images of 64x64 pixels, the second without targets."""
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:, 16:] = True, True
    return {
        "pixel_values": torch.randn(2, 3, 64, 64),
        "mask_labels": [masks, masks[:0]],
        "class_labels": [torch.tensor([0, 2]), torch.tensor([], dtype=torch.int64)],
        "image_seeds": torch.tensor([1, 2]),
    }

"""A run starts from what there is, and nothing is lost or kept by accident."""

import pytest
import torch

from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.starting_model import set_classes


@pytest.fixture
def model(tiny_config):
    return EomtForUniversalSegmentation(tiny_config).eval()  # cat, dog, sky


def test_classes_of_the_same_name_keep_their_scores_wherever_they_are(model):
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(pixels)
        set_classes(model, {0: "sky", 1: "bird", 2: "cat", 3: "fish"})
        after = model(pixels)
    torch.testing.assert_close(after.masks_queries_logits, before.masks_queries_logits)
    # sky, cat and "no object"
    torch.testing.assert_close(after.class_queries_logits[..., [0, 2, 4]], before.class_queries_logits[..., [2, 0, 3]])
    assert model.config.num_labels == 4 and model.config.label2id["fish"] == 3


def test_other_classes_are_new_even_if_they_are_as_many(model):
    before = model.class_predictor.weight.clone()
    set_classes(model, {0: "one", 1: "two", 2: "three"})
    assert not (model.class_predictor.weight[:3] == before[:3]).all(1).any()
    assert model.class_predictor.weight[3].equal(before[3])


def test_a_model_with_other_classes_learns_and_is_saved(model, tmp_path):
    set_classes(model, {0: "one", 1: "two", 2: "three", 3: "four", 4: "five"})
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, :32] = True
    loss = model.train()(torch.randn(1, 3, 64, 64), [masks], [torch.tensor([4])]).loss
    loss.backward()
    assert model.class_predictor.weight.grad is not None
    model.save_pretrained(tmp_path)
    saved = EomtForUniversalSegmentation.from_pretrained(tmp_path)
    assert saved.class_predictor.weight.equal(model.class_predictor.weight)
    assert saved.criterion.empty_weight.shape == (6,)

"""The average of weights is what its definition says."""

import pytest
import torch
from torch import nn

from training_eomt.ema import WeightAverage


@pytest.fixture
def model():
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    return model


def test_the_average_follows_the_definition(model):
    average = WeightAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.average["weight"], expected)
    assert list(average.average) == ["weight"]  # what is not trained is not averaged


def test_the_model_has_the_average_for_a_while_and_its_own_weights_again(model):
    average = WeightAverage(model, decay=0.5)
    trained, optimizer = model.weight, torch.optim.SGD([model.weight], lr=1.0)
    with torch.no_grad():
        model.weight.fill_(5.0)
    average.update(1)
    inside = average.average["weight"].clone()
    with average.in_place():
        assert model.weight.equal(inside) and not (model.weight == 5.0).any()
    assert (model.weight == 5.0).all() and average.average["weight"].equal(inside)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert model.weight is trained and (model.weight == 4.0).all()


def test_an_average_goes_on_from_where_it_was_saved(model):
    with torch.no_grad():
        model.weight.fill_(7.0)  # a model is saved with its average
    average = WeightAverage(model, decay=0.5)
    average.load_trained({"weight": torch.full((2, 3), 3.0)})
    assert (model.weight == 3.0).all()
    average.replace_weights()
    assert (model.weight == 7.0).all()


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({}, "1 weights are missing or too many: weight"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "1 weights are missing or too many: bias"),
        ({"weight": torch.ones(3, 3)}, r"weight has shape \[3, 3\], not \[2, 3\]"),
        ({"weight": torch.full((2, 3), torch.nan)}, "weight is not finite"),
    ],
)
def test_trained_weights_that_are_not_this_models_are_refused(model, trained, message):
    with pytest.raises(ValueError, match=message):
        WeightAverage(model, decay=0.5).load_trained(trained)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_decay_that_averages_nothing_is_refused(model, decay):
    with pytest.raises(ValueError, match="ema_decay"):
        WeightAverage(model, decay)

"""What the steps cost is what the paper says, and why where it is not."""

from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines import STEPS, stepwise_model
from benchmarks.baselines.paper import PAPER
from benchmarks.baselines.steps import SIZES


NUM_QUERIES = 200
# Parts with the settings of the paper, in millions: parameters of steps 0, 1, 2, 3 and 5.
PARAMETERS = {
    "small": (46.6, 44.6, 39.5, 38.1, 24.0),
    "base": (121.0, 116.8, 111.7, 106.6, 93.7),
    "large": (348.7, 342.3, 337.2, 328.3, 316.7),
    "giant": (1208.6, 1196.1, 1191.1, 1171.4, 1163.6),
}


@cache
def cost(step, size, image_size=640):
    """Millions of parameters, and billions of multiply-adds of each module, of a model that has no weights."""
    with torch.device("meta"):
        model = stepwise_model(step, size, image_size).to("meta")
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, image_size, image_size))
    flops = {name: sum(counts.values()) / 2e9 for name, counts in counter.get_flop_counts().items()}
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6, flops


def named(flops, end):
    """Multiply-adds of the module whose name ends like this."""
    (value,) = (value for name, value in flops.items() if name.endswith(end))
    return value


def mask_products(size, image_size=640):
    """Billions of multiply-adds of a product of all masks with the features at a quarter of the image's size."""
    return NUM_QUERIES * stepwise_model_config(size).hidden_size * (image_size // 4) ** 2 / 1e9


@cache
def stepwise_model_config(size):
    with torch.device("meta"):
        return stepwise_model(5, size).config


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_the_papers(size):
    for step, expected in zip((0, 1, 2, 3, 5), PARAMETERS[size]):
        parameters, _ = cost(step, size)
        assert parameters == pytest.approx(expected, abs=0.06)
        if step in PAPER[size, 640]:
            assert parameters == pytest.approx(PAPER[size, 640][step].parameters, rel=0.01)
    assert cost(4, size)[0] == cost(5, size)[0]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_multiply_adds_are_the_papers(size):
    for step in (0, 2, 3, 5):
        if step in PAPER[size, 640]:
            assert cost(step, size)[1]["Global"] == pytest.approx(PAPER[size, 640][step].multiply_adds, rel=0.03)
    costs = [cost(step, size)[1]["Global"] for step in STEPS]
    assert costs[0] > costs[1] > costs[2] > costs[3] and costs[4] > costs[5]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_masked_attention_costs_less_than_the_papers_by_the_masks_full_resolution(size):
    """Where masks only restrict attention this project multiplies them at the patches' resolution."""
    saved = stepwise_model_config(size).num_blocks * mask_products(size) * (1 - 1 / 16)
    total = cost(4, size)[1]["Global"]
    assert total + saved == pytest.approx(PAPER[size, 640][4].multiply_adds, rel=0.01)


@pytest.mark.slow
def test_the_papers_step_1_lacks_the_deformable_layers_that_its_step_0_has():
    """The same pixel decoder is in both: with it step 0 comes out, and step 1 only without these layers' products."""
    flops = {step: cost(step, "large")[1] for step in (0, 1)}
    layers = [named(each, "head.pixel_decoder.encoder") for each in flops.values()]
    assert layers[0] == layers[1] == pytest.approx(36.7, abs=0.1)
    paper = PAPER["large", 640]
    assert flops[0]["Global"] == pytest.approx(paper[0].multiply_adds, rel=0.01)
    assert flops[1]["Global"] == pytest.approx(1.056 * paper[1].multiply_adds, rel=0.005)
    assert flops[1]["Global"] - layers[1] == pytest.approx(paper[1].multiply_adds, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["large", "giant"])
@pytest.mark.parametrize("step", [0, 5])
def test_large_images_cost_what_the_paper_says(size, step):
    parameters, flops = cost(step, size, 1280)
    paper = PAPER[size, 1280][step]
    assert parameters == pytest.approx(paper.parameters, rel=0.01)
    assert flops["Global"] == pytest.approx(paper.multiply_adds, rel=0.03)

"""What the steps cost is what the paper says, and why where it is not."""

from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines import stepwise_model
from benchmarks.baselines.paper import PAPER
from benchmarks.measuring import PAPER_SIZES


# In millions, of steps 0, 1, 2, 3 and of EoMT, from the widths and depths of the parts.
PARAMETERS = {
    "small": (46.6, 44.6, 39.5, 38.1, 24.0),
    "base": (121.0, 116.8, 111.7, 106.6, 93.7),
    "large": (348.7, 342.3, 337.2, 328.3, 316.7),
    "giant": (1208.6, 1196.1, 1191.1, 1171.4, 1163.6),
}


def build(step, size, image_size=640):
    """A model without weights."""
    with torch.device("meta"):
        return stepwise_model(step, size, image_size).to("meta")


def count_parameters(model):
    """In millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@cache
def count_multiply_adds(step, size, image_size=640):
    """In billions, of each module, by the end of its name; "Global" is the whole model."""
    model = build(step, size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    counts = {name.partition(".")[2] or name: each for name, each in counter.get_flop_counts().items()}
    return {name: sum(each.values()) / 2e9 for name, each in counts.items()}


@pytest.mark.parametrize("size", PAPER_SIZES)
def test_parameters_are_the_papers(size):
    for step, expected in zip((0, 1, 2, 3, 4, 5), [*PARAMETERS[size], PARAMETERS[size][-1]]):
        parameters = count_parameters(build(step, size))
        assert parameters == pytest.approx(expected, abs=0.06)
        if step in PAPER[size, 640]:
            assert parameters == pytest.approx(PAPER[size, 640][step].parameters, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("size", PAPER_SIZES)
def test_multiply_adds_are_the_papers(size):
    paper = PAPER[size, 640]
    for step in paper.keys() - {1, 4}:  # see below
        assert count_multiply_adds(step, size)["Global"] == pytest.approx(paper[step].multiply_adds, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("size", PAPER_SIZES)
def test_masked_attention_costs_less_than_the_papers_by_masks_at_full_resolution(size):
    """Where masks only restrict attention this project multiplies them at the patches' resolution."""
    config = build(4, size).config
    full_resolution = config.num_queries * config.hidden_size * 160**2 / 1e9
    saved = config.num_blocks * full_resolution * (1 - 1 / 16)
    total = count_multiply_adds(4, size)["Global"] + saved
    assert total == pytest.approx(PAPER[size, 640][4].multiply_adds, rel=0.01)


@pytest.mark.slow
def test_the_papers_step_1_lacks_the_deformable_layers_that_its_step_0_has():
    """Both have the same pixel decoder: with it step 0 comes out, and step 1 only without these layers' products."""
    counts = {step: count_multiply_adds(step, "large") for step in (0, 1)}
    layers = [each["head.pixel_decoder.encoder"] for each in counts.values()]
    assert layers[0] == layers[1] == pytest.approx(36.7, abs=0.1)
    paper = PAPER["large", 640]
    assert counts[0]["Global"] == pytest.approx(paper[0].multiply_adds, rel=0.005)
    assert counts[1]["Global"] - layers[1] == pytest.approx(paper[1].multiply_adds, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["large", "giant"])
@pytest.mark.parametrize("step", [0, 5])
def test_large_images_cost_what_the_paper_says(size, step):
    paper = PAPER[size, 1280][step]
    assert count_parameters(build(step, size, 1280)) == pytest.approx(paper.parameters, rel=0.01)
    assert count_multiply_adds(step, size, 1280)["Global"] == pytest.approx(paper.multiply_adds, rel=0.03)

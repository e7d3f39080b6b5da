"""Steps consist of the same samples, whoever computes them."""

import pytest

from training_eomt.sampling import DrawSampler


def draws(sampler: DrawSampler, steps: int) -> list[list[int]]:
    """The draws of each of the first steps."""
    result: list[list[int]] = []
    while len(result) < steps:
        sampler.start_at(len(result))
        epoch = list(sampler)
        size = sampler.total_batch_size
        result += [epoch[start : start + size] for start in range(0, len(epoch), size)]
    return result[:steps]


def test_an_epoch_has_each_sample_at_most_once_and_only_whole_batches():
    sampler = DrawSampler(10, 4, seed=0)
    first, second = (sorted(draw % 10 for batch in epoch for draw in batch) for epoch in _epochs(sampler))
    assert len(first) == len(second) == len(sampler) == 8
    assert len(set(first)) == len(set(second)) == 8


def _epochs(sampler):
    steps = draws(sampler, 4)
    return steps[:2], steps[2:]


def test_every_draw_has_a_number_of_its_own():
    numbers = [draw for batch in draws(DrawSampler(10, 4, seed=0), 10) for draw in batch]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_few_samples_fill_a_batch_by_turns(num_samples):
    batch = draws(DrawSampler(num_samples, 7, seed=0), 3)[2]
    counts = [sum(draw % num_samples == sample for draw in batch) for sample in range(num_samples)]
    assert len(batch) == 7 and max(counts) - min(counts) <= 1


def test_the_order_follows_from_the_seed_and_the_epoch():
    one, same, other = (draws(DrawSampler(50, 5, seed=seed), 20) for seed in (0, 0, 1))
    assert one == same != other
    assert [draw % 50 for batch in one[:10] for draw in batch] != [draw % 50 for batch in one[10:] for draw in batch]


def test_without_samples_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no sample"):
        DrawSampler(0, 4, seed=0)

"""Mask probabilities are the original's (golden table), and so is the default schedule."""

import json

import pytest

from training_eomt.mask_annealing import default_schedule, mask_probabilities


def test_probabilities_are_the_originals_at_every_step(golden):
    for table in json.loads((golden / "training_schedules.json").read_text())["annealing"]:
        for step, expected in table["probabilities"].items():
            probabilities = mask_probabilities(
                int(step), table["start_steps"], table["end_steps"], table["poly_power"]
            )
            # The table is in float32.
            assert probabilities == pytest.approx(expected, rel=1e-6, abs=1e-6), (table, step)


@pytest.mark.parametrize(
    ("total_steps", "starts", "ends"),
    [
        (88692, [14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910]),  # COCO, ViT-L: 12 epochs
        (39120, [6520, 11410, 16300, 21190, 26080], [13040, 17930, 22820, 27710, 32600]),  # ADE20K, ViT-g: 31 epochs
    ],
)
def test_default_schedule_is_the_published_one(total_steps, starts, ends):
    assert default_schedule(total_steps, len(starts)) == (starts, ends)


def test_every_block_ends_without_masks():
    for total_steps in (1, 7, 400):
        for num_blocks in (1, 3, 5):
            assert mask_probabilities(total_steps, *default_schedule(total_steps, num_blocks)) == [0.0] * num_blocks


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match="cannot end at step 3 before it starts at step 5"):
        mask_probabilities(0, [5], [3])
    with pytest.raises(ValueError, match="One start and one end"):
        mask_probabilities(0, [5, 6], [7])

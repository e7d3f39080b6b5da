"""A checkpoint that was not written to its end is never used."""

import pytest

from training_eomt import run_checkpoints as checkpoints


@pytest.fixture
def output(tmp_path):
    """Checkpoints 1 and 2 are complete, 10 and 11 are not: one lacks its end, one was being written."""
    for step in (1, 2, 10, 11):
        folder = tmp_path / f"checkpoint-{step}"
        checkpoints.begin(folder)
        if step != 10:
            (folder / "trainer_state.json").write_text("{}")
        if step not in (10, 11):
            checkpoints.finish(folder)
    (tmp_path / "checkpoint-10" / "INCOMPLETE").unlink()
    return tmp_path


def test_the_last_complete_checkpoint_is_found_and_later_ones_are_spoken_of(output, caplog):
    checkpoints.logger.addHandler(caplog.handler)
    assert checkpoints.last_complete(output) == output / "checkpoint-2"
    checkpoints.logger.removeHandler(caplog.handler)
    spoken_of = [f"{output / f'checkpoint-{step}'} is not complete" in caplog.text for step in (1, 2, 10, 11)]
    assert spoken_of == [False, False, True, True]


def test_what_is_left_of_incomplete_ones_is_removed(output):
    checkpoints.remove_incomplete(output)
    assert sorted(folder.name for folder in output.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_without_checkpoints_there_is_none(tmp_path):
    assert checkpoints.last_complete(tmp_path / "nowhere") is None and checkpoints.last_complete(tmp_path) is None


def test_the_space_for_checkpoints_counts_the_optimisers_two_moments():
    assert checkpoints.bytes_needed(1000, 100, kept=1, has_average=False) == 2 * 4 * 1200
    assert checkpoints.bytes_needed(1000, 100, kept=3, has_average=True) == 4 * 4 * 1300

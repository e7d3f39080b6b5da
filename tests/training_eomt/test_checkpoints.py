"""A checkpoint that was not written to its end is never used."""

import json

import pytest
import torch

from training_eomt import checkpoints


@pytest.fixture
def output(tmp_path):
    """Checkpoints 1 and 2 are complete, 10 to 13 are not: of each something else was still to be written."""
    for step in (1, 2, 10, 11, 12, 13):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "training_settings.json").write_text(json.dumps({"processes": 2}))
        torch.save({}, checkpoint / "rng_state_0.pth")
        if step != 12:
            torch.save({}, checkpoint / "rng_state_1.pth")
        if step == 13:
            content = (checkpoint / "rng_state_1.pth").read_bytes()
            (checkpoint / "rng_state_1.pth").write_bytes(content[: len(content) // 2])
        if step != 10:
            (checkpoint / "trainer_state.json").write_text('{"epoch":' if step == 11 else "{}")
    return tmp_path


def test_a_checkpoint_that_does_not_fit_on_the_disk_goes_and_the_last_one_is_named(output):
    message = r"checkpoint-12 cannot be written: .*No space left.*checkpoint-2 is the last complete one"
    with pytest.raises(OSError, match=message):
        checkpoints.fail_writing(output / "checkpoint-12", OSError(28, "No space left on device"), is_writer=True)
    assert not (output / "checkpoint-12").exists()
    with pytest.raises(RuntimeError, match="a bug"):
        checkpoints.fail_writing(output / "checkpoint-11", RuntimeError("a bug"), is_writer=False)
    assert (output / "checkpoint-11").exists()


def test_the_last_complete_checkpoint_is_found_and_later_ones_are_spoken_of(output, caplog):
    checkpoints.logger.addHandler(caplog.handler)
    assert checkpoints.last_complete(output) == output / "checkpoint-2"
    checkpoints.logger.removeHandler(caplog.handler)
    spoken_of = [f"{output / f'checkpoint-{step}'} is not complete" in caplog.text for step in (1, 2, 10, 11, 12, 13)]
    assert spoken_of == [False, False, True, True, True, True]


def test_where_each_machine_has_its_own_disk_a_checkpoint_has_the_random_states_of_one(output):
    assert not checkpoints.is_complete(output / "checkpoint-12")
    settings = {"processes": 2, "random_states": 1}
    (output / "checkpoint-12" / "training_settings.json").write_text(json.dumps(settings))
    assert checkpoints.is_complete(output / "checkpoint-12")


def test_what_is_left_of_incomplete_ones_is_removed(output):
    checkpoints.remove_incomplete(output)
    assert sorted(folder.name for folder in output.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_without_checkpoints_there_is_none(tmp_path):
    assert checkpoints.last_complete(tmp_path / "nowhere") is None and checkpoints.last_complete(tmp_path) is None


def test_the_space_for_checkpoints_counts_the_optimisers_two_moments():
    assert checkpoints.estimate_bytes(1000, 100, kept=1, has_average=False) == 2 * 4 * 1200
    assert checkpoints.estimate_bytes(1000, 100, kept=3, has_average=True) == 4 * 4 * 1300

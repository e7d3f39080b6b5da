"""A checkpoint that was not written to its end is never used."""

import pytest

from training_eomt import saved_checkpoints as checkpoints


@pytest.fixture
def output(tmp_path):
    """Checkpoints 1 and 2 are complete, 10 and 11 are not: one lacks its end, the other was being written."""
    for step in (1, 2, 10, 11):
        with checkpoints.writing(tmp_path / f"checkpoint-{step}", is_writer=True):
            if step != 10:
                (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11" / "INCOMPLETE").touch()
    return tmp_path


def test_a_checkpoint_is_marked_for_as_long_as_it_is_written(tmp_path):
    checkpoint = tmp_path / "checkpoint-1"
    with pytest.raises(KeyboardInterrupt), checkpoints.writing(checkpoint, is_writer=True):
        assert checkpoints.is_being_written(checkpoint)
        raise KeyboardInterrupt
    assert checkpoints.is_being_written(checkpoint)
    with checkpoints.writing(checkpoint, is_writer=True):
        (checkpoint / "trainer_state.json").write_text("{}")
        assert not checkpoints.is_complete(checkpoint)
    assert checkpoints.is_complete(checkpoint)


def test_a_checkpoint_that_does_not_fit_on_the_disk_goes_and_the_last_one_is_named(output):
    full = output / "checkpoint-12"
    message = r"checkpoint-12 cannot be written: .*No space left.*checkpoint-2 is the last complete one"
    with pytest.raises(OSError, match=message), checkpoints.writing(full, is_writer=True):
        raise OSError(28, "No space left on device")
    assert not full.exists()
    with pytest.raises(RuntimeError, match="a bug"), checkpoints.writing(full, is_writer=True):
        raise RuntimeError("a bug")


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

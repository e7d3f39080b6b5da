"""A new run begins where no former one can be taken for it, and with everything that is not a run's."""

from pathlib import Path

import pytest

from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.card import is_generated, write_card
from training_eomt.script.former_run import check_not_needed, remove_former_run


@pytest.fixture
def output(tmp_path, tiny_config) -> Path:
    """A model, what a training leaves beside it, and a person's files."""
    output = tmp_path / "output"
    EomtForUniversalSegmentation(tiny_config).save_pretrained(output)
    EomtImageProcessor(size=64).save_pretrained(output)
    write_card(output)
    for folder in ("checkpoint-5", "predictions/overlays", "runs/Nov26", "evaluation_pictures/step-1", ".draft"):
        (output / folder).mkdir(parents=True)
    for name in (
        "evaluation.json",
        ".evaluation.json.draft",
        "training_args.bin",
        "checkpoint-5/config.json",
        "predictions/run.json",
    ):
        (output / name).touch()
    for name in MINE:
        (output / name).touch()
    return output


MINE = {"keepsake.txt", "checkpoint-notes.txt", "checkpoint-5.tar", "checkpoint-5-good", ".notes.draft", "my_eomt.py"}


def test_everything_that_a_run_wrote_goes_and_nothing_else(output):
    assert is_generated((output / "README.md").read_text())
    remove_former_run(output)
    assert {path.name for path in output.iterdir()} == MINE
    remove_former_run(output)
    assert {path.name for path in output.iterdir()} == MINE


def test_a_persons_own_card_stays(output):
    (output / "README.md").write_text("# Mine")
    remove_former_run(output)
    assert {path.name for path in output.iterdir()} == {*MINE, "README.md"}


def test_killed_at_the_first_change_or_later_no_model_is_left_that_loads_and_the_next_run_goes_on(output, monkeypatch):
    rename = Path.rename
    for allowed in (1, 0, 3):
        renames = iter(range(allowed))

        def killed_after_some(path, target, renames=renames):
            if next(renames, None) is None:
                raise KeyboardInterrupt
            return rename(path, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "rename", killed_after_some)
            remove_former_run(output)
        left = {path.name for path in output.iterdir()}
        assert "config.json" not in left and left > MINE
    remove_former_run(output)
    assert {path.name for path in output.iterdir()} == MINE


def test_a_link_to_a_folder_elsewhere_goes_and_the_folder_stays(output, tmp_path):
    (tmp_path / "disk" / "checkpoint-6").mkdir(parents=True)
    (output / "checkpoint-6").symlink_to(tmp_path / "disk" / "checkpoint-6")
    remove_former_run(output)
    assert {path.name for path in output.iterdir()} == MINE and (tmp_path / "disk" / "checkpoint-6").is_dir()


def test_what_the_new_run_needs_is_no_former_run(output, monkeypatch):
    monkeypatch.chdir(output.parent)
    for needed in ("output/config.json", str(output / "checkpoint-5"), "output/checkpoint-5/../checkpoint-5"):
        with pytest.raises(ValueError, match=f"would delete {needed}, which this run needs"):
            check_not_needed(output, [None, "me/model_of_the_hub", needed])
    check_not_needed(output, [None, "me/model_of_the_hub", str(output / "keepsake.txt"), str(output)])

"""The `eomt` command: every verb has a door, answers in a line, and its help fits on two screens."""

import subprocess
import sys
from importlib import import_module

import pytest

from eomt_transformers import __version__
from eomt_transformers.command import VERBS, main


TWO_SCREENS = 100  # lines


def test_the_command_lists_its_verbs_and_loads_nothing(capsys):
    main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in VERBS)
    code = "import sys; from eomt_transformers.command import main; main([]); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == f"{said}False\n"


def test_the_version_is_the_packages(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"eomt {__version__}\n"


def test_an_unknown_verb_is_an_error_that_lists_those_that_exist():
    with pytest.raises(SystemExit, match=r"error: 'sgement' is none of segment, train, .*eomt --help"):
        main(["sgement"])


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_fits_on_two_screens(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert not stop.value.code
    assert said.startswith(f"usage: eomt {name}")
    assert len(said.splitlines()) <= TWO_SCREENS


def test_all_arguments_of_training_are_behind_help_all(capsys):
    for flag in ("--help-all", "--help_all"):
        with pytest.raises(SystemExit):
            main(["train", flag])
        said = capsys.readouterr().out
        assert "--gradient_accumulation_steps" in said and "--mask_annealing_starts" in said


@pytest.mark.parametrize(
    ("name", "word"), [("train", "--do_train"), ("eval", "--do_eval"), ("predict", "--do_predict")]
)
def test_verbs_of_the_script_do_what_they_say(name, word, monkeypatch):
    given = []
    monkeypatch.setattr("run_segmentation.command", lambda words, prog: given.append((words, prog)))
    main([name, "--output_dir", "x"])
    assert given == [([f"--do_{name}", "--output_dir", "x"], f"eomt {name}")]


@pytest.mark.parametrize("name", VERBS)
def test_every_door_is_there(name):
    module, function = VERBS[name].door
    assert callable(getattr(import_module(module), function))


def test_a_mistake_ends_in_one_line():
    command = [sys.executable, "-m", "eomt_transformers", "train", "--learing_rate", "1"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr.count("\n") <= 2 and "learning_rate" in found.stderr

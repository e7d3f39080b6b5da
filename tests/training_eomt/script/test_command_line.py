"""What is said about arguments without importing them is what they are."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import HfArgumentParser, TrainingArguments

from image_processing_eomt.reading_eomt import MAX_IMAGE_PIXELS
from image_processing_eomt.settings_eomt import STORED
from training_eomt.data import FORMATS
from training_eomt.data.images import EXIF
from training_eomt.prediction.outputs import OUTPUTS
from training_eomt.script import arguments as script_arguments
from training_eomt.script.arguments import Argument
from training_eomt.script.command_line import describe_argument, outline_training_arguments
from training_eomt.tasks import TASKS
from training_eomt.training_arguments import EomtTrainingArguments


ROOT = Path(__file__).resolve().parents[3]


def test_every_argument_is_there_with_its_default_and_help():
    ours, theirs = outline_training_arguments()
    fields = {field.name: field for field in dataclasses.fields(EomtTrainingArguments) if field.init}
    assert {**theirs, **ours}.keys() == fields.keys()
    assert not ours.keys() & theirs.keys()
    assert set(ours) - {field.name for field in dataclasses.fields(TrainingArguments)} >= {"layer_decay", "ema_decay"}
    computed = {"optim", "include_for_metrics"}  # their defaults are not written out
    for name, found in {**theirs, **ours}.items():
        default = fields[name].default
        if name not in computed:
            assert found.default == (None if default is dataclasses.MISSING else default), name
        assert found.help == fields[name].metadata["help"], name


@pytest.mark.parametrize(
    ("annotation", "kind", "is_list"),
    [
        ("int | None", int, False),
        ("list[float] | None", float, True),
        ("bool | None", bool, False),
        ("SchedulerType | str", str, False),
        ("None | str | list[str]", str, True),
        ("dict[str, Any] | str | None", dict, False),
        ("ParallelismConfig | None", str, False),
    ],
)
def test_kinds_are_read_off_annotations(annotation, kind, is_list):
    alone = True if kind is bool else None
    assert describe_argument("x", annotation, 1, {"help": "h", "choices": ["a"]}) == Argument(
        "x", kind, is_list, 1, "h", ("a",), alone
    )


def test_what_may_stand_without_a_value_is_what_transformers_parser_lets():
    """Such as `--fsdp`."""
    ours, theirs = outline_training_arguments()
    actions = HfArgumentParser(EomtTrainingArguments)._option_string_actions
    for name, found in {**theirs, **ours}.items():
        action = actions[f"--{name}"]
        if found.kind is not bool:
            assert found.alone == (action.const if action.nargs == "?" else None), name
    assert theirs["fsdp"].alone is True


def test_what_is_written_twice_is_the_same():
    assert tuple(TASKS) == script_arguments.TASKS
    assert set(script_arguments.PREDICTION_SETTINGS) == STORED.keys() - {"stuff_classes"}  # which comes from the data
    assert script_arguments.FORMATS == FORMATS
    assert script_arguments.OUTPUTS == OUTPUTS
    assert script_arguments.EXIF == EXIF
    assert script_arguments.MAX_IMAGE_PIXELS == MAX_IMAGE_PIXELS


IMPORTED = """
import sys
import run_segmentation
try:
    run_segmentation.command(sys.argv[1:])
finally:
    print("torch" in sys.modules, "transformers" in sys.modules)
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--do_train"], 1),
        (["--do_trian"], 1),
        (["--seed", "many"], 2),
        (["--do_train", "--learning_rate", "nan"], 1),
        (["--recipe", "nowhere.yaml"], 1),
        (["--recipe", "shapes_demo", "--do_train", "--train_data", "x", "--do_predict", "--output_dir", "y"], 1),
    ],
)
def test_help_and_mistakes_are_answered_without_torch(words, status):
    """They take seconds to import: this is what makes the answer come at once, on any machine."""
    command = [sys.executable, "-c", IMPORTED, *words]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == status, result.stderr
    assert result.stdout.splitlines()[-1] == "False False"
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == (status > 0)

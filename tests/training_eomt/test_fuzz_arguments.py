"""Arguments and recipes at random: they are taken, or refused with a documented error that says something."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from training_eomt.script.arguments import DataArguments, ModelArguments
from training_eomt.script.checks import check_arguments
from training_eomt.script.command_line import complete_arguments, outline_training_arguments, read_arguments


ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
NASTY_WORDS = [
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "2",
        "640",
        "0.5",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e-400",
        "9" * 30,
        "9" * 5000,
    ),
    *(
        "true",
        "False",
        "None",
        "null",
        "no",
        "steps",
        "epoch",
        "best",
        "auto",
        "all",
        "-",
        "--",
        "/dev/null",
        "/",
        "~",
    ),
    *(
        "a\x00b",
        "ä\u202e",
        "\x1b[31m",
        "\udcff",
        "a" * 5000,
        "{}",
        "[]",
        '{"a": 1}',
        '{"a": NaN}',
        "{" * 2000,
        '{"a":' * 100_000,
        "[1",
    ),
    *(
        '{"num_queries": 1e400}',
        '{"non_blocking": 5}',
        '{"backend": null}',
        "adamw_torch",
        "full_shard",
        "tensorboard",
    ),
]
NASTY_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        640,
        10**30,
        0.0,
        0.5,
        1.5,
        float("nan"),
        float("inf"),
        -1e300,
        "",
        "x",
        "--do_train",
    ),
    *(
        [],
        [1, 2],
        [[1], [2]],
        ["json", "--push_to_hub"],
        [None],
        {},
        {"a": 1},
        {1: 2},
        {"a": {"b": [1]}},
        "a\x00b",
        "1e-4",
    ),
]
DOCUMENTED = (ValueError, OSError, ImportError)
# They start services or change the process for good, which a test of arguments has no use for.
LEFT_OUT = {"deepspeed", "fsdp", "fsdp_config", "ddp_backend", "local_rank", "tf32", "full_determinism"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def outcome(words: list[str], in_full: bool) -> str:
    """What comes of a command line: "taken", or the message of a documented error."""
    try:
        arguments = read_arguments(words)
        check_arguments(arguments.model, arguments.data, arguments.training)
        if in_full:
            complete_arguments(arguments)
    except DOCUMENTED as error:
        assert str(error).strip(), repr(error)
        return str(error)
    except SystemExit as ended:
        assert ended.code in (0, 2)  # the latter with a message, see below
        return "ended"
    return "taken"


def all_names() -> list[str]:
    ours, theirs = outline_training_arguments()
    own = [*ModelArguments.__dataclass_fields__, *DataArguments.__dataclass_fields__]
    return sorted({*ours, *theirs, *own} - LEFT_OUT)


def test_command_lines_are_taken_or_refused_with_a_message(capsys):
    chance = random.Random(0)
    names = all_names()
    outcomes = []
    start = ["--do_train", "--train_data", "x", "--output_dir", "out", "--report_to", "none", "--use_cpu"]
    for number in range(700):
        words = list(start) if chance.random() < 0.7 else []
        for name in chance.sample(names, chance.choice([1, 1, 1, 2, 5])):
            words += [f"--{name}", *chance.choices(NASTY_WORDS, k=chance.choice([0, 1, 1, 1, 2]))]
        outcomes.append(outcome(words, in_full=number % 3 == 0))
        if outcomes[-1] == "ended":
            assert capsys.readouterr().err.startswith("error: "), words
    assert outcomes.count("taken") > 20 and len(set(outcomes)) > 30


def test_every_argument_meets_nasty_words():
    given = ["--do_train", "--train_data", "x", "--output_dir", "out", "--report_to", "none", "--use_cpu"]
    for position, name in enumerate(all_names()):
        for word in NASTY_WORDS[position % 7 :: 7]:
            outcome([*given, f"--{name}", word], in_full=False)


def mutated(content: dict[str, Any], chance: random.Random, names: list[str]) -> str:
    """A recipe with something wrong in it, or not."""
    content = dict(content)
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        content[chance.choice([*content, *names])] = chance.choice(NASTY_VALUES)
    kind = chance.random()
    if kind < 0.4:
        text = yaml.safe_dump(content, sort_keys=False)
    elif kind < 0.6:
        text = "\n".join(f"{name}: {json.dumps(value)}" for name, value in content.items())
    else:
        text = yaml.safe_dump(content)
        for _ in range(chance.choice([1, 3, 10])):
            at = chance.randrange(len(text) + 1)
            text = (
                text[:at]
                + chance.choice(["", ":", "-", "&a ", "*a", "!!x ", "{", "[", "\t", "\x00", "'"])
                + text[at + 1 :]
            )
    return text


def test_recipes_are_taken_or_refused_with_a_message(tmp_path):
    chance = random.Random(1)
    names = all_names()
    contents = [yaml.safe_load(recipe.read_text()) for recipe in RECIPES]
    path = tmp_path / "recipe.yaml"
    outcomes = []
    for number in range(400):
        path.write_bytes(mutated(chance.choice(contents), chance, names).encode(errors="surrogateescape"))
        words = ["--recipe", str(path), "--do_train", "--train_data", "x", "--output_dir", "out", "--use_cpu"]
        words += ["--validation_data", "y"]
        words += ["--fp16", "false", "--report_to", "none"]
        outcomes.append(outcome(words, in_full=number % 4 == 0))
    assert outcomes.count("taken") > 20 and len(set(outcomes)) > 30

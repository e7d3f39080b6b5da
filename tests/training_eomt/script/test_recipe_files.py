"""A recipe sets values, each of its argument's kind; nothing in it is a flag."""

import os
import re

import pytest

from training_eomt.script.command_line import parse_arguments, read_arguments
from training_eomt.script.recipe_files import find_recipe


@pytest.fixture
def read(tmp_path):
    def read(content: str | bytes, *words: str):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_arguments(["--recipe", str(path), *words])

    return read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("predict_outputs: [json, --push_to_hub]", "predict_outputs must be one of overlays, maps, json"),
        ("output_dir: [a, --push_to_hub]", "output_dir is list, and must be a text"),
        ("run_name: {a: b}", "run_name is dict, and must be a text"),
        ("image_size: [[64, 64], 3]", "image_size is list, and must be a list in which each item is a whole number"),
        ("image_size: 64.5", "image_size is float, and must be a whole number"),
        ("image_size: []", "image_size is an empty list"),
        ("image_size: true", "image_size is bool, and must be a whole number"),
        ("max_steps: many", "max_steps is str, and must be a whole number"),
        ("learning_rate: fast", "learning_rate is str, and must be a number"),
        ("do_train: 1", "do_train is int, and must be true or false"),
        ("do_train: perhaps", "do_train is str, and must be true or false"),
        ("output_dir: 5", "output_dir is int, and must be a text.*quotes"),
        ("model_config: [1]", "model_config is list, and must be a mapping"),
        ("task: things", "task must be one of panoptic, instance, semantic, not 'things'"),
        ("learning_rate: 1\nlearning_rate: 2", "learning_rate.*twice"),
        ("model_config: {num_queries: 3, num_queries: 4}", "num_queries.*twice"),
        ("5: 6", "must map names of arguments to values"),
        ("a: &a [x]\nb: *a", "alias"),
        ("learning_rate: !!python/object/apply:os.getcwd []", "is no plain data"),
        ("x" * 1_000_001, "more than 1,000,000 bytes"),
        (b"\xff\xfe\x00", "not a text in UTF-8"),
        ("[" * 3000, "is not YAML"),
        ("recipe: other.yaml", "there is no 'recipe'"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused_with_file_key_and_kind(read, content, message):
    with pytest.raises(ValueError, match=rf"recipe\.yaml[\s\S]*{message}"):
        read(content)


def test_values_that_look_like_flags_are_values(read):
    found = read("output_dir: --push_to_hub\nrun_name: '--do_train true'")
    assert (found.training.output_dir, found.training.run_name) == ("--push_to_hub", "--do_train true")
    assert found.given.keys() == {"output_dir", "run_name"}


def test_values_have_the_kind_of_their_argument(read):
    found = read(
        "learning_rate: 1e-4\nmax_grad_norm: 1\nimage_size: 64\nscale_range: [1, 2]\ndo_train: yes\n"
        "save_strategy: no\nreport_to: [tensorboard, trackio]\nmodel_config: {num_queries: 5}\nseed:\n"
    )
    assert found.given == {
        "learning_rate": 1e-4,
        "max_grad_norm": 1.0,
        "do_train": True,
        "save_strategy": "no",
        "report_to": ["tensorboard", "trackio"],
    }
    assert (found.data.image_size, found.data.scale_range) == ([64], [1.0, 2.0])
    assert found.model.model_config == {"num_queries": 5}


def test_the_command_line_comes_on_top_of_whole_lists(read):
    assert read("image_size: [64, 96]", "--image_size", "32").data.image_size == [32]


def test_recipes_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    by_name = find_recipe("shapes_demo")
    assert by_name.name == "shapes_demo.yaml" and by_name.is_file()
    monkeypatch.chdir(tmp_path)  # where there is no folder `recipes`
    for given in ("shapes_demo.yaml", "recipes/shapes_demo.yaml", str(by_name)):
        assert find_recipe(given).samefile(by_name)
    (tmp_path / "shapes_demo").write_text("seed: 3")
    assert find_recipe("shapes_demo").resolve() == tmp_path / "shapes_demo"  # one's own comes first
    assert parse_arguments(["--recipe", "shapes_demo", "--use_cpu"])[2].seed == 3


def test_what_is_no_recipe_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no recipe elsewhere/shapes_demo: .*Did you mean shapes_demo\?"):
        find_recipe("elsewhere/shapes_demo")
    with pytest.raises(OSError, match=rf"{re.escape(str(tmp_path))} is no file"):
        parse_arguments(["--recipe", str(tmp_path)])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is no file"):
        parse_arguments(["--recipe", str(tmp_path / "pipe")])

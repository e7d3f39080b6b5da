"""Recipes set arguments, and the command line comes on top."""

from pathlib import Path

import pytest
import yaml

from training_eomt.script.command_line import parse_arguments, read_arguments


RECIPES = sorted((Path(__file__).resolve().parents[3] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_sets_what_it_says_and_the_command_line_comes_on_top(recipe):
    content = yaml.safe_load(recipe.read_text())
    if "report_to" in content:
        assert content.pop("report_to") == "none"  # becomes an empty list
    content.pop("total_batch_size", None)  # sets two others, see test_recipes.py
    words = ["--recipe", str(recipe), "--output_dir", "x", "--use_cpu", "true"]
    if content.pop("fp16", False):  # needs a GPU
        words += ["--fp16", "false"]
    everything = parse_arguments(words)
    merged = {name: value for arguments in everything for name, value in vars(arguments).items()}
    for name, value in content.items():
        found = merged[name]
        assert (found.value if hasattr(found, "value") else found) in (value, [value]), name
    _, _, training = parse_arguments([*words, "--max_steps", "7"])
    assert training.max_steps == 7 and training.output_dir == "x"


def test_a_misspelt_recipe_is_refused_with_a_suggestion(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rat: 0.1\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml: there is no 'learning_rat'. Did you mean 'learning_"):
        parse_arguments(["--recipe", str(recipe)])


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not a recipe"), ("- task", "not a recipe"), ("task: [", "is not YAML")],
)
def test_what_is_not_a_recipe_is_named(tmp_path, content, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    with pytest.raises(ValueError, match=rf"recipe\.yaml.*{message}"):
        parse_arguments(["--recipe", str(recipe)])


def test_an_empty_value_leaves_the_default(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model_name_or_path:\n")
    assert parse_arguments(["--recipe", str(recipe)])[0].model_name_or_path is None


@pytest.mark.parametrize(
    ("model_config", "message"),
    [
        ('{"num_querys": 3}', "Did you mean 'num_queries'"),
        ('{"image_size": 64}', "comes from --image_size"),
        ('{"id2label": {"0": "cat"}}', "comes from the data"),
        ("[1]", "not an object"),
        ("{", "not a JSON object"),
        ("5", "not an object"),
        ('{"num_blocks": 1, "num_blocks": 2}', "'num_blocks' comes twice"),
        ("[" * 100000, "not a JSON object"),
    ],
)
def test_a_model_configuration_that_cannot_be_is_refused(model_config, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--model_config", model_config])


def test_later_recipes_come_on_top_of_earlier_ones(tmp_path):
    for name, content in (("a", "learning_rate: 0.1\nmax_steps: 5"), ("b", "learning_rate: 0.2")):
        (tmp_path / f"{name}.yaml").write_text(content)
    recipes = ["--recipe", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    _, _, training = parse_arguments([*recipes, "--output_dir", "x", "--use_cpu", "true"])
    assert (training.learning_rate, training.max_steps) == (0.2, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scale_range", "2.0", "0.1"], "smallest and the largest"),
        (["--scale_range", "1.0"], "smallest and the largest"),
        (["--image_size", "1", "2", "3"], "height and width"),
        (["--dataset", "a", "--train_data", "b"], "give one"),
        (["--train_val_split", "0"], "a fraction below 1 or a number of images"),
        (["--train_val_split", "1.5"], "a fraction below 1 or a number of images"),
        (["--train_val_split", "0.1", "--validation_data", "b"], "give one"),
        (["--threshold", "1.1"], "--threshold 1.1: it must be a number from 0 to 1"),
        (["--mask_threshold", "nan"], "--mask_threshold nan: it must"),
        (["--overlap_mask_area_threshold", "-0.1"], "--overlap_mask_area_threshold -0.1: it must"),
        (["--top_k", "0"], "--top_k 0: it must be a whole number from 1"),
    ],
)
def test_data_arguments_that_cannot_be_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(words)


def test_an_image_size_is_one_number_or_two():
    assert [parse_arguments(words)[1].pixels for words in ([], ["--image_size", "64"])] == [None, 64]
    assert parse_arguments(["--image_size", "64", "96"])[1].pixels == (64, 96)


def test_flags_have_hyphens_or_underscores_and_come_with_or_without_true():
    for words in (["--do-train"], ["--do_train", "true"], ["--do_train=yes"], ["--no_do_train", "--do_train"][1:]):
        assert read_arguments(words).training.do_train is True
    assert read_arguments(["--no_augmentation"]).data.augmentation is False
    assert read_arguments(["--augmentation", "false"]).data.augmentation is False
    assert read_arguments(["--total-batch-size=4"]).training.total_batch_size == 4


def test_fsdp_stands_alone_or_has_a_value():
    assert read_arguments(["--fsdp", "--do_train"]).given == {"fsdp": True, "do_train": True}
    assert read_arguments(["--fsdp", "full_shard"]).given == {"fsdp": "full_shard"}


def test_a_flag_that_is_given_twice_is_spoken_of():
    found = read_arguments(["--seed", "1", "--recipe", "low_memory", "--recipe", "shapes_demo", "--seed=2"])
    assert found.training.seed == 2 and found.training.max_steps == 400
    assert found.warnings == ["--seed is given 2 times: the last one counts."]


def test_help_comes_in_groups_the_projects_own_first(capsys):
    with pytest.raises(SystemExit) as ended:
        read_arguments(["--help_all"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    order = [
        "--recipe",
        "--do_train",
        "model:",
        "--model_config",
        "data:",
        "--train_data",
        "training:",
        "--layer_decay",
    ]
    order += ["of every Transformers Trainer:", "--gradient_accumulation_steps"]
    positions = [printed.index(f"\n{word}" if word.endswith(":") else f"\n  {word} ") for word in order]
    assert positions == sorted(positions)


def test_a_value_of_the_wrong_kind_is_a_line_without_all_arguments(capsys):
    with pytest.raises(SystemExit) as ended:
        read_arguments(["--seed", "many"])
    assert ended.value.code == 2
    said = "error: argument --seed: invalid int value: 'many'. --help_all lists all arguments.\n"
    assert capsys.readouterr().err == said


def test_data_are_checked_with_a_recipe_whose_training_needs_another_machine():
    words = ["--recipe", "coco_panoptic_eomt_large_640_dinov2", "--check_data", "--train_data", "x", "--use_cpu"]
    _, data, training = parse_arguments(words)  # the recipe has fp16
    assert (data.dataset_format, data.task, training.fp16) == ("coco_panoptic", "panoptic", False)
    with pytest.raises(ValueError, match="fp16 needs an accelerator"):
        parse_arguments([*words[:2], "--use_cpu"])


def test_a_misspelt_flag_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"no 'learning_rat'. Did you mean 'learning_rate'"):
        parse_arguments(["--learning_rat", "1"])
    with pytest.raises(ValueError, match=r"no 'total_batchsize'. Did you mean 'total_batch_size'"):
        parse_arguments(["--total-batchsize=1"])
    with pytest.raises(ValueError, match="stray belongs to no argument"):
        parse_arguments(["stray"])


def test_settings_of_prediction_are_those_of_the_task():
    _, data, _ = parse_arguments(["--threshold", "0", "--mask_threshold", "0.25"])
    assert data.prediction_settings("panoptic") == {"threshold": 0.0, "mask_threshold": 0.25}
    assert data.prediction_settings("instance") == {"threshold": 0.0, "mask_threshold": 0.25}
    with pytest.raises(ValueError, match=r"--threshold has no effect on semantic segmentation; nothing like it has"):
        data.prediction_settings("semantic")
    _, data, _ = parse_arguments(["--top_k", "5"])
    assert data.prediction_settings("instance") == {"top_k": 5}
    with pytest.raises(
        ValueError, match=r"--top_k has no effect on panoptic segmentation; these have: threshold, mask_"
    ):
        data.prediction_settings("panoptic")
    assert parse_arguments([])[1].prediction_settings("semantic") == {}

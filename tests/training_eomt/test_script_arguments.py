"""Recipes set arguments, and the command line comes on top."""

from pathlib import Path

import pytest
import yaml

from training_eomt.script_arguments import parse_arguments


RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_sets_what_it_says_and_the_command_line_comes_on_top(recipe):
    content = yaml.safe_load(recipe.read_text())
    assert content.pop("report_to") == "none"  # becomes an empty list
    everything = parse_arguments(["--recipe", str(recipe), "--output_dir", "x"])
    merged = {name: value for arguments in everything for name, value in vars(arguments).items()}
    for name, value in content.items():
        found = merged[name]
        assert (found.value if hasattr(found, "value") else found) in (value, [value]), name
    _, _, training = parse_arguments(["--recipe", str(recipe), "--output_dir", "x", "--max_steps", "7"])
    assert training.max_steps == 7 and training.output_dir == "x"


def test_a_misspelt_recipe_is_refused_with_a_suggestion(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rat: 0.1\n")
    with pytest.raises(
        ValueError, match=r"recipe\.yaml: there is no argument 'learning_rat'. Did you mean 'learning_"
    ):
        parse_arguments(["--recipe", str(recipe)])

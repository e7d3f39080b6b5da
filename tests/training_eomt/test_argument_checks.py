"""Numbers outside their range never get anywhere."""

import math

import numpy as np
import pytest

from training_eomt.argument_checks import RANGES, check_ranges
from training_eomt.script.arguments import DataArguments, ModelArguments
from training_eomt.script.command_line import outline_training_arguments, parse_arguments
from training_eomt.training_arguments import EomtTrainingArguments


@pytest.mark.parametrize("name", RANGES)
def test_no_argument_takes_what_is_not_a_finite_number(name):
    for value in (math.nan, math.inf, -math.inf, "fast", True, [1.0, math.nan], 1e300, -(10**400)):
        with pytest.raises(ValueError, match=rf"^--{name} .*: (it must|there must)"):
            check_ranges({name: value})
    check_ranges({name: None})  # is not given


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("learning_rate", [0, 1e-4, 1], [-1e-9]),
        ("layer_decay", [0.8, 1], [0, 1.01]),
        ("adam_beta2", [0, 0.999], [1, -0.1]),
        ("adam_epsilon", [1e-8], [0]),
        ("max_grad_norm", [0, 0.01], [-1]),
        ("ema_decay", [0.999], [0, 1]),
        ("num_train_epochs", [0.5, 12], [0, -1]),
        ("max_steps", [-1, 1, 400], [0, -2, 1.5]),
        ("save_steps", [1, 500, 0.1], [0, -1, 1.5]),
        ("new_parameters_warmup_steps", [0, 0.1, 500], [-1, 1.5]),
        ("mask_annealing_ends", [0.5, 1, 3000], [-0.1, 1.5]),
        ("per_device_eval_batch_size", [1], [0, -1, 1.0]),
        ("save_total_limit", [1], [0, -1]),
        ("seed", [0, 2**32 - 1], [-1, 2**32]),
        ("image_size", [1, 640], [0, -16, 10**6]),
        ("num_queries", [1, np.int64(200)], [0, 10**9]),
        ("train_val_split", [0.1, 5, 5.0], [0, 1.5, -3]),
        ("scale_range", [[0.1, 2.0]], [0, [0.0, 1.0]]),
        ("dataloader_num_workers", [0, 8], [-1]),
    ],
)
def test_each_range_is_the_one_that_makes_sense(name, allowed, refused):
    for value in allowed:
        check_ranges({name: value})
    for value in refused:
        with pytest.raises(ValueError, match=f"--{name}"):
            check_ranges({name: value})


def test_every_number_that_can_be_given_has_a_range():
    ours, theirs = outline_training_arguments()
    numbers = {name for name, found in {**ours, **theirs}.items() if found.kind in (int, float)}
    # The launcher sets one; the others are refused, since they have no effect.
    assert numbers - set(RANGES) == {"local_rank", "neftune_noise_alpha", "data_seed"}


def test_ranges_hold_for_command_lines_recipes_and_python(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: .inf\n")
    for words in (["--learning_rate", "inf"], ["--recipe", str(recipe)]):
        with pytest.raises(ValueError, match="--learning_rate inf: it must be a number from 0 to 100"):
            parse_arguments(words)
    with pytest.raises(ValueError, match="--weight_decay nan"):
        EomtTrainingArguments(output_dir=str(tmp_path), weight_decay=math.nan, use_cpu=True)
    with pytest.raises(ValueError, match="--image_size 0"):
        DataArguments(image_size=[0])
    with pytest.raises(ValueError, match="--num_blocks -1"):
        ModelArguments(num_blocks=-1)

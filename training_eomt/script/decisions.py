"""The choices that a run makes when its arguments do not, and warnings of odd arguments."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import IntervalStrategy

from ..mask_annealing import mask_probabilities
from ..trainer import EomtTrainer
from ..training_arguments import EomtTrainingArguments


MAX_EVALUATIONS = 20  # during a training that does not say when to evaluate


def count_steps(arguments: EomtTrainingArguments, num_samples: int) -> int:
    """Returns the optimiser steps of a training on so many samples."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    return math.ceil(arguments.num_train_epochs * _steps_per_epoch(arguments, num_samples))


def _steps_per_epoch(arguments: EomtTrainingArguments, num_samples: int) -> int:
    return max(num_samples // arguments.images_per_step, 1)  # see `DrawSampler`


def schedule_evaluations(arguments: EomtTrainingArguments, num_samples: int) -> None:
    """Evaluates after each epoch of the training, or `MAX_EVALUATIONS` times if there are more epochs."""
    epochs = count_steps(arguments, num_samples) / _steps_per_epoch(arguments, num_samples)
    if epochs <= MAX_EVALUATIONS:
        arguments.eval_strategy = IntervalStrategy.EPOCH
    else:
        arguments.eval_strategy, arguments.eval_steps = IntervalStrategy.STEPS, 1 / MAX_EVALUATIONS


def find_last_evaluation(trainer: EomtTrainer) -> dict[str, float]:
    """
    Returns the metrics of an evaluation during training of the weights that the trainer has now; empty without one.

    `trainer.per_class` then belongs to them.
    """
    state = trainer.state
    logged = [entry for entry in state.log_history if "eval_loss" in entry]
    has_other_weights = trainer.args.load_best_model_at_end and state.best_global_step != state.global_step
    has_masks = any(trainer.bare_model.mask_probabilities)  # evaluation during training is without
    if not (logged and trainer.per_class) or logged[-1]["step"] != state.global_step or has_other_weights or has_masks:
        return {}
    return {name: value for name, value in logged[-1].items() if name != "step"}


def find_odd_settings(trainer: EomtTrainer, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a line for each setting of a training that is allowed and seldom meant, before the training."""
    arguments, config = trainer.args, trainer.bare_model.config
    lines = []
    counts: Mapping[int, int] = reports["train"]["pictures_by_segments"] if "train" in reports else {}
    too_many = sum(images for segments, images in counts.items() if segments > config.num_queries)
    if too_many:
        lines.append(
            f"{too_many / sum(counts.values()):.1%} of the training images have more segments than the "
            f"{config.num_queries} that the model can find (--num_queries), up to {max(counts)}: not all are learned."
        )
    dataset: Any = trainer.train_dataset
    steps = count_steps(arguments, len(dataset))
    if arguments.mask_annealing:
        schedule = arguments.annealing_schedule(steps, config.num_blocks)
        left = mask_probabilities(steps, *schedule)
        if any(left):
            lines.append(
                f"Masks are left when the training ends after {steps} steps, since mask_annealing_ends is "
                f"{schedule[1]}: their probabilities are then {', '.join(f'{value:.2f}' for value in left)}, while "
                "evaluation during training is without masks."
            )
    warmup = sum(arguments.warmup_stages(steps))
    if warmup > steps:
        lines.append(f"The warm-up takes {warmup} steps, more than the {steps} of the whole training.")
    return lines

"""What a run decides where nobody said it, and what it finds odd in what was said."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import IntervalStrategy

from ..mask_annealing import mask_probabilities
from ..trainer import EomtTrainer
from ..training_arguments import EomtTrainingArguments


MAX_EVALUATIONS = 20  # during a training that does not say when to evaluate


def total_steps(arguments: EomtTrainingArguments, num_samples: int) -> int:
    """Optimiser steps of a training on so many samples."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    return math.ceil(arguments.num_train_epochs * _steps_per_epoch(arguments, num_samples))


def _steps_per_epoch(arguments: EomtTrainingArguments, num_samples: int) -> int:
    return max(num_samples // arguments.images_per_step, 1)  # see `DrawSampler`


def evaluate_now_and_then(arguments: EomtTrainingArguments, num_samples: int) -> None:
    """Has the training evaluate after each epoch, or, where there are very many of them, `MAX_EVALUATIONS` times."""
    epochs = total_steps(arguments, num_samples) / _steps_per_epoch(arguments, num_samples)
    if epochs <= MAX_EVALUATIONS:
        arguments.eval_strategy = IntervalStrategy.EPOCH
    else:
        arguments.eval_strategy, arguments.eval_steps = IntervalStrategy.STEPS, 1 / MAX_EVALUATIONS


def last_evaluation(trainer: EomtTrainer) -> dict[str, float]:
    """
    The metrics of an evaluation during training of the very weights that the trainer now has; empty if there is none.

    `trainer.per_class` then belongs to them.
    """
    state = trainer.state
    logged = [entry for entry in state.log_history if "eval_loss" in entry]
    has_other_weights = trainer.args.load_best_model_at_end and state.best_global_step != state.global_step
    has_masks = any(trainer.bare_model.mask_probabilities)  # during training it is measured without
    if not (logged and trainer.per_class) or logged[-1]["step"] != state.global_step or has_other_weights or has_masks:
        return {}
    return {name: value for name, value in logged[-1].items() if name != "step"}


def odd_settings(trainer: EomtTrainer, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """
    What in the settings of a training is allowed and seldom meant, a line for each.

    Args:
        trainer: before the training.
        reports: "train" -> `DataReport.as_dict()`.
    """
    arguments, config = trainer.args, trainer.bare_model.config
    lines = []
    counts: Mapping[int, int] = reports["train"]["pictures_by_segments"] if "train" in reports else {}
    too_many = sum(pictures for segments, pictures in counts.items() if segments > config.num_queries)
    if too_many:
        lines.append(
            f"{too_many / sum(counts.values()):.1%} of the training pictures have more segments than the "
            f"{config.num_queries} that the model can find (--num_queries), up to {max(counts)}: not all are learnt."
        )
    dataset: Any = trainer.train_dataset
    steps = total_steps(arguments, len(dataset))
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

"""Mask annealing: masked attention in training fades out block by block, so that inference needs none.

Section 3.3 of the paper: without masks in training the model is worse, with masks at inference it is slow. So each
query block starts with masks and loses them over a sixth of training, earliest block first.
"""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState


def default_schedule(total_steps: int, num_blocks: int) -> tuple[list[int], list[int]]:
    """
    Returns when each query block loses its masks: starts spread evenly from 1/6 to 4/6 of training, each lasting 1/6.

    Args:
        total_steps: optimiser steps of the whole training.
        num_blocks: number of query blocks.

    Returns:
        First and last step of each block's annealing, earliest block first. The last sixth of training is mask-free.
    """
    spacing = 3 / max(num_blocks - 1, 1)  # in sixths of training
    starts = [1 + block * spacing for block in range(num_blocks)]
    return (
        [round(start * total_steps / 6) for start in starts],
        [round((start + 1) * total_steps / 6) for start in starts],
    )


def mask_probabilities(
    step: int, start_steps: Sequence[int], end_steps: Sequence[int], power: float = 0.9
) -> list[float]:
    """
    Returns each query block's probability of masking: 1 until its start, `(1 - progress) ** power` to its end, then 0.

    Args:
        step: optimiser steps done so far.
        start_steps, end_steps: first and last step of each block's annealing.
        power: exponent of the decay.

    Raises:
        ValueError: lists of different lengths, or an end before its start.
    """
    if len(start_steps) != len(end_steps):
        raise ValueError(f"One start and one end per query block: got {list(start_steps)} and {list(end_steps)}.")
    probabilities = []
    for start, end in zip(start_steps, end_steps, strict=True):
        if end < start:
            raise ValueError(f"Mask annealing cannot end at step {end} before it starts at step {start}.")
        if step >= end:
            probabilities.append(0.0)
        elif step <= start:
            probabilities.append(1.0)
        else:
            probabilities.append((1.0 - (step - start) / (end - start)) ** power)
    return probabilities


class MaskAnnealingCallback(TrainerCallback):
    """Sets a model's mask probabilities before every training step, from the step number alone.

    A run that is stopped and resumed therefore goes through the same probabilities as one that is not.
    """

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._set(args, state, **kwargs)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._set(args, state, **kwargs)

    @staticmethod
    def _set(args: Any, state: TrainerState, model: Any = None, **kwargs: Any) -> None:
        model = getattr(model, "module", model)
        schedule = args.annealing_schedule(state.max_steps, model.config.num_blocks)
        model.set_mask_probabilities(mask_probabilities(state.global_step, *schedule))

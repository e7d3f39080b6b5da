"""Ends a training that does not get better."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState


class EarlyStop(TrainerCallback):
    """
    Ends a training after so many evaluations in a row of which none was better than the best before them.

    Evaluations count from when no masks are left in training: what is measured is a model without. Everything is read
    off the log, so a training that was stopped and resumed ends at the same step.

    Args:
        patience: number of evaluations.

    Raises:
        ValueError: at the beginning of a training that is not evaluated.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.eval_strategy == "no":
            raise ValueError("early_stopping_patience counts evaluations, and eval_strategy is no: give another.")

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        first_step = 0
        if args.mask_annealing:
            num_blocks = getattr(model, "module", model).config.num_blocks
            first_step = max(args.annealing_schedule(state.max_steps, num_blocks)[1])
        sign = 1 if args.greater_is_better else -1
        values = [sign * entry[name] for entry in state.log_history if name in entry and entry["step"] >= first_step]
        if len(values) > self.patience and max(values[-self.patience :]) <= max(values[: -self.patience]):
            control.should_training_stop = True

"""What a training says while it runs: a line for each log, a bar with the time that is left, TensorBoard."""

from collections.abc import Mapping
from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .evaluation import select_results


def log_line(state: TrainerState, logs: Mapping[str, Any]) -> str | None:
    """
    One readable line for an entry of the log; None for one that says nothing new. A mean over nothing is not in it.

    Args:
        state: of the Trainer.
        logs: the entry: of a training step, or of an evaluation.
    """
    where = f"step {state.global_step}/{state.max_steps}"
    if "loss" in logs:
        parts = [f"loss {logs['loss']:.3f}"]
        names = {"mask": "loss_mask", "dice": "loss_dice", "class": "loss_cross_entropy"}
        terms = [f"{short} {logs[name]:.3f}" for short, name in names.items() if name in logs]
        parts += [f"({', '.join(terms)})"] if terms else []
        parts += [f"gradient {logs['grad_norm']:.2f}"] if "grad_norm" in logs else []
        rates = [value for name, value in logs.items() if name.startswith("learning_rate")]
        parts += [f"rate {max(rates):.2e}"] if rates else []
        probabilities = [f"{value:.2f}" for name, value in logs.items() if name.startswith("mask_probability_")]
        parts += [f"masks {' '.join(probabilities)}"] if probabilities else []
        return f"{where}  {'  '.join(parts)}"
    if "eval_loss" not in logs:
        return None
    measured = {**select_results(logs), "loss": logs["eval_loss"]}
    return f"{where}  evaluation: " + "  ".join(f"{name} {value:.3f}" for name, value in measured.items())


class LogLine(TrainerCallback):
    """Prints a line for each entry of the log."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        line = log_line(state, logs or {})
        if line and state.is_local_process_zero:
            tqdm.write(line)


class ProgressBar(ProgressCallback):
    """A bar with the time that is left and the current loss, below a line for each entry of the log."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        line = log_line(state, logs or {})
        if line:
            tqdm.write(line)
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


def tensorboard_writer(callback_handler: Any) -> Any:
    """The writer of Transformers' TensorBoard callback, if it is there and has begun."""
    writers = (getattr(callback, "tb_writer", None) for callback in callback_handler.callbacks)
    return next((writer for writer in writers if writer is not None), None)

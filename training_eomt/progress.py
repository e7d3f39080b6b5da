"""The progress of a training: a line for each log, a bar with the remaining time, TensorBoard."""

from collections.abc import Mapping
from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerState

from .evaluation import select_results


LOSS_TERMS = {"mask": "loss_mask", "dice": "loss_dice", "class": "loss_cross_entropy"}  # by their short names


def log_line(state: TrainerState, logs: Mapping[str, Any]) -> str | None:
    """
    Formats an entry of the log as a line; None for one that says nothing new. Means over nothing are left out.

    Args:
        state: of the Trainer.
        logs: the entry, of a training step or of an evaluation.
    """
    where = f"step {state.global_step}/{state.max_steps}"
    if "loss" in logs:
        parts = [f"loss {logs['loss']:.3f}"]
        terms = [f"{short} {logs[name]:.3f}" for short, name in LOSS_TERMS.items() if name in logs]
        parts += [f"({', '.join(terms)})"] if terms else []
        parts += [f"gradient {logs['grad_norm']:.2f}"] if "grad_norm" in logs else []
        rates = [value for name, value in logs.items() if name.startswith("learning_rate")]
        parts += [f"rate {max(rates):.2e}"] if rates else []
        probabilities = [f"{value:.2f}" for name, value in logs.items() if name.startswith("mask_probability_")]
        parts += [f"masks {' '.join(probabilities)}"] if probabilities else []
        return f"{where}  {'  '.join(parts)}"
    losses = [name for name in logs if name.startswith("eval_") and name.endswith("_loss")]
    measured = {**select_results(logs), **{name.removeprefix("eval_"): logs[name] for name in losses}}
    if not measured:
        return None
    return f"{where}  evaluation: " + "  ".join(f"{name} {value:.3f}" for name, value in measured.items())


class LogLine(TrainerCallback):
    """Prints a line for each entry of the log."""

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = log_line(state, logs or {})
        if line and state.is_local_process_zero:
            tqdm.write(line)


class ProgressBar(ProgressCallback):
    """Shows a bar with the remaining time and the current loss, below a line for each entry of the log."""

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        line = log_line(state, logs or {})
        if line:
            tqdm.write(line)
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


def tensorboard_writer(callback_handler: Any) -> Any:
    """Returns the writer of Transformers' TensorBoard callback; None if there is none yet."""
    writers = (getattr(callback, "tb_writer", None) for callback in callback_handler.callbacks)
    return next((writer for writer in writers if writer is not None), None)

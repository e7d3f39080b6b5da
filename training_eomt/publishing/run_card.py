"""What a training run adds to a model card: data, settings, curves and results, from what the run has recorded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from transformers import TrainerState

from ..card import write_card
from ..disk import write_whole
from ..evaluation import select_results
from ..progress import LOSS_TERMS
from ..run_files import CONFUSION_PNG, CURVES
from ..tasks import TASKS
from ..text import markdown_text
from ..trainer import EomtTrainer
from ..training_arguments import EomtTrainingArguments


_ARGUMENTS = (
    "learning_rate",
    "layer_decay",
    "decay_query_blocks",
    "weight_decay",
    "max_grad_norm",
    "poly_power",
    "ema_decay",
    "freeze_backbone",
    "freeze_layers",
    "bf16",
    "fp16",
    "gradient_checkpointing",
    "seed",
)


def write_run_card(
    trainer: EomtTrainer,
    *,
    data_reports: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, float],
    per_class: Mapping[str, Mapping[str, Any]],
    base_model: str | None,
    dataset: str | None,
) -> None:
    """
    Writes the curves and the card of a training into its output folder, where the model was saved. A card that a
    person has changed stays.

    Args:
        trainer: with the arguments and the log of the run.
        data_reports: "train" and "validation" -> `DataReport.as_dict()`.
        metrics: of the evaluation, empty if there was none.
        per_class: class name -> values.
        base_model: what the training started from; None for nothing.
        dataset: what the data are called.
    """
    folder, headline = Path(str(trainer.args.output_dir)), TASKS[trainer.image_processor.task].headline
    run = {
        "data": data_reports,
        "training": _describe_training(trainer.state, trainer.args, trainer.bare_model.config.num_blocks, base_model),
        "headline": headline,
        "curves": CURVES if draw_curves(trainer.state.log_history, headline, folder / CURVES) else None,
        "per_class": per_class,
        "columns": [name for name, value in next(iter(per_class.values()), {}).items() if isinstance(value, float)],
        "confusion_matrix": CONFUSION_PNG if (folder / CONFUSION_PNG).is_file() else None,
    }
    is_on_hub = base_model is not None and not Path(base_model).exists()
    write_card(
        folder,
        trainer.args.hub_model_id,
        results=select_results(metrics) or None,
        base_model=base_model if is_on_hub else None,
        datasets=[dataset] if dataset else [],
        run=run,
    )


def _describe_training(
    state: TrainerState, arguments: EomtTrainingArguments, num_blocks: int, base_model: str | None
) -> dict[str, Any]:
    """Returns the rows of the table about a training: field -> value."""
    rows: dict[str, Any] = {
        "Started from": markdown_text(base_model) if base_model else "nothing",
        "Steps": state.global_step,
        "Epochs": f"{state.epoch or 0:.2f}",
        "Images per step": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        "Devices": arguments.world_size * max(1, arguments.n_gpu),
        "Warm-up": "{} steps of new parameters, then {} of the ViT".format(*arguments.warmup_stages(state.max_steps)),
    }
    if arguments.mask_annealing:
        starts, ends = arguments.annealing_schedule(state.max_steps, num_blocks)
        spans = ", ".join(f"{start}-{end}" for start, end in zip(starts, ends, strict=True))
        rows["Masks fade out in steps"] = spans
    runtime = next((entry["train_runtime"] for entry in reversed(state.log_history) if "train_runtime" in entry), None)
    if runtime is not None:
        is_resumed = str(arguments.resume_from_checkpoint or "false").lower() != "false"
        rows["Time since it was resumed" if is_resumed else "Time"] = f"{runtime / 60:.1f} minutes"
    return rows | {
        f"`{name}`": getattr(arguments, name) for name in _ARGUMENTS if getattr(arguments, name) is not None
    }


def draw_curves(log: Sequence[Mapping[str, Any]], headline: str, path: Path) -> bool:
    """
    Draws the loss terms and, where the training was evaluated, the headline metric over the steps to a PNG file.

    Returns:
        Whether there was anything to draw.
    """
    losses = [entry for entry in log if all(name in entry for name in LOSS_TERMS.values())]
    evaluations = [entry for entry in log if f"eval_{headline}" in entry]
    if not losses:
        return False
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 3.5), layout="constrained")
        axes = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
        for label, name in LOSS_TERMS.items():
            axes[0].plot([entry["step"] for entry in losses], [entry[name] for entry in losses], label=label)
        axes[0].set(xlabel="step", ylabel="loss terms of the last prediction", yscale="log")
        axes[0].legend(frameon=False)
        if evaluations:
            steps, values = zip(*((entry["step"], entry[f"eval_{headline}"]) for entry in evaluations), strict=True)
            axes[1].plot(steps, values, marker="o")
            axes[1].set(xlabel="step", ylabel=headline, ylim=(0, None))
        write_whole(path, lambda draft: figure.savefig(draft, dpi=100, format="png"))
    return True

"""The arguments of a training, and their defaults, beside those of every `Trainer`."""

import json
import os
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import logging

from .argument_checks import argument, check_names, check_ranges
from .mask_annealing import default_schedule


# Arguments of every Trainer that have no effect here, and what to do instead.
_WITHOUT_EFFECT = {
    "warmup_steps": "use new_parameters_warmup_steps and backbone_warmup_steps",
    "lr_scheduler_type": "the learning rate decays with (1 - progress) ** poly_power",
    "lr_scheduler_kwargs": "the learning rate decays with (1 - progress) ** poly_power",
    "data_seed": "seed also decides about the order of the images",
    "label_smoothing_factor": "the loss has no smoothed labels",
    "train_sampling_strategy": "every epoch goes through the images in another random order",
    "neftune_noise_alpha": "there are no embeddings of words",
}


@dataclass(repr=False)  # Transformers' own hides the Hub's token
class EomtTrainingArguments(TrainingArguments):
    """
    [`TrainingArguments`] with the published recipe as default. Steps follow from the length of training.

    Raises:
        ValueError: a number out of its range, settings that do not fit each other or this machine or would have no
            effect here.
    """

    learning_rate: float = argument(1e-4, "Learning rate of the last block and of everything new.")
    weight_decay: float = argument(0.05, "Weight decay of every parameter.")
    max_grad_norm: float = argument(0.01, "Norm to which gradients are clipped.")
    layer_decay: float = argument(0.8, "Factor on the learning rate per block, from the last to the first.")
    decay_query_blocks: bool = argument(True, "Whether the blocks that process the queries decay too.")
    new_parameters_warmup_steps: float | None = argument(
        None,
        "Warm-up of everything new while the ViT stands still: steps, or a fraction of training below 1. Default: "
        "500 steps, at most a twentieth of training.",
    )
    backbone_warmup_steps: float | None = argument(
        None,
        "Warm-up of the ViT afterwards: steps, or a fraction of training below 1. Default: 1000 steps, at most a "
        "tenth of training.",
    )
    poly_power: float = argument(0.9, "Exponent of the learning rate's polynomial decay.")
    mask_annealing: bool = argument(
        True,
        "Whether masked attention fades out block by block; otherwise masks stay as in the model.",
    )
    mask_annealing_starts: list[float] | None = argument(
        None,
        "When each query block, earliest first, begins to lose its masks: steps, or fractions of training below 1. "
        "Default: evenly from 1/6 to 4/6 of training.",
    )
    mask_annealing_ends: list[float] | None = argument(
        None,
        "When each query block has lost its masks: steps, or fractions of training, 1 being its end. Default: a "
        "sixth of training after its start.",
    )
    total_batch_size: int | None = argument(
        None,
        "Images per optimiser step over all devices, accumulated where they do not fit at once: "
        "per_device_train_batch_size then is the most that a device takes at a time. Default: "
        "per_device_train_batch_size x gradient_accumulation_steps x devices.",
    )
    ema_decay: float | None = argument(
        None,
        "Keep a moving average of the weights with this decay, such as 0.999: what is evaluated and saved is the "
        "average. Default: none.",
    )
    freeze_backbone: bool = argument(False, "Train only what EoMT adds to the ViT.")
    freeze_layers: int = argument(0, "Do not train the ViT's embeddings and this many of its first blocks.")
    dataloader_num_workers: int | None = argument(  # type: ignore[assignment]  # an int from `__post_init__` on
        None,
        "Processes per device that prepare images ahead of time. Default: on an accelerator as many as there are "
        "cores for it, at most 8; on a CPU none, for they would take the model's cores.",
    )
    early_stopping_patience: int | None = argument(
        None,
        "Stop after so many evaluations in a row without a better one, counted from when no masks are left in "
        "training. Default: never.",
    )
    logging_steps: float = argument(
        0.01,
        "Log every so many steps, or, below 1, after each such fraction of training.",
    )
    eval_strategy: str | None = argument(  # type: ignore[assignment]  # never None from `__post_init__` on
        None,
        "When to evaluate during training: no, steps or epoch. Default: run_segmentation.py evaluates after each "
        "epoch with --do_eval, at most 20 times.",
    )
    report_to: None | str | list[str] = argument(  # noqa: RUF036 - the order that HfArgumentParser reads
        "tensorboard",
        "Where curves and images go: tensorboard, none, or what else Transformers reports to.",
    )
    logging_nan_inf_filter: bool = argument(
        False,
        "Hide losses that are not finite. Here they end the training instead.",
    )
    ddp_find_unused_parameters: bool | None = argument(
        False,
        "Every parameter is used in every step, so there is nothing to look for.",
    )
    remove_unused_columns: bool = argument(False, "Has no effect: nothing is removed.")

    def __post_init__(self) -> None:
        check_ranges(vars(self))
        if isinstance(self.parallelism_config, str):
            raise ValueError("parallelism_config can be given in Python only, as an object.")
        if isinstance(self.accelerator_config, str) and self.accelerator_config.startswith("{"):
            self.accelerator_config = json.loads(self.accelerator_config)
        if isinstance(self.accelerator_config, dict):
            known = {field.name: field for field in fields(AcceleratorConfig)}
            check_names(self.accelerator_config, known, "accelerator_config")
        self.names_output_dir = self.output_dir is not None  # Trainer has a folder of its own for who names none
        self.names_best_metric = self.metric_for_best_model is not None  # otherwise EomtTrainer knows the task's
        self.evaluates_by_default = False
        if self.eval_strategy is None and self.eval_steps is not None:
            self.eval_strategy = "steps"
        if self.eval_strategy is None:
            # The best checkpoint is one that was evaluated.
            is_matched = self.load_best_model_at_end and self.save_strategy in ("steps", "epoch")
            self.evaluates_by_default = not is_matched
            self.eval_strategy, self.eval_steps = (self.save_strategy, self.save_steps) if is_matched else ("no", None)
        elif self.eval_strategy == "steps" and self.eval_steps is None:
            self.eval_steps = 500  # not as often as it is logged
        on_accelerator = torch.accelerator.is_available() and not self.use_cpu
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = _cores_per_process(at_most=8) if on_accelerator else 0
        if self.accelerator_config is None and on_accelerator and self.dataloader_pin_memory:
            self.accelerator_config = {"non_blocking": True}  # the next batch is copied while a step runs
        self._meet_other_processes()
        super().__post_init__()
        for name, instead in _WITHOUT_EFFECT.items():
            if getattr(self, name, None) not in (None, getattr(type(self), name, None)):
                raise ValueError(f"{name}={getattr(self, name)} has no effect here: {instead}.")
        for name in ("log_level", "log_level_replica"):
            if (level := getattr(self, name)) not in (levels := (*logging.get_log_levels_dict(), "passive")):
                raise ValueError(f"{name} is {level!r}: it must be one of {', '.join(levels)}.")
        available = get_available_reporting_integrations()
        if unknown := [name for name in self.report_to or [] if name not in available]:
            raise ValueError(
                f"report_to={unknown[0]}: there is no such tracker, or it is not installed. There are "
                f"{', '.join(available)} and none."
            )

        if self.device.type == "cpu":
            if self.fp16 or self.fp16_full_eval:
                raise ValueError("fp16 needs an accelerator, and there is none: set it to false.")
            self.dataloader_pin_memory = False  # there is nowhere to copy to
        if self.total_batch_size is not None:
            self._divide_total_batch(self.total_batch_size)
        if (self.mask_annealing_starts is None) != (self.mask_annealing_ends is None):
            raise ValueError("mask_annealing_starts and mask_annealing_ends go together: give both or none.")
        if self.ema_decay is not None and self.fsdp:
            raise ValueError("ema_decay cannot be used with fsdp: the average is kept whole on every device.")

    def __getstate__(self) -> dict[str, Any]:
        """Saves everything but the Hub's token beside checkpoints."""
        return {**vars(self), "hub_token": None}

    def _meet_other_processes(self) -> None:
        """Waits for the other processes of a training on CPUs: Transformers would do so without a limit of time."""
        is_one_of_several = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
        if not (self.use_cpu and is_one_of_several) or torch.distributed.is_initialized():
            return
        limit = timedelta(seconds=self.ddp_timeout)
        try:
            torch.distributed.init_process_group(self.ddp_backend or "gloo", timeout=limit)
        except RuntimeError as error:
            raise TimeoutError(
                f"Process {os.environ['RANK']} did not meet the others within {limit} (ddp_timeout): {error}"
            ) from error

    def _divide_total_batch(self, total: int) -> None:
        """Sets batch size and accumulation so that all devices together take `total` images in a step."""
        if self.gradient_accumulation_steps != 1:
            raise ValueError("total_batch_size says how much is accumulated: leave out gradient_accumulation_steps.")
        devices = self.world_size * max(1, self.n_gpu)
        if total % devices:
            raise ValueError(f"total_batch_size={total} cannot be shared evenly by {devices} devices.")
        per_device = total // devices
        at_once = min(per_device, self.per_device_train_batch_size)
        while per_device % at_once:
            at_once -= 1
        self.per_device_train_batch_size = at_once
        self.gradient_accumulation_steps = per_device // at_once

    @property
    def images_per_step(self) -> int:
        """Images in an optimiser step, over all devices."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def annealing_schedule(self, total_steps: int, num_blocks: int) -> tuple[list[int], list[int]]:
        """Returns the first and last step of each query block's annealing in a training of that length.

        Raises:
            ValueError: not one start and one end for every query block.
        """
        starts, ends = self.mask_annealing_starts, self.mask_annealing_ends
        if starts is None or ends is None:
            return default_schedule(total_steps, num_blocks)
        if not len(starts) == len(ends) == num_blocks:
            raise ValueError(
                f"The model has {num_blocks} query blocks: mask_annealing_starts and mask_annealing_ends need as many "
                f"values each, got {starts} and {ends}."
            )
        last_steps = [total_steps if end == 1 else _as_steps(end, total_steps) for end in ends]
        return [_as_steps(start, total_steps) for start in starts], last_steps

    def warmup_stages(self, total_steps: int) -> tuple[int, int]:
        """Returns the steps of the new parameters' warm-up and of the ViT's, in a training of that length."""

        def steps(given: float | None, published: int, at_most: float) -> int:
            if given is None:
                return min(published, round(total_steps * at_most))
            return _as_steps(given, total_steps)

        return steps(self.new_parameters_warmup_steps, 500, 1 / 20), steps(self.backbone_warmup_steps, 1000, 1 / 10)


def _cores_per_process(at_most: int) -> int:
    """Returns the cores of this machine for each training process on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(at_most, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _as_steps(given: float, total_steps: int) -> int:
    """Converts steps, or a fraction of training below 1, to steps."""
    return round(total_steps * given) if given < 1 else int(given)

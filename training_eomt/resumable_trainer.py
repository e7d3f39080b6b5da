"""The life of a training: resumed, saved, stopped, and never with weights that are not finite."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from . import resuming
from . import saved_checkpoints as checkpoints
from .ema import WeightAverage
from .finiteness import GradientNorms, check_finite_weights
from .folders import CONFIG, DRAFT, disk_errors, draft_folder, publish_draft
from .publishing.card import write_card
from .sampling import DrawSampler
from .stopping import StopRequest, let_workers_go_on
from .training_arguments import EomtTrainingArguments


class ResumableTrainer(Trainer):
    """
    A [`Trainer`] whose trainings may be stopped or killed at any moment, and go on as if they had not been.

    What it takes is what `Trainer` takes, and:
        args: [`EomtTrainingArguments`].
        train_dataset: [`TrainingInputs`].
    """

    args: EomtTrainingArguments
    train_dataset: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_finished = False  # the training that is resumed is at its end
        self.gradient_norms = GradientNorms()
        self.step_images: list[str] = []  # of this process, in the step that is under way
        self.stop_request = StopRequest()
        self.asked_to_stop: torch.Tensor | None = None  # how many of several processes were, before this step
        self._sampler: DrawSampler | None = None
        self._average: WeightAverage | None = None
        self._resumed_from: Path | None = None
        self._settings: dict[str, Any] = {}  # what a training must have in common with one that it goes on with

    def add_lifecycle_callbacks(self) -> None:
        """To be called when all other callbacks are there."""
        self.add_callback(_Hooks(self))
        self.add_callback(self.stop_request)

    @property
    def bare_model(self) -> Any:
        """The model without what Accelerate or a compiler put around it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> DrawSampler:
        total_batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        self._sampler = DrawSampler(len(dataset), total_batch_size, self.args.seed)
        return self._sampler

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        let_workers_go_on(loader)
        return loader

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.accelerator.scaler is None:  # which leaves out steps whose gradients overflow
            self.gradient_norms.add(self.state.global_step + 1, self.step_images, norm)
        return norm

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> Any:
        """
        As `Trainer.train`. `resume_from_checkpoint=True` goes on from the last complete checkpoint in the output
        folder; what an interrupted run left of a later one is removed. A training that is at its end is left there.

        Raises:
            ValueError: there is nothing to resume from, or the checkpoint is not complete, damaged, or of another
                training: other data, another length or schedule.
            OSError: a checkpoint cannot be written.
            FloatingPointError: predictions, gradients or weights are not finite.
            Stopped: a signal has ended the training.
        """
        checkpoint = self._checkpoint_to_resume_from(resume_from_checkpoint)
        self._resumed_from, self.is_finished = checkpoint, False
        self.gradient_norms, self.asked_to_stop = GradientNorms(), None
        with self.stop_request.listening(), resuming.without_hints_at_intervals():
            result = super().train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint), **kwargs)
            self.gradient_norms.check()
        if self._average is not None and not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
            self._average.replace_weights()
        self._average = None
        return result

    def _checkpoint_to_resume_from(self, given: str | bool | None) -> Path | None:
        """The checkpoint that `train` was asked to resume from, if it can be; what a killed run left is removed."""
        if not given:
            return None
        if given is True:
            output_dir = str(self.args.output_dir)
            last = checkpoints.last_complete(output_dir)
            if last is None:
                raise ValueError(f"{output_dir} holds no complete checkpoint to resume from.")
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                checkpoints.remove_incomplete(output_dir)
            self.accelerator.wait_for_everyone()
        else:
            last = Path(given)
            if not checkpoints.is_complete(last):
                raise ValueError(f"{last} is not a complete checkpoint.")
        resuming.read_state(last)
        resuming.check_same_model(last, self.bare_model.config)
        if not self.is_deepspeed_enabled:
            resuming.check_files(
                last,
                num_processes=self.args.world_size,
                process_index=self.args.process_index,
                is_sharded=self.is_fsdp_enabled,
                has_scaler=self.accelerator.scaler is not None,
            )
        has_average = resuming.has_average(last)
        if has_average != (self.args.ema_decay is not None):
            how = "with ema_decay: give it again" if has_average else "without ema_decay: leave it out"
            raise ValueError(f"{last} was saved {how}, or start anew.")
        return last

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        values = super().set_initial_training_values(*args, **kwargs)
        total_steps = values[-1]
        self._settings = resuming.settings_of(self, total_steps)
        if self._resumed_from is None:
            return values
        state = resuming.read_state(self._resumed_from)
        resuming.check_same_training(self._resumed_from, state, self._settings)
        self.is_finished = state.global_step >= total_steps or resuming.was_ended(state)
        # Trainer would make one more step of a training that ends within an epoch.
        return (0, *values[1:]) if self.is_finished else values

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with resuming.loading("model", resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        with resuming.loading("best model", str(self.state.best_model_checkpoint)):
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Nothing of a model is left as it was when a checkpoint is loaded."""
        for what, names in (("missing", load_result.missing_keys), ("too many", load_result.unexpected_keys)):
            if names:
                raise ValueError(f"{len(names)} weights are {what}: {', '.join(names[:5])}, ...")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with resuming.loading("state of optimizer or scheduler", str(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
            # A scaler (fp16) leaves out steps.
            if checkpoint is not None and isinstance(self.lr_scheduler, LambdaLR) and self.accelerator.scaler is None:
                step, reached = self.state.global_step, self.lr_scheduler.last_epoch
                if step != reached:
                    raise ValueError(f"which is after step {reached}, while {resuming.STATE} is after step {step}")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with resuming.loading("random state", str(checkpoint)):
            super()._load_rng_state(checkpoint)

    def begin_training(self) -> None:
        """What comes when the model is ready and, if it was stopped before, loaded."""
        model = self.bare_model
        if self._resumed_from is not None:
            self.state.compute_steps(self.args, self.state.max_steps)  # how often to log and save may change
            with resuming.loading("model", self._resumed_from):
                check_finite_weights(model.named_parameters())
        if self.args.ema_decay is None:
            return
        self._average = WeightAverage(model, self.args.ema_decay)
        if self._resumed_from is not None:  # the model that was loaded is the average, which is not what is trained
            with resuming.loading("trained weights", self._resumed_from):
                self._average.load_trained(safetensors.torch.load_file(self._resumed_from / resuming.TRAINED_WEIGHTS))

    def begin_epoch(self) -> None:
        """Chooses the order of the pictures, from the step: not every wrapper passes the epoch on to the sampler."""
        if self._sampler is not None:
            self._sampler.start_at(self.state.global_step)

    def end_step(self) -> None:
        """What comes after the optimiser's step."""
        if self._average is not None:
            self._average.update(self.state.global_step)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.gradient_norms.check()
        checkpoint = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        # Older checkpoints go when this one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with checkpoints.writing(checkpoint, self.args.should_save):
                if self.args.should_save:
                    (checkpoint / resuming.SETTINGS).write_text(json.dumps(self._settings, indent=2) + "\n")
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(
                str(checkpoint.parent), limit, best_model_checkpoint=self.state.best_model_checkpoint, use_mtime=True
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        As `Trainer.save_model`; in training, the model as it is deployed and evaluated. Outside of checkpoints, which
        are marked until they are complete, it takes the place of a former model when it is written to its end.

        Raises:
            FloatingPointError: weights are not finite. Nothing is written.
            OSError: the disk is full, or cannot be written to. A former model stays.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        if checkpoints.is_being_written(folder):
            self._write_model(folder)
        else:
            draft = folder / DRAFT
            with disk_errors(folder), draft_folder(folder) if self.args.should_save else nullcontext():
                self._write_model(draft)
                if self.args.should_save and (draft / CONFIG).is_file():
                    publish_draft(draft, folder)
        if self.args.should_save and (folder / CONFIG).is_file():
            with disk_errors(folder):
                write_card(folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _write_model(self, folder: Path) -> None:
        with self._as_deployed():
            check_finite_weights(self.bare_model.named_parameters())
            super().save_model(str(folder), _internal_call=True)
        if self._average is not None and self.args.should_save:
            trained = {name: value.detach().contiguous() for name, value in self._average.parameters.items()}
            safetensors.torch.save_file(trained, folder / resuming.TRAINED_WEIGHTS)
            shutil.copymode(folder / CONFIG, folder / resuming.TRAINED_WEIGHTS)  # safetensors does not ask the umask

    @contextmanager
    def _as_deployed(self) -> Iterator[None]:
        """The model as it will be in use: without masks where they fade out, with averaged weights."""
        model = self.bare_model
        probabilities = model.mask_probabilities
        if self.is_in_train and self.args.mask_annealing:
            model.set_mask_probabilities([0.0] * len(probabilities))
        try:
            with nullcontext() if self._average is None else self._average.in_place():
                yield
        finally:
            model.set_mask_probabilities(probabilities)

    def check_last_step(self) -> None:
        """What is cheap to ask the device when it was waited for anyway, as in the middle of every forward pass."""
        self.gradient_norms.check()
        self.stop_request.is_agreed = self.asked_to_stop is not None and bool(self.asked_to_stop)


class _Hooks(TrainerCallback):
    """Where the Trainer's loop calls a [`ResumableTrainer`] back."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.end_step()

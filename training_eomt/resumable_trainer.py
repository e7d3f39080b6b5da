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
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from . import checkpoints
from .card import write_card
from .comparison import check_same_model, check_same_training, training_settings
from .ema import WeightAverage
from .finiteness import GradientNorms, check_finite_weights
from .folders import CONFIG, DRAFT, disk_errors, draft_folder, publish_draft
from .inputs import DrawSampler
from .stopping import StopRequest, ignore_signals
from .training_arguments import EomtTrainingArguments


# Arguments that a data loader takes under these names.
_WORKERS = (
    "num_workers",
    "prefetch_factor",
    "persistent_workers",
    "multiprocessing_context",
    "in_order",
    "pin_memory",
)


class ResumableTrainer(Trainer):
    """
    A [`Trainer`] whose trainings may be stopped or killed at any moment, and go on as if they had not been.

    It takes what `Trainer` takes, and:
        args: [`EomtTrainingArguments`].
        train_dataset: [`TrainingInputs`].
    """

    args: EomtTrainingArguments
    train_dataset: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_finished = False  # the training that is resumed is at its end
        self.gradient_norms = GradientNorms()
        self.step_images: list[str] = []  # of this process, in the current step
        self.stop_request = StopRequest()
        self.asked_to_stop: torch.Tensor | None = None  # how many of several processes were, before this step
        self._sampler: DrawSampler | None = None
        self._average: WeightAverage | None = None
        self._resumed_from: Path | None = None
        self._unfinished: Path | None = None  # the checkpoint that is being written
        self._num_kept: int | None = None  # `save_total_limit` while it is being written
        self._settings: dict[str, Any] = {}  # what a training must have in common with the one that it resumes

    def add_lifecycle_callbacks(self) -> None:
        """Adds the callbacks that must come after all others."""
        self.add_callback(_Hooks(self))
        self.add_callback(self.stop_request)

    @property
    def bare_model(self) -> Any:
        """The model without the wrappers of Accelerate and of a compiler."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def get_train_dataloader(self) -> DataLoader:
        """Returns a loader of whole steps, in an order that follows from the seed and the step alone."""
        arguments, dataset = self.args, self.train_dataset
        total_batch_size = self.get_total_train_batch_size(arguments)
        self._sampler = DrawSampler(len(dataset), total_batch_size, arguments.seed)
        options = {name: getattr(arguments, f"dataloader_{name}", None) for name in _WORKERS}
        loader = DataLoader(
            dataset,
            batch_size=total_batch_size // (arguments.gradient_accumulation_steps * arguments.world_size),
            sampler=self._sampler,
            collate_fn=self.data_collator,
            worker_init_fn=ignore_signals,
            **{name: value for name, value in options.items() if value is not None},
        )
        return self.accelerator.prepare(loader)

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(model, *args, **kwargs)
        # A scaler (fp16) leaves out steps whose gradients overflow.
        if self.accelerator.sync_gradients and self.accelerator.scaler is None:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            self.gradient_norms.add(self.state.global_step + 1, self.step_images, norm)
        return loss

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> Any:
        """
        As `Trainer.train`. `resume_from_checkpoint=True` goes on from the last complete checkpoint in the output
        folder; later ones, which a killed run did not complete, are removed. A training that is at its end is left
        there.

        Raises:
            ValueError: there is nothing to resume from, or the checkpoint is not complete, damaged, or of another
                training: other data, another length or schedule.
            OSError: a checkpoint cannot be written.
            FloatingPointError: predictions, gradients or weights are not finite.
            Stopped: a signal has ended the training.
        """
        checkpoint = self._find_checkpoint(resume_from_checkpoint)
        self._resumed_from, self._unfinished, self.is_finished = checkpoint, None, False
        self.gradient_norms, self.asked_to_stop = GradientNorms(), None
        with self.stop_request.listen(), checkpoints.without_hints_at_intervals():
            try:
                result = super().train(
                    resume_from_checkpoint=None if checkpoint is None else str(checkpoint), **kwargs
                )
            except Exception as error:
                if self._unfinished is not None:
                    checkpoints.fail_writing(self._unfinished, error, self.args.should_save)
                raise
            finally:
                self._restore_limit()
            self.gradient_norms.check()
        if self._average is not None and not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
            self._average.replace_weights()
        self._average = None
        return result

    def _find_checkpoint(self, given: str | bool | None) -> Path | None:
        """Returns the checkpoint that `train` was asked to resume from, if it can be; removes incomplete ones."""
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
            if not (last / checkpoints.STATE).is_file():
                raise ValueError(f"{last} is not a complete checkpoint.")
        state = checkpoints.read_state(last)
        check_same_model(last, self.bare_model.config)
        if not self.is_deepspeed_enabled:
            best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
            for folder in [last] if best is None or not Path(best).is_dir() else [last, Path(best)]:
                checkpoints.check_model(folder, self.bare_model, self.is_fsdp_enabled)
            checkpoints.check_course(
                last,
                state.global_step,
                num_processes=self.args.world_size,
                process_index=self.args.process_index,
                is_sharded=self.is_fsdp_enabled,
                has_scaler=self.accelerator.scaler is not None,
            )
        has_average = checkpoints.has_average(last)
        if has_average != (self.args.ema_decay is not None):
            how = "with ema_decay: give it again" if has_average else "without ema_decay: leave it out"
            raise ValueError(f"{last} was saved {how}, or start a new training.")
        return last

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        values = super().set_initial_training_values(*args, **kwargs)
        total_steps = values[-1]
        self._settings = training_settings(self, total_steps)
        if self._resumed_from is None:
            return values
        state = checkpoints.read_state(self._resumed_from)
        check_same_training(self._resumed_from, state, self._settings)
        self.is_finished = state.global_step >= total_steps or checkpoints.was_ended(state)
        # Trainer would make one more step of a training that ends within an epoch.
        return (0, *values[1:]) if self.is_finished else values

    def begin_training(self) -> None:
        """Is called when the model is ready and, if it was stopped before, loaded."""
        model = self.bare_model
        if self._resumed_from is not None:
            self.state.compute_steps(self.args, self.state.max_steps)  # how often to log and save may change
            with checkpoints.loading("model", self._resumed_from):
                check_finite_weights(model.named_parameters())
        if self.args.ema_decay is None:
            return
        self._average = WeightAverage(model, self.args.ema_decay)
        if self._resumed_from is not None:  # the model that was loaded is the average, which is not what is trained
            trained = self._resumed_from / checkpoints.TRAINED_WEIGHTS
            with checkpoints.loading("trained weights", self._resumed_from):
                self._average.load_trained(safetensors.torch.load_file(trained))

    def begin_epoch(self) -> None:
        """Chooses the order of the images, from the step: not every wrapper passes the epoch on to the sampler."""
        if self._sampler is not None:
            self._sampler.start_at(self.state.global_step)

    def end_step(self) -> None:
        """Is called after the optimiser's step."""
        if self._average is not None:
            self._average.update(self.state.global_step)

    def end_checkpoint(self) -> None:
        """Is called when a checkpoint was written; it is complete when all processes have, and old ones go then."""
        self.accelerator.wait_for_everyone()
        self._restore_limit()
        if self._unfinished is not None and self.args.should_save:
            rotate_checkpoints(
                str(self._unfinished.parent),
                self.args.save_total_limit,
                self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self._unfinished = None

    def _restore_limit(self) -> None:
        """Sets `save_total_limit` again after a checkpoint."""
        if self._num_kept is not None:
            self.args.save_total_limit, self._num_kept = self._num_kept, None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        As `Trainer.save_model`; in training, the model as it is deployed and evaluated. Outside of checkpoints, which
        are not used before they are complete, it takes the place of a former model when it is written to its end.

        Raises:
            FloatingPointError: weights are not finite. Nothing is written.
            OSError: the disk is full, or cannot be written to. A former model stays.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        if _internal_call and output_dir is not None:  # Trainer begins a checkpoint
            self.gradient_norms.check()
            self._unfinished = folder
            if self.args.should_save:
                checkpoints.begin(folder)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (folder / checkpoints.SETTINGS).write_text(json.dumps(self._settings, indent=2) + "\n")
            self._write_model(folder)
            if self.is_in_train and self.args.save_total_limit is not None:
                # Trainer would remove old ones as soon as this process has written its part of the new one.
                self._num_kept, self.args.save_total_limit = self.args.save_total_limit, None
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
            safetensors.torch.save_file(trained, folder / checkpoints.TRAINED_WEIGHTS)
            # safetensors does not ask the umask
            shutil.copymode(folder / CONFIG, folder / checkpoints.TRAINED_WEIGHTS)

    @contextmanager
    def _as_deployed(self) -> Iterator[None]:
        """Makes the model what it will be in use: without masks where they fade out, with averaged weights."""
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
        """Does what is cheap when the device was waited for anyway, as in the middle of every forward pass."""
        self.gradient_norms.check()
        self.stop_request.is_agreed = self.asked_to_stop is not None and bool(self.asked_to_stop)


class _Hooks(TrainerCallback):
    """Calls a [`ResumableTrainer`] from the Trainer's loop."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.end_step()

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.end_checkpoint()

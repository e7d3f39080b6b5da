"""The Trainer: layer-wise learning rates, two-stage warm-up, mask annealing, and evaluation as deployed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from modeling_eomt import count_items
from modeling_eomt.random_eomt import StepRandomness

from .card import keep_hub_card, write_card
from .evaluation import RunningEvaluation, run_model
from .figures import as_segments, draw_comparison
from .finiteness import find_not_finite
from .folders import disk_errors
from .inputs import collate
from .mask_annealing import MaskAnnealingCallback
from .optimization import create_scheduler, freeze, layerwise_learning_rates, parameter_groups
from .progress import LogLine, ProgressBar, tensorboard_writer
from .resumable_trainer import ResumableTrainer
from .run_files import DRAWINGS
from .stopping import EarlyStop
from .tasks import TASKS, build_panoptic_reference
from .training_arguments import EomtTrainingArguments


NUM_DRAWN = 4  # images drawn in every evaluation during training


class EomtTrainer(ResumableTrainer):
    """
    Trains an EoMT model as the paper does, and measures it for its processor's task at the images' own size.

    - Steps consist of the same images, with the same random numbers, however many processes share them.
    - While masks fade out in training, evaluation runs without them, as the finished model will. It keeps only the
      statistics that the metric needs. Every evaluation in training draws its first images into the folder
      `evaluation_pictures/step-...` of the output, and for TensorBoard.
    - With `ema_decay` the averaged weights are what is evaluated and saved; a checkpoint holds both.
    - A checkpoint that was not written to its end is never resumed from, and neither is one of another training.
    - SIGINT and SIGTERM finish the step, write a checkpoint and raise [`Stopped`]; a second one raises it at once.
    - `load_best_model_at_end` means the best in PQ, AP or mIoU unless `metric_for_best_model` names something else.
    - Predictions and gradients that are not finite end the training, with the names of the images. Weights that are
      not finite are never saved.

    Args:
        model: an EoMT model.
        args: [`EomtTrainingArguments`].
        processing_class: the image processor; it post-processes predictions and is saved beside the model.
        kwargs: what `Trainer` takes besides: `train_dataset`, [`TrainingInputs`], and `eval_dataset`,
            [`EvaluationInputs`], among others.
    """

    # Of the evaluation that is under way, on this process.
    _evaluation: RunningEvaluation
    _evaluated: Any  # dataset
    _num_drawn: int

    def __init__(self, model: Any, args: EomtTrainingArguments, processing_class: Any, **kwargs: Any):
        freeze(model, args.freeze_backbone, args.freeze_layers)
        keeps_best = args.load_best_model_at_end or args.save_strategy == "best"
        if (keeps_best or args.early_stopping_patience is not None) and not args.names_best_metric:
            args.metric_for_best_model, args.greater_is_better = TASKS[processing_class.task].headline, True
        super().__init__(model=model, args=args, processing_class=processing_class, data_collator=collate, **kwargs)
        self.image_processor = processing_class
        # The loss is averaged over what `get_batch_samples` counts, not first within each accumulated batch.
        self.model_accepts_loss_kwargs = True
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(LogLine if args.disable_tqdm else ProgressBar)
        if args.mask_annealing:
            args.annealing_schedule(1, model.config.num_blocks)  # one for each block, or an error
            self.add_callback(MaskAnnealingCallback())
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStop(args.early_stopping_patience))
        self.add_lifecycle_callbacks()
        self.per_class: dict[int, dict[str, float]] = {}  # of the last evaluation, by label id
        self.confusion_matrix: np.ndarray | None = None  # of the last evaluation
        self._schedule: LRScheduler | None = None  # as it was created here
        self._terms: dict[str, Any] = {}  # loss terms since the last log, summed
        self._logged_at = 0  # step

    # Optimisation

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            rates = layerwise_learning_rates(
                model, self.args.learning_rate, self.args.layer_decay, self.args.decay_query_blocks
            )
            groups = list(parameter_groups(model, rates, self.args.weight_decay))
            self.optimizer = optimizer_class(groups, **optimizer_kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.lr_scheduler is None or self.lr_scheduler is self._schedule:  # of an earlier training
            optimizer = self.create_optimizer() if optimizer is None else optimizer
            warmup_steps = self.args.warmup_stages(num_training_steps)
            self._schedule = create_scheduler(optimizer, num_training_steps, warmup_steps, self.args.poly_power)
            self.lr_scheduler = self._schedule
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The batches of one step, and how many images and masks they hold on all processes, see `count_items`."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step_images = [name for batch in batches for name in batch["file_names"]]
        num_queries = self.bare_model.config.num_queries
        num_items = torch.zeros(2)
        for batch in batches:
            num_items += count_items(batch["class_labels"], num_queries)
        num_items = num_items.to(device)
        if self.args.world_size > 1:
            asked_to_stop = num_items.new_tensor([self.stop_request.number is not None])
            total = self.accelerator.gather(torch.cat([num_items, asked_to_stop])).view(-1, 3).sum(0)
            self.asked_to_stop = total[2]
            if self.args.average_tokens_across_devices:
                num_items = total[:2]
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        file_names = inputs.pop("file_names", [])
        try:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        except FloatingPointError as error:
            images = getattr(error, "images", range(len(file_names)))
            names = ", ".join(file_names[image] for image in images)
            raise FloatingPointError(f"Step {self.state.global_step + 1}, {names}: {error}") from error
        if self.is_in_train:
            self.check_last_step()
        for name, value in outputs["loss_dict"].items():
            # Each is this batch's share of the term's mean over the whole step.
            self._terms[name] = self._terms.get(name, 0.0) + value.detach()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; training's entries also have the loss terms, learning rates and mask probabilities."""
        if self.is_finished:
            return  # nothing was done
        if self._terms and "loss" in logs and self.optimizer is not None:
            terms = torch.stack(list(self._terms.values()))[None]
            if self.args.world_size > 1:
                terms = self.accelerator.gather(terms)
            steps = self.state.global_step - self._logged_at
            logs |= dict(zip(self._terms, (terms.sum(0) / steps).tolist(), strict=True))
            logs |= {f"learning_rate_{group['name']}": group["lr"] for group in self.optimizer.param_groups}
            probabilities = self.bare_model.mask_probabilities
            logs |= {f"mask_probability_{block}": value for block, value in enumerate(probabilities)}
            self._terms, self._logged_at = {}, self.state.global_step
        super().log(logs, start_time)

    def begin_training(self) -> None:
        super().begin_training()
        self._logged_at, self._terms = self.state.global_step, {}

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        # Without this, processes with fewer images would count some of the others' a second time.
        dataloader_config = self.accelerator.dataloader_config
        even_batches, dataloader_config.even_batches = dataloader_config.even_batches, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            dataloader_config.even_batches = even_batches

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        num_labels, stuff_classes = self.bare_model.config.num_labels, self.image_processor.stuff_classes or []
        self._evaluation = RunningEvaluation(self.image_processor.task, num_labels, stuff_classes)
        self._evaluated, self._num_drawn = dataloader.dataset, 0
        self.gradient_norms.check()
        with self._as_deployed(), self.stop_request.stop_at_once():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        total = RunningEvaluation(self.image_processor.task, num_labels, stuff_classes)
        total.merge(gather_object([self._evaluation.state()]))
        self.confusion_matrix = total.confusion_matrix()
        metrics, self.per_class = total.compute()
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(metrics={**(output.metrics or {}), **named})

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Adds a batch to the metric. Nothing is returned for `Trainer` to gather: predictions would not fit."""
        references, sizes, indices = (inputs.pop(name) for name in ("references", "target_sizes", "indices"))
        file_names = inputs.pop("file_names")
        inputs = send_to_device(inputs, self.args.device)
        targets = [inputs.pop(name) for name in ("mask_labels", "class_labels", "image_seeds")]
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = run_model(model, num_images=len(sizes), **inputs)
            if images := find_not_finite(outputs):
                names = ", ".join(file_names[image] for image in images)
                raise FloatingPointError(
                    f"Evaluation of {names}: the model's outputs are not finite (nan or inf). Its weights are "
                    "damaged, the training has diverged, or numbers of 16 bits are too small for it."
                )
            losses = self._losses(outputs, *targets)
        predictions = TASKS[self.image_processor.task].predict(self.image_processor, outputs, sizes)
        self._evaluation.add_batch(predictions, references, losses)
        is_of_training = self.is_in_train or self.state.global_step > 0
        if is_of_training and self.is_world_process_zero() and self._num_drawn < NUM_DRAWN:
            self._draw(outputs, sizes, indices)
        return None, None, None

    def _losses(self, outputs: Any, mask_labels: Any, class_labels: Any, image_seeds: torch.Tensor) -> list[float]:
        """Returns the loss of each input by itself, which does not depend on the batch that it is part of."""
        criterion, losses = self.bare_model.criterion, []
        predictions = zip(outputs.masks_queries_logits.split(1), outputs.class_queries_logits.split(1), strict=True)
        for prediction, masks, labels, seed in zip(predictions, mask_labels, class_labels, image_seeds, strict=True):
            terms = criterion(*prediction, [masks], [labels], StepRandomness(seed[None], 1, seed.device))
            losses.append(criterion.weighted_sum([terms])[0])
        return torch.stack(losses).tolist()

    def _draw(self, outputs: Any, sizes: list[tuple[int, int]], indices: list[int]) -> None:
        """Draws input, target and prediction of the first images that are evaluated."""
        step = self.state.global_step
        results = self.image_processor.post_process(outputs, sizes)
        chosen = list(zip(indices, results, strict=True))[: NUM_DRAWN - self._num_drawn]
        self._num_drawn += len(chosen)
        directory = Path(str(self.args.output_dir)) / DRAWINGS / f"step-{step}"
        directory.mkdir(parents=True, exist_ok=True)
        writer = tensorboard_writer(self.callback_handler)
        for index, result in chosen:
            sample = self._evaluated.samples[index]
            target, found = build_panoptic_reference(sample), as_segments(result)
            has_background = self.image_processor.task == "instance"
            figure = draw_comparison(sample.image, target, found, self.bare_model.config.id2label, has_background)
            with disk_errors(directory):
                figure.save(directory / f"{index:06}.png")
            if writer is not None:
                writer.add_image(f"evaluation/{index}", np.asarray(figure), step, dataformats="HWC")

    def create_model_card(  # type: ignore[override]
        self,
        *,
        license: str | None = None,
        tags: str | list[str] | None = None,
        finetuned_from: str | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        **unused: Any,
    ) -> None:
        """
        Writes this project's card into the output folder, beside the model; a card that a person has changed stays.

        The parameters are `Trainer`'s; the others have no effect, since the card reads what it says from the folder.
        """
        if self.is_world_process_zero():
            write_card(
                str(self.args.output_dir),
                self.hub_model_id or self.args.hub_model_id,
                license=license,
                tags=_as_list(tags),
                base_model=finetuned_from,
                datasets=_as_list(dataset_tags or dataset),
            )

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:  # `private` is newer than Transformers 5.17
        """As `Trainer.init_hf_repo`. A card that a person has written in the repository is the run's from then on."""
        super().init_hf_repo(*args, **kwargs)
        token = args[0] if args else kwargs.get("token")
        if self.is_world_process_zero():
            keep_hub_card(Path(str(self.args.output_dir)), str(self.hub_model_id), token or self.args.hub_token)


def _as_list(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []

"""The Trainer: layer-wise learning rates, two-stage warm-up, mask annealing, and evaluation as deployed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from configuration_eomt.sharing_eomt import update_model_card
from image_processing_eomt import EomtImageSegmentationPipeline
from modeling_eomt import count_items

from .inputs import collate
from .mask_annealing import MaskAnnealingCallback
from .metrics import PanopticQuality
from .optimization import layerwise_learning_rates, parameter_groups, two_stage_warmup_poly
from .prediction import write_overlays
from .training_arguments import EomtTrainingArguments


NUM_DRAWN = 4  # pictures drawn in every evaluation during training
DRAWINGS = "evaluation_pictures"  # where, in the output folder


class EomtTrainer(Trainer):
    """
    Trains an EoMT model as the paper does, and measures panoptic quality at the pictures' own size.

    While masks fade out in training, evaluation runs without them, as the finished model will. It keeps only the
    statistics that the metric needs: its memory does not grow with the number of pictures. In training, every
    evaluation also draws its first pictures into the folder `evaluation_pictures/step-...` of the output.

    Args:
        model: an EoMT model.
        args: [`EomtTrainingArguments`].
        processing_class: the image processor; it post-processes predictions and is saved beside the model.
        train_dataset, eval_dataset: [`TrainingInputs`] and [`EvaluationInputs`].
        kwargs: everything else that `Trainer` takes.
    """

    args: EomtTrainingArguments
    # Of the evaluation that is under way, on this process.
    _metric: PanopticQuality
    _loss_sum: float
    _num_images: int

    def __init__(self, model: Any, args: EomtTrainingArguments, processing_class: Any, **kwargs: Any):
        super().__init__(model=model, args=args, processing_class=processing_class, data_collator=collate, **kwargs)
        self.image_processor = processing_class
        # The loss is averaged over what `get_batch_samples` counts, not first within each accumulated batch.
        self.model_accepts_loss_kwargs = True
        if args.mask_annealing:
            self.add_callback(MaskAnnealingCallback())
        self.per_class: dict[int, dict[str, float]] = {}  # of the last evaluation, by label id

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
        if self.lr_scheduler is None:
            optimizer = self.create_optimizer() if optimizer is None else optimizer
            warmup_steps = self.args.warmup_stages(num_training_steps)

            def multiplier(is_backbone: bool) -> Any:
                return lambda step: two_stage_warmup_poly(
                    step, num_training_steps, warmup_steps, self.args.poly_power, is_backbone
                )

            self.lr_scheduler = LambdaLR(optimizer, [multiplier(g["is_backbone"]) for g in optimizer.param_groups])
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The batches of one step, and how many images and masks they hold on all processes, see `count_items`."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        num_queries = self.accelerator.unwrap_model(self.model).config.num_queries
        num_items = torch.zeros(2)
        for batch in batches:
            num_items += count_items(batch["class_labels"], num_queries)
        num_items = num_items.to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            num_items = self.accelerator.gather(num_items).view(-1, 2).sum(0)
        return batches, num_items

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        # Without this, processes with fewer pictures would count some of the others' a second time.
        dataloader_config = self.accelerator.dataloader_config
        even_batches, dataloader_config.even_batches = dataloader_config.even_batches, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            dataloader_config.even_batches = even_batches

    def _new_metric(self) -> PanopticQuality:
        config = self.accelerator.unwrap_model(self.model).config
        return PanopticQuality(config.num_labels, self.image_processor.stuff_classes or [])

    @contextmanager
    def _as_deployed(self) -> Iterator[None]:
        model = self.accelerator.unwrap_model(self.model)
        probabilities = model.mask_probabilities
        if self.is_in_train and self.args.mask_annealing:
            model.set_mask_probabilities([0.0] * len(probabilities))
        try:
            yield
        finally:
            model.set_mask_probabilities(probabilities)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._metric = self._new_metric()
        self._loss_sum, self._num_images = 0.0, 0
        with self._as_deployed():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            if self.is_in_train and self.is_world_process_zero():
                self._draw(dataloader.dataset)
        states = gather_object([(self._metric.state(), self._loss_sum, self._num_images)])
        total = self._new_metric()
        total.merge(*(state for state, _, _ in states))
        metrics = total.compute()
        metrics["loss"] = sum(loss for _, loss, _ in states) / max(sum(count for _, _, count in states), 1)
        self.per_class = metrics.pop("per_class")
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(metrics={**(output.metrics or {}), **named})

    def _draw(self, dataset: Any) -> None:
        """Input, target and prediction of the first pictures of [`EvaluationInputs`]."""
        segmenter = EomtImageSegmentationPipeline(
            model=self.accelerator.unwrap_model(self.model),
            image_processor=self.image_processor,
            device=self.args.device,
        )
        pictures = ((dataset.samples[index], True) for index in range(min(NUM_DRAWN, len(dataset))))
        directory = Path(str(self.args.output_dir)) / DRAWINGS / f"step-{self.state.global_step}"
        write_overlays(segmenter, pictures, directory, show_progress=False)

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Adds a batch to the metric. Nothing is returned for `Trainer` to gather: predictions would not fit."""
        references = inputs.pop("reference")
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        self._loss_sum += outputs.loss.item() * len(references)
        self._num_images += len(references)
        predictions = self.image_processor.post_process(
            outputs, target_sizes=[reference["segmentation"].shape for reference in references]
        )
        for prediction, reference in zip(predictions, references, strict=True):
            self._metric.add(
                prediction={**prediction, "segmentation": prediction["segmentation"].cpu().numpy()},
                reference=reference,
            )
        return None, None, None

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Writes this project's card into the output folder, where the model was saved; a person's own card stays.

        The parameters are `Trainer`'s. The card says `license`, `tags`, `finetuned_from` and `dataset_tags` (or
        `dataset`); what else it says, it reads from the folder. The name is the repository's, else the folder's.
        """
        if not self.is_world_process_zero():
            return
        update_model_card(
            str(self.args.output_dir),
            self.hub_model_id or self.args.hub_model_id,
            license=license,
            tags=_as_list(tags),
            base_model=finetuned_from,
            datasets=_as_list(dataset_tags or dataset),
        )


def _as_list(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []

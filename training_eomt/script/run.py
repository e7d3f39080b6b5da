"""One run of `run_segmentation.py`: trains, evaluates, predicts, and reports the results."""

import copy
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from configuration_eomt.configuration_eomt import as_pair
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation

from ..augmentation import SegmentationAugmentation
from ..checkpoints import estimate_bytes
from ..data import SegmentationDataset
from ..disk import check_room, write_whole
from ..evaluation import measured_names
from ..folders import disk_errors
from ..inputs import EvaluationInputs, TrainingInputs
from ..prediction.outputs import FIGURES, OVERLAYS
from ..prediction.predict import AnnotatedImages, ImageFolder, predict
from ..publishing.run_card import write_run_card
from ..run_files import DATA_REPORT, PREDICTIONS, REPORT
from ..tasks import TASKS
from ..text import terminal_text
from ..trainer import EomtTrainer
from .arguments import ScriptArguments
from .checks import evaluates, parse_resume
from .data import RunData, open_data, open_prediction_images, report_data
from .decisions import find_last_evaluation, find_odd_settings, schedule_evaluations
from .error_lines import warn
from .evaluation_report import format_evaluation, write_evaluation
from .former_run import remove_former_run
from .starting_model import load_model, read_labels, read_task


def run(arguments: ScriptArguments) -> dict[str, float]:
    """Runs what the arguments ask for, which `check_arguments` has checked. Returns the metrics of the evaluation."""
    _, data_args, training_args = arguments
    writes_results = training_args.do_eval or training_args.do_predict
    if writes_results and not training_args.do_train and training_args.process_index == 0:
        check_room(Path(training_args.output_dir))  # a training's needs are known once there is a model

    set_seed(training_args.seed)
    data, reports = load_data(arguments)
    if data_args.check_data:
        return {}
    model, image_processor = load_model_for(arguments, data)
    task = str(image_processor.task)
    check_best_metric(training_args, task)
    prediction_settings = data_args.prediction_settings(task)
    id2label: Any = model.config.id2label
    images = open_prediction_images(data_args, task, id2label) if training_args.do_predict else None
    if isinstance(images, ImageFolder):
        images.check_not_written_into(training_args.output_dir)

    trainer = build_trainer(arguments, data, model, image_processor)
    if training_args.do_train:
        train(arguments, trainer, reports)
    metrics = evaluate(trainer) if training_args.do_eval else {}
    if trainer.is_world_process_zero():
        with disk_errors(Path(training_args.output_dir)):
            write_results(arguments, trainer, metrics, reports)
    if images is not None:
        predict_images(arguments, trainer, images, prediction_settings)
    if trainer.is_world_process_zero():
        print_summary(trainer, task, metrics)
    return metrics


def load_data(arguments: ScriptArguments) -> tuple[RunData, dict[str, Any]]:
    """Returns the data and the report of each split; whether the training is evaluated follows from them."""
    model_args, data_args, training_args = arguments
    trains = training_args.do_train or data_args.check_data
    task = data_args.task
    if task is None and not (data_args.check_data and not os.path.isdir(model_args.model_name_or_path or "")):
        task = read_task(model_args)  # looking at data does not need the model of the recipe
    data = open_data(
        data_args,
        trains,
        evaluates(training_args) or (data_args.check_data and bool(data_args.validation_data or data_args.dataset)),
        task,
        None if trains else read_labels(model_args),
    )
    show_progress = not training_args.disable_tqdm
    data, reports = report_data(data, data_args, training_args.dataloader_num_workers, show_progress)
    if data.train is not None and data.validation is not None and training_args.evaluates_by_default:
        schedule_evaluations(training_args, len(data.train))
    return data, reports


def load_model_for(
    arguments: ScriptArguments, data: RunData
) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
    """Returns the model and its image processor, with the task and classes of the training data."""
    model_args, data_args, _ = arguments
    if data.train is None:
        model, image_processor = load_model(model_args, data_args, data_args.task, None)
    else:
        model, image_processor = load_model(model_args, data_args, data.train.task, data.train.label_space)
    has_stuff = "stuff_classes" in TASKS[str(image_processor.task)].settings
    if has_stuff and image_processor.stuff_classes is None and data.validation is not None:
        # as in checkpoints that were written by Transformers' own processor
        image_processor.stuff_classes = data.validation.label_space.stuff_classes
    return model, image_processor


def build_trainer(
    arguments: ScriptArguments, data: RunData, model: EomtForUniversalSegmentation, image_processor: EomtImageProcessor
) -> EomtTrainer:
    """Builds the trainer of the model on the data."""
    _, data_args, training_args = arguments
    augmentation = None
    if data_args.augmentation:
        smallest, largest = data_args.scale_range or TASKS[str(image_processor.task)].scale_range
        augmentation = SegmentationAugmentation(
            as_pair(model.config.image_size), (smallest, largest), color_jitter=data_args.color_jitter
        )
    train_inputs = eval_inputs = None
    if data.train is not None:
        train_inputs = TrainingInputs(data.train, image_processor, augmentation, training_args.seed)
    if data.validation is not None:
        eval_inputs = EvaluationInputs(data.validation, image_processor)
    return EomtTrainer(
        model=model,
        args=training_args,
        processing_class=image_processor,
        train_dataset=train_inputs,
        eval_dataset=eval_inputs,
    )


def train(arguments: ScriptArguments, trainer: EomtTrainer, reports: dict[str, Any]) -> None:
    """Trains, or resumes a training, and saves the model."""
    _, data_args, training_args = arguments
    output_dir, resume_from = Path(training_args.output_dir), parse_resume(training_args)
    check_disk(trainer.bare_model, training_args)
    if trainer.is_world_process_zero():
        for line in find_odd_settings(trainer, reports):
            warn(line)
        if data_args.overwrite_output_dir and resume_from is None:
            remove_former_run(output_dir)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=resume_from)
    trainer.save_model()
    with disk_errors(output_dir):
        trainer.save_state()


def evaluate(trainer: EomtTrainer) -> dict[str, float]:
    """Returns the metrics of the model as it is now."""
    metrics = find_last_evaluation(trainer)
    if not metrics:
        if trainer.is_world_process_zero():
            (Path(str(trainer.args.output_dir)) / REPORT).unlink(missing_ok=True)
        metrics = trainer.evaluate()
    return metrics


def check_best_metric(training_args: Any, task: str) -> None:
    """Raises a `ValueError` if the best checkpoint is to be chosen by a metric that the task does not have."""
    given = training_args.metric_for_best_model
    measured = measured_names(task)
    if given is not None and given.removeprefix("eval_") not in measured:
        raise ValueError(
            f"--metric_for_best_model {given} is not measured for {task} segmentation, but {', '.join(measured)} are."
        )


def check_disk(model: nn.Module, training_args: Any) -> None:
    """Raises an `OSError` if the checkpoints of the training will not fit on the disk."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    needed = 4 * sum(numel for numel, _ in sizes)
    if training_args.save_strategy != "no":
        needed += estimate_bytes(
            sum(numel for numel, _ in sizes),
            sum(numel for numel, is_trained in sizes if is_trained),
            training_args.save_total_limit,
            training_args.ema_decay is not None,
        )
    check_room(
        Path(training_args.output_dir),
        needed,
        "choose another --output_dir, or keep fewer checkpoints with --save_total_limit",
    )


def write_results(
    arguments: ScriptArguments, trainer: EomtTrainer, metrics: dict[str, float], reports: dict[str, Any]
) -> None:
    """Writes `evaluation.json` and, after a training, the report of the data and the model card."""
    model_args, data_args, training_args = arguments
    output_dir, config = Path(training_args.output_dir), trainer.bare_model.config
    output_dir.mkdir(parents=True, exist_ok=True)
    per_class = name_classes(trainer)
    if training_args.do_eval:
        names = [config.id2label[label_id] for label_id in range(config.num_labels)]

        write_evaluation(output_dir, metrics, per_class, names, trainer.confusion_matrix)
    if training_args.do_train:
        write_whole(output_dir / DATA_REPORT, lambda path: path.write_text(json.dumps(reports, indent=2)))
        write_run_card(
            trainer,
            data_reports=reports,
            metrics=metrics,
            per_class=per_class if training_args.do_eval else {},
            base_model=model_args.model_name_or_path,
            dataset=Path(data_args.dataset).name if data_args.dataset else None,
        )


def name_classes(trainer: EomtTrainer) -> dict[str, dict[str, float]]:
    """Returns the results of the last evaluation by the names of the classes."""
    id2label = trainer.bare_model.config.id2label
    return {id2label[label_id]: values for label_id, values in trainer.per_class.items()}


def predict_images(
    arguments: ScriptArguments,
    trainer: EomtTrainer,
    images: SegmentationDataset | ImageFolder,
    settings: dict[str, Any],
) -> None:
    """Segments the images, each process its share; results of an earlier run are kept."""
    _, data_args, training_args = arguments
    directory = Path(training_args.output_dir) / PREDICTIONS
    image_processor = copy.deepcopy(trainer.image_processor)
    for name, value in settings.items():
        setattr(image_processor, name, value)
    model = trainer.bare_model
    if trainer.is_fsdp_enabled:  # the parts that processes hold would wait for each other
        model = type(model).from_pretrained(training_args.output_dir)
    is_outdated = data_args.overwrite_output_dir or training_args.do_train  # made by other weights
    if is_outdated and trainer.is_world_process_zero():
        shutil.rmtree(directory, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    try:
        with trainer.accelerator.autocast():
            summary = predict(
                model,
                image_processor,
                AnnotatedImages(images) if isinstance(images, SegmentationDataset) else images,
                directory,
                outputs=data_args.predict_outputs,
                batch_size=training_args.per_device_eval_batch_size,
                num_workers=training_args.dataloader_num_workers,
                process_index=training_args.process_index,
                num_processes=training_args.world_size,
                device=training_args.device,
                show_progress=trainer.is_world_process_zero() and not training_args.disable_tqdm,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped: finished predictions stay in {terminal_text(directory)}. The same command goes on from there, "
            "with --do_predict alone and the model as --model_name_or_path"
        ) from None
    if summary.is_complete and not summary.num_segmented:
        raise ValueError(f"No image could be segmented. {summary}")
    if summary.is_complete or trainer.is_world_process_zero():
        print(summary)


def print_summary(trainer: EomtTrainer, task: str, metrics: dict[str, float]) -> None:
    """Prints the results, and where everything is."""
    training_args = trainer.args
    output_dir = Path(str(training_args.output_dir))
    print()
    if metrics:
        width = shutil.get_terminal_size().columns
        num_labels = trainer.bare_model.config.num_labels
        print(format_evaluation(task, metrics, name_classes(trainer), num_labels, width))
        print(f"All figures: {terminal_text(output_dir / REPORT)}")
    if training_args.do_predict:
        predictions = (output_dir / PREDICTIONS).resolve()
        drawn = [predictions / name for name in (FIGURES, OVERLAYS) if (predictions / name).is_dir()]
        print(f"Images: {terminal_text(drawn[0])}" if drawn else f"Predictions: {terminal_text(predictions)}")
    if training_args.do_train:
        print("Use the model:\n")
        print("    from transformers import pipeline")
        model = terminal_text(json.dumps(output_dir.as_posix(), ensure_ascii=False))
        print(f'    segmenter = pipeline("image-segmentation", model={model}, trust_remote_code=True)')
        print('    segments = segmenter("image.jpg")')
        print(f"\nOr on a page: eomt app --model {terminal_text(shlex.quote(str(output_dir)))}")

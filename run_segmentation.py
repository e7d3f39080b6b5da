#!/usr/bin/env python
"""Trains, evaluates and applies EoMT on your own pictures: the one command.

    python run_segmentation.py --recipe recipes/shapes_demo.yaml --do_train --do_eval --do_predict

A recipe is a YAML file of arguments; arguments of the command line come on top. `--help` lists them all.
"""

import copy
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configuration_eomt.text_eomt import terminal_text
from training_eomt.disk import check_room, check_writable, write_whole
from training_eomt.error_lines import error_line
from training_eomt.given_paths import check_exists
from training_eomt.script_arguments import (
    DataArguments,
    ModelArguments,
    ScriptArguments,
    complete,
    parse_arguments,
    read_arguments,
)


# What needs torch is imported where it is used: a mistake in the arguments is said before the seconds that takes.
if TYPE_CHECKING:
    import torch

    from training_eomt.data import SegmentationDataset
    from training_eomt.prediction import PictureFolder
    from training_eomt.trainer import EomtTrainer

__all__ = ["command", "main", "parse_arguments"]

REPORT = "evaluation.json"  # as `training_eomt.export` reads it
PICTURES = "predictions"  # beside the report in the output folder
DATA_REPORT = "data_report.json"
SCALE_RANGES = {"panoptic": (0.1, 2.0), "instance": (0.1, 2.0), "semantic": (0.5, 2.0)}  # as published


def evaluates(training_args: Any) -> bool:
    """Whether anything is measured, in the end or during training."""
    during_training = (
        training_args.eval_strategy not in (None, "no")
        or training_args.load_best_model_at_end
        or training_args.save_strategy == "best"
        or training_args.early_stopping_patience is not None
    )
    return training_args.do_eval or (training_args.do_train and during_training)


def check_arguments(model_args: ModelArguments, data_args: DataArguments, training_args: Any) -> None:
    """Everything that can be known to be wrong before anything is loaded."""
    does_anything = training_args.do_train or training_args.do_eval or training_args.do_predict
    if not (does_anything or data_args.check_data):
        raise ValueError("Nothing to do: give at least one of --do_train, --do_eval, --do_predict and --check_data.")
    has_validation = data_args.validation_data or data_args.dataset or data_args.train_val_split is not None
    for needed, name, given in (
        (training_args.do_train or data_args.check_data, "train_data", data_args.train_data or data_args.dataset),
        (evaluates(training_args) and not data_args.check_data, "validation_data", has_validation),
        (training_args.do_predict and not data_args.check_data, "predict_data", data_args.predict_data),
    ):
        if needed and not given:
            raise ValueError(f"--{name} is missing.")
    for name in ("dataset", "train_data", "validation_data", "predict_data"):
        if given := getattr(data_args, name):
            check_exists(name, given)
    if data_args.check_data:
        return
    if model_args.model_name_or_path:
        check_exists("model_name_or_path", model_args.model_name_or_path)
    if not training_args.names_output_dir:
        raise ValueError("--output_dir is missing.")
    if data_args.gives_prediction_settings and not training_args.do_predict:
        raise ValueError(f"--{data_args.gives_prediction_settings[0]} is for --do_predict: add that, or leave it out.")
    if not training_args.do_train and model_args.model_name_or_path is None:
        raise ValueError("Without --do_train there is no model yet: --model_name_or_path names one.")
    if not training_args.do_train and (model_args.num_queries is not None or model_args.num_blocks is not None):
        raise ValueError("Without --do_train the model stays as it is: leave out --num_queries and --num_blocks.")
    output_dir = Path(training_args.output_dir)
    resume_from = resume_choice(training_args)
    if training_args.do_train and resume_from is not None:
        from training_eomt.run_checkpoints import last_complete

        if resume_from is True and last_complete(output_dir) is None:
            raise ValueError(f"{output_dir} holds no complete checkpoint to resume from.")
        if resume_from is not True and not Path(resume_from).is_dir():
            raise ValueError(f"--resume_from_checkpoint {resume_from}: there is no such folder.")
    if training_args.do_train and data_args.overwrite_output_dir and resume_from is None:
        from training_eomt.former_run import check_not_needed

        model = model_args.model_name_or_path
        data = (data_args.dataset, data_args.train_data, data_args.validation_data, data_args.predict_data)
        check_not_needed(output_dir, [model, model and os.path.join(model, "config.json"), *data])
    written = [output_dir] if training_args.do_train else []
    written += [output_dir / REPORT] if training_args.do_eval else []
    for path in written:
        exists = any(path.iterdir()) if path.is_dir() else path.exists()
        if exists and not (resume_from or data_args.overwrite_output_dir):
            raise FileExistsError(
                f"{path} already holds something. Choose another --output_dir, continue a training with "
                "--resume_from_checkpoint true, or write into it with --overwrite_output_dir."
            )
    check_writable(output_dir)
    if training_args.push_to_hub and training_args.hub_token is None:
        from huggingface_hub import get_token

        if get_token() is None:
            raise ValueError("--push_to_hub needs a token of the Hub: run `hf auth login`, or set HF_TOKEN.")


def resume_choice(training_args: Any) -> str | bool | None:
    """What to resume from: True for the last checkpoint, a checkpoint's path, or None."""
    given = training_args.resume_from_checkpoint
    if given is None or str(given).lower() == "false":
        return None
    return True if str(given).lower() == "true" else given


def check_resumed_model(config: Any, output_dir: Path, resume_from: str | bool) -> None:
    """Raises a `ValueError` if a checkpoint to resume from is of a model with other classes or of another shape."""
    from training_eomt.run_checkpoints import last_complete

    checkpoint = last_complete(output_dir) if resume_from is True else Path(str(resume_from))
    if checkpoint is None or not (checkpoint / "config.json").is_file():
        return  # Trainer says what is missing
    before, now = (
        json.loads(model.to_json_string(use_diff=False))
        for model in (type(config).from_pretrained(checkpoint), config)
    )
    for name in ("id2label", "num_queries", "num_blocks", "image_size", "hidden_size", "num_hidden_layers"):
        if before[name] != now[name]:
            raise ValueError(
                f"{checkpoint} was trained with {name} = {before[name]}, and this training has {now[name]}. Resume "
                "with the same data and settings, or start a new training from it with --model_name_or_path "
                f"{checkpoint}."
            )


def check_best_metric(training_args: Any, task: str) -> None:
    """Raises a `ValueError` if the best checkpoint is to be chosen by what is not measured."""
    from training_eomt.evaluation import new_metric

    given = training_args.metric_for_best_model
    measured = [*(name for name in new_metric(task, 1, []).compute() if name != "per_class"), "loss"]
    if given is not None and given.removeprefix("eval_") not in measured:
        raise ValueError(
            f"--metric_for_best_model {given} is not measured for {task} segmentation, but {', '.join(measured)} are."
        )


def check_disk(model: "torch.nn.Module", training_args: Any) -> None:
    """Raises an `OSError` if the checkpoints of the training will not fit on the disk."""
    from training_eomt.run_checkpoints import bytes_needed

    output_dir = Path(training_args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    needed = 4 * sum(numel for numel, _ in sizes)
    if training_args.save_strategy != "no":
        needed += bytes_needed(
            sum(numel for numel, _ in sizes),
            sum(numel for numel, is_trained in sizes if is_trained),
            training_args.save_total_limit,
            training_args.ema_decay is not None,
        )
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise OSError(
            f"{output_dir} has {free / 1e9:.1f} GB free, and the checkpoints of this training take at least "
            f"{needed / 1e9:.1f} GB. Make room, choose another --output_dir, or keep fewer with --save_total_limit."
        )


def main(arguments: ScriptArguments) -> dict[str, float]:
    """Runs what the arguments ask for and returns the metrics of the evaluation."""
    model_args, data_args, training_args = arguments
    check_arguments(model_args, data_args, training_args)
    writes_results = training_args.do_eval or training_args.do_predict
    if writes_results and not training_args.do_train and training_args.process_index == 0:
        check_room(Path(training_args.output_dir))  # what a training needs is known once there is a model

    from transformers import set_seed

    from configuration_eomt.configuration_eomt import as_pair
    from training_eomt.augmentation import SegmentationAugmentation
    from training_eomt.former_run import remove_former_run
    from training_eomt.inputs import EvaluationInputs, TrainingInputs
    from training_eomt.prediction import PictureFolder
    from training_eomt.run_data import checked, open_data, pictures_of
    from training_eomt.run_decisions import evaluate_now_and_then, last_evaluation, odd_settings
    from training_eomt.starting_model import load_model, stored_labels, stored_task
    from training_eomt.trainer import EomtTrainer

    set_seed(training_args.seed)
    trains = training_args.do_train or data_args.check_data
    task = data_args.task
    if task is None and not (data_args.check_data and not os.path.isdir(model_args.model_name_or_path or "")):
        task = stored_task(model_args)  # whoever looks at data need not have the model of the recipe
    data = open_data(
        data_args,
        trains,
        evaluates(training_args) or (data_args.check_data and bool(data_args.validation_data or data_args.dataset)),
        task,
        None if trains else stored_labels(model_args),
    )
    data, reports = checked(data, data_args, training_args.dataloader_num_workers)
    if data_args.check_data:
        return {}
    if data.train is not None and data.validation is not None and training_args.evaluates_by_default:
        evaluate_now_and_then(training_args, len(data.train))
    if data.train is not None:
        task = data.train.task
    model, image_processor = load_model(
        model_args, data_args, task, data.train.label_space if data.train is not None else None
    )
    assert image_processor.task is not None  # the stored one never is
    task = image_processor.task
    if task == "panoptic" and image_processor.stuff_classes is None and data.validation is not None:
        # as in checkpoints that Transformers' own processor wrote
        image_processor.stuff_classes = data.validation.label_space.stuff_classes

    check_best_metric(training_args, task)
    prediction_settings = data_args.prediction_settings(task)
    pictures = pictures_of(data_args, task, model.config.id2label) if training_args.do_predict else None
    if isinstance(pictures, PictureFolder):
        pictures.check_not_written_into(training_args.output_dir)

    augmentation = None
    if data_args.augmentation:
        augmentation = SegmentationAugmentation(
            as_pair(model.config.image_size),
            tuple(data_args.scale_range or SCALE_RANGES[task]),
            color_jitter=data_args.color_jitter,
        )
    train_inputs = eval_inputs = None
    if data.train is not None:
        train_inputs = TrainingInputs(data.train, image_processor, augmentation, training_args.seed)
    if data.validation is not None:
        eval_inputs = EvaluationInputs(data.validation, image_processor)
    trainer = EomtTrainer(
        model=model,
        args=training_args,
        processing_class=image_processor,
        train_dataset=train_inputs,
        eval_dataset=eval_inputs,
    )
    metrics: dict[str, float] = {}
    if training_args.do_train:
        check_disk(model, training_args)
        resume_from = resume_choice(training_args)
        if resume_from is not None:
            check_resumed_model(model.config, Path(training_args.output_dir), resume_from)
        for line in odd_settings(trainer, reports):
            if trainer.is_world_process_zero():
                warn(line)
        if data_args.overwrite_output_dir and resume_from is None and trainer.is_world_process_zero():
            remove_former_run(Path(training_args.output_dir))
        trainer.accelerator.wait_for_everyone()
        trainer.train(resume_from_checkpoint=resume_from)
        trainer.save_model()
        trainer.save_state()
    if training_args.do_eval:
        metrics = last_evaluation(trainer)
        if not metrics:
            if trainer.is_world_process_zero():
                (Path(training_args.output_dir) / REPORT).unlink(missing_ok=True)
            metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        write_results(arguments, trainer, metrics, reports)
    if pictures is not None:
        predict_pictures(arguments, trainer, pictures, prediction_settings)
    if trainer.is_world_process_zero():
        say_what_is_where(trainer, task, metrics)
    return metrics


def write_results(
    arguments: ScriptArguments, trainer: "EomtTrainer", metrics: dict[str, float], reports: dict[str, Any]
) -> None:
    """Writes `evaluation.json` and, after a training, the report of the data and the model card."""
    model_args, data_args, training_args = arguments
    output_dir, config = Path(training_args.output_dir), trainer.bare_model.config
    output_dir.mkdir(parents=True, exist_ok=True)
    per_class = results_by_name(trainer)
    if training_args.do_eval:
        from training_eomt.evaluation_report import write_evaluation

        names = [config.id2label[label_id] for label_id in range(config.num_labels)]

        write_evaluation(output_dir, metrics, per_class, names, trainer.confusion_matrix)
    if training_args.do_train:
        from training_eomt.run_card import write_run_card

        write_whole(output_dir / DATA_REPORT, lambda path: path.write_text(json.dumps(reports, indent=2)))
        write_run_card(
            output_dir,
            task=trainer.image_processor.task,
            state=trainer.state,
            arguments=training_args,
            num_blocks=config.num_blocks,
            data_reports=reports,
            metrics=metrics,
            per_class=per_class if training_args.do_eval else {},
            base_model=model_args.model_name_or_path,
            dataset=Path(data_args.dataset).name if data_args.dataset else None,
        )


def results_by_name(trainer: "EomtTrainer") -> dict[str, dict[str, float]]:
    """The results of the last evaluation for each class, by its name."""
    id2label = trainer.bare_model.config.id2label
    return {id2label[label_id]: values for label_id, values in trainer.per_class.items()}


def predict_pictures(
    arguments: ScriptArguments,
    trainer: "EomtTrainer",
    pictures: "SegmentationDataset | PictureFolder",
    settings: dict[str, Any],
) -> None:
    """Segments the pictures, each process its share; what an earlier run has done already is kept."""
    from training_eomt.data import SegmentationDataset
    from training_eomt.prediction import AnnotatedPictures, predict

    _, data_args, training_args = arguments
    directory = Path(training_args.output_dir) / PICTURES
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
                AnnotatedPictures(pictures) if isinstance(pictures, SegmentationDataset) else pictures,
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
            f"stopped: what is segmented stays in {terminal_text(directory)}. The same command goes on from there, "
            "with --do_predict alone and the model as --model_name_or_path"
        ) from None
    if summary.is_complete and not summary.num_segmented:
        raise ValueError(f"No picture could be segmented. {summary}")
    if summary.is_complete or trainer.is_world_process_zero():
        print(summary)


def say_what_is_where(trainer: "EomtTrainer", task: str, metrics: dict[str, float]) -> None:
    """Says what came out, and where everything is."""
    training_args = trainer.args
    output_dir = Path(str(training_args.output_dir))
    print()
    if metrics:
        from training_eomt.evaluation_report import evaluation_text

        width = shutil.get_terminal_size().columns
        num_labels = trainer.bare_model.config.num_labels
        print(evaluation_text(task, metrics, results_by_name(trainer), num_labels, width))
        print(f"All figures: {terminal_text(output_dir / REPORT)}")
    if training_args.do_predict:
        from training_eomt.prediction_outputs import FIGURES, OVERLAYS

        predictions = (output_dir / PICTURES).resolve()
        drawn = [predictions / name for name in (FIGURES, OVERLAYS) if (predictions / name).is_dir()]
        print(f"Pictures: {terminal_text(drawn[0])}" if drawn else f"Predictions: {terminal_text(predictions)}")
    if training_args.do_train:
        print("Use the model:\n")
        print("    from transformers import pipeline")
        model = terminal_text(json.dumps(output_dir.as_posix(), ensure_ascii=False))
        print(f'    segmenter = pipeline("image-segmentation", model={model}, trust_remote_code=True)')
        print('    segments = segmenter("picture.jpg")')


def warn(line: str) -> None:
    """Says on a line of its own what is odd and goes on."""
    print(f"warning: {shown(line)}", file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """Text for a terminal, on as many lines as it has."""
    return "\n".join(terminal_text(line) for line in text.split("\n"))


def command(words: Sequence[str] | None = None) -> None:
    """
    The console command: runs what the command line asks for, and ends in a line where that is not possible.

    Args:
        words: of the command line. Default: of this process.
    """
    trackers: list[str] = []
    # Transformers imports torchao where it is installed, which warns of what nobody here can change.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    try:
        arguments = read_arguments(sys.argv[1:] if words is None else words)
        check_arguments(arguments.model, arguments.data, arguments.training)
        if os.environ.get("RANK", "0") == "0":
            for line in arguments.warnings:
                warn(line)
        complete_arguments = complete(arguments)
        trackers = complete_arguments[2].report_to
        from training_eomt.interruption import answer_sigterm

        answer_sigterm()
        main(complete_arguments)
        leave_the_others()
    except KeyboardInterrupt as stop:
        message = "stopped: --resume_from_checkpoint true goes on from the last checkpoint, if there is one"
        print(f"\n{str(stop) or message}", file=sys.stderr)
        sys.exit(getattr(stop, "exit_status", 130))
    except Exception as error:
        line = error_line(error, trackers)
        if line is None:
            raise
        # On a line of its own, below a progress bar; at once, before other processes notice that this one is gone.
        print(f"\nerror: {shown(line)}", file=sys.stderr, flush=True)
        sys.exit(1)


def leave_the_others() -> None:
    """Ends the connection of several processes."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # PyTorch 2.6 waits for ever for a gloo thread that still has to let go of its last tensor: let it.
        time.sleep(0.5)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    command()

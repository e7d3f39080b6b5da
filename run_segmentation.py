#!/usr/bin/env python
"""Trains, evaluates and applies EoMT on your own pictures: the one command.

    python run_segmentation.py --recipe recipes/shapes_demo.yaml --do_train --do_eval --do_predict

A recipe is a YAML file of arguments; arguments of the command line come on top. `--help` lists them all.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, set_seed

from configuration_eomt import EomtConfig
from configuration_eomt.configuration_eomt import as_pair
from image_processing_eomt import EomtImageProcessor, EomtImageSegmentationPipeline
from modeling_eomt import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation
from training_eomt.augmentation import PanopticAugmentation
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.data.samples import LabelSpace
from training_eomt.export import REPORT
from training_eomt.inputs import EvaluationInputs, TrainingInputs
from training_eomt.prediction import pictures_to_segment, write_overlays
from training_eomt.script_arguments import DataArguments, ModelArguments, ScriptArguments, parse_arguments
from training_eomt.trainer import EomtTrainer


NEW_MODEL_IMAGE_SIZE = 640
PICTURES = "predictions"  # beside the report in the output folder


def check_arguments(model_args: ModelArguments, data_args: DataArguments, training_args: Any) -> None:
    """Everything that can be known to be wrong before anything is loaded."""
    if not (training_args.do_train or training_args.do_eval or training_args.do_predict):
        raise ValueError("Nothing to do: give at least one of --do_train, --do_eval and --do_predict.")
    evaluates = training_args.do_eval or training_args.eval_strategy != "no"
    for needed, name in (
        (training_args.do_train, "train_data"),
        (evaluates, "validation_data"),
        (training_args.do_predict, "predict_data"),
    ):
        if needed and getattr(data_args, name) is None:
            raise ValueError(f"--{name} is missing.")
    if training_args.output_dir is None:
        raise ValueError("--output_dir is missing.")
    if not training_args.do_train and model_args.model_name_or_path is None:
        raise ValueError("Without --do_train there is no model yet: --model_name_or_path names one.")
    output_dir = Path(training_args.output_dir)
    written = [output_dir] if training_args.do_train else []
    written += [output_dir / REPORT] if training_args.do_eval else []
    written += [output_dir / PICTURES] if training_args.do_predict else []
    for path in written:
        exists = any(path.iterdir()) if path.is_dir() else path.exists()
        if exists and not (training_args.resume_from_checkpoint or data_args.overwrite_output_dir):
            raise FileExistsError(
                f"{path} already holds something. Choose another --output_dir, continue a training with "
                "--resume_from_checkpoint true, or write into it with --overwrite_output_dir."
            )


def load_model(
    model_args: ModelArguments, data_args: DataArguments, label_space: LabelSpace | None
) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
    """
    The model and its image processor: new, from an EoMT checkpoint, or new on a pre-trained backbone.

    Args:
        model_args, data_args: the arguments.
        label_space: the training data's classes, or None where nothing is trained: then the checkpoint's stay.
    """
    settings: dict[str, Any] = {"task": data_args.task, "do_pad": True, "do_split_image": False}
    labels: dict[str, Any] = {}
    if label_space is not None:
        settings["stuff_classes"] = label_space.stuff_classes
        label2id = {name: label_id for label_id, name in label_space.id2label.items()}
        labels = {"id2label": label_space.id2label, "label2id": label2id}
    image_size = data_args.image_size
    if model_args.model_name_or_path is None:
        image_size = image_size or NEW_MODEL_IMAGE_SIZE
        config = EomtConfig(image_size=image_size, **(model_args.model_config or {}), **labels)
        return EomtForUniversalSegmentation(config), EomtImageProcessor(size=image_size, **settings)
    name = model_args.model_name_or_path
    kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    is_dinov3 = kind in ("eomt_dinov3", "dinov3_vit")
    model_class = EomtDinov3ForUniversalSegmentation if is_dinov3 else EomtForUniversalSegmentation
    if kind not in ("eomt", "eomt_dinov3"):
        if label_space is None:
            raise ValueError(f"{name} holds a {kind!r} model. Only an EoMT model can be used without --do_train.")
        image_size = image_size or NEW_MODEL_IMAGE_SIZE
        model = model_class.from_backbone(name, image_size=image_size, **labels)
        return model, EomtImageProcessor(size=image_size, **settings)
    model = model_class.from_pretrained(name, ignore_mismatched_sizes=label_space is not None, **labels)
    if label_space is not None:
        model.set_image_size(image_size or model.config.image_size)
        image_size = model.config.image_size
    if image_size is not None:
        settings["size"] = image_size
    return model, EomtImageProcessor.from_pretrained(name, **settings)


def main(arguments: ScriptArguments) -> dict[str, float]:
    """Runs what the arguments ask for and returns the metrics of the evaluation."""
    model_args, data_args, training_args = arguments
    check_arguments(model_args, data_args, training_args)
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)

    train_data = validation_data = None
    if training_args.do_train:
        train_data = CocoPanopticDataset(data_args.train_data)
    model, image_processor = load_model(model_args, data_args, train_data.label_space if train_data else None)
    id2label = model.config.id2label
    if data_args.validation_data is not None:
        validation_data = CocoPanopticDataset(data_args.validation_data, id2label)
        if image_processor.stuff_classes is None:  # as in checkpoints that Transformers' own processor wrote
            image_processor.stuff_classes = validation_data.label_space.stuff_classes

    pictures = None
    if training_args.do_predict:
        pictures = pictures_to_segment(Path(data_args.predict_data), id2label)
    augmentation = None
    if data_args.augmentation:
        augmentation = PanopticAugmentation(as_pair(model.config.image_size), tuple(data_args.scale_range))
    trainer = EomtTrainer(
        model=model,
        args=training_args,
        processing_class=image_processor,
        train_dataset=None if train_data is None else TrainingInputs(train_data, image_processor, augmentation),
        eval_dataset=None if validation_data is None else EvaluationInputs(validation_data, image_processor),
    )
    metrics: dict[str, float] = {}
    if training_args.do_train:
        resume_from = training_args.resume_from_checkpoint
        trainer.train(resume_from_checkpoint=True if resume_from in ("True", "true") else resume_from)
        trainer.save_model()
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate()
    if not trainer.is_world_process_zero():
        return metrics
    if training_args.do_eval:
        output_dir.mkdir(parents=True, exist_ok=True)
        per_class = {id2label[label_id]: values for label_id, values in trainer.per_class.items()}
        measured = {name: None if math.isnan(value) else value for name, value in metrics.items()}  # JSON has no NaN
        (output_dir / REPORT).write_text(json.dumps({**measured, "per_class": per_class}, indent=2))
    if pictures is not None:
        segmenter = EomtImageSegmentationPipeline(
            model=trainer.accelerator.unwrap_model(model), image_processor=image_processor, device=training_args.device
        )
        write_overlays(segmenter, pictures, output_dir / PICTURES)
    report_results(metrics, training_args, output_dir)
    return metrics


def report_results(metrics: dict[str, float], training_args: Any, output_dir: Path) -> None:
    """Says where everything is."""
    print()
    if "eval_pq" in metrics:
        print(
            f"Panoptic quality on the validation data: {metrics['eval_pq']:.3f} "
            f"(things {metrics['eval_pq_things']:.3f}, stuff {metrics['eval_pq_stuff']:.3f})"
        )
    if training_args.do_predict:
        print(f"Pictures: {(output_dir / PICTURES).resolve()}")
    if training_args.do_train:
        print("Use the model:\n")
        print("    from transformers import pipeline")
        print(f'    segmenter = pipeline("image-segmentation", model="{output_dir}", trust_remote_code=True)')
        print('    segments = segmenter("picture.jpg")')


if __name__ == "__main__":
    try:
        main(parse_arguments(sys.argv[1:]))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # PyTorch 2.6 waits for ever for a gloo thread that still has to let go of its last tensor: let it.
            time.sleep(0.5)
            torch.distributed.destroy_process_group()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"\nerror: {error}")  # on a line of its own, below a progress bar

"""Arguments of `run_segmentation.py`: the model and the data.

Nothing here imports torch until the arguments are known to be right: whoever asks for help or made a mistake is
answered at once.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..argument_checks import argument, check_ranges


# Written out, since the modules that have them take seconds to import; a test holds them together.
TASKS = ("panoptic", "instance", "semantic")
FORMATS = ("auto", "coco_panoptic", "coco_instance", "yolo", "cityscapes", "ade20k", "datasets", "label_maps")
OUTPUTS = ("overlays", "maps", "json", "figures")
DEFAULT_OUTPUTS = OUTPUTS[:3]
EXIF = ("auto", "upright", "stored")
MAX_IMAGE_PIXELS = 100_000_000


# Fields of a configuration that do not change what a model is, only how it learns.
_LOSS = ("no_object_weight", "class_weight", "mask_weight", "dice_weight")
_POINTS = ("train_num_points", "oversample_ratio", "importance_sample_ratio")
_OF_TRAINING = (*_LOSS, *_POINTS, "hidden_dropout_prob", "attention_dropout", "drop_path_rate")


class Argument(NamedTuple):
    """
    An argument of the script.

    Args:
        name: without dashes.
        kind: of its values: bool, int, float, str or dict.
        is_list: whether it takes several.
        default: None also if only its class knows.
        help: for people.
        choices: the values to choose from; None for any.
        alone: its value if it is given without one; None if it needs one.
    """

    name: str
    kind: type
    is_list: bool = False
    default: Any = None
    help: str = ""
    choices: tuple[str, ...] | None = None
    alone: Any = None


@dataclass
class ModelArguments:
    """The model: a checkpoint, a backbone, or a new one."""

    model_name_or_path: str | None = argument(
        None,
        "What to start from, a folder or a name on the Hub: an EoMT checkpoint, or a pre-trained ViT (DINOv2, "
        "DINOv3, ViT, DeiT, timm's ViTs and EVA-02) that becomes the backbone of a new model. Default: nothing.",
    )
    model_config: dict | str | None = argument(
        None,
        "Fields of EomtConfig, a JSON object on the command line: for a new model all, for a stored one those of "
        "training, such as the weights of the loss.",
    )
    num_queries: int | None = argument(
        None,
        "The most segments that are found in an image. Default: the checkpoint's, 200 for a new one.",
    )
    num_blocks: int | None = argument(
        None,
        "Blocks of the ViT that process the queries. Default: as published for its depth.",
    )

    def __post_init__(self) -> None:
        check_ranges(vars(self))
        if isinstance(self.model_config, str):
            self.model_config = parse_json_object("model_config", self.model_config)
        if self.model_config is not None and not isinstance(self.model_config, dict):
            raise ValueError(f"model_config {self.model_config!r} is not an object of EomtConfig's fields.")
        if not self.model_config:
            return
        others = sorted(name for name in self.model_config if name not in _OF_TRAINING)
        if self.model_name_or_path and others:
            raise ValueError(
                f"model_config sets {', '.join(others)}, which the model of model_name_or_path has: give one of the "
                f"two, or in model_config only {', '.join(_OF_TRAINING)}."
            )
        for owner, names in (
            ("--image_size", ["image_size"]),
            ("--num_queries", ["num_queries"] if self.num_queries is not None else []),
            ("--num_blocks", ["num_blocks"] if self.num_blocks is not None else []),
            ("the data", ["id2label", "label2id", "num_labels"]),
        ):
            if given := [name for name in names if name in self.model_config]:
                raise ValueError(f"model_config sets {given[0]!r}, which comes from {owner}.")


# Settings of the image processor for do_predict.
PREDICTION_SETTINGS = ("threshold", "mask_threshold", "overlap_mask_area_threshold", "top_k")


@dataclass
class DataArguments:
    """The data, and how they are prepared."""

    dataset: str | None = argument(
        None,
        "A dataset to train and evaluate on: a folder or a zip file with its splits as they were published, or a "
        "name on the Hub. train_data and validation_data name the splits one by one instead.",
    )
    train_data: str | None = argument(
        None,
        "Data to train on: a folder, a COCO JSON file, a zip file, a name on the Hub.",
    )
    validation_data: str | None = argument(None, "Data to evaluate on, given as train_data.")
    predict_data: str | None = argument(
        None,
        "Images to segment: a folder of images, a single one, or data given as train_data.",
    )
    dataset_format: str = argument("auto", "How the data are stored. auto: found by looking at them.", choices=FORMATS)
    images_dir: str | None = argument(
        None,
        "Folder of the images where it is not below the dataset: for COCO's JSON files, and for the YAML file of "
        "YOLO. No other file outside a dataset is read.",
    )
    train_val_split: float | None = argument(
        None,
        "How much of the training data to evaluate on instead of training on it, as a fraction below 1 or a number "
        "of images: for data without a validation split of their own.",
    )
    class_names: str | None = argument(
        None,
        "File with the names of the classes, for label maps: a line for each, or JSON.",
    )
    label_values: str | None = argument(
        None,
        "File that says what values or colours in label maps stand for, instead of class_names: a JSON or YAML "
        'object such as {"0": "background", "255": "lesion"} or {"128,0,0": "aeroplane"}, null for no class; or '
        "CVAT's labelmap.txt.",
    )
    ignore_index: list[int] | None = argument(
        None,
        "Values in label maps that belong to no class. Default: 255, and 65535 in maps of 16 bits, unless there is a "
        "class of this number.",
    )
    do_reduce_labels: bool | None = argument(None, "In label maps, 0 belongs to no class and the first class is 1.")
    image_column: str | None = argument(None, "Column of the images in a `datasets` set.")
    annotation_column: str | None = argument(None, "Column of the annotations in a `datasets` set.")
    exif: str = argument(
        "auto",
        "Which way up images are read that have an EXIF orientation. upright: turned as it says; stored: as they lie "
        "in the file; auto: as it fits the size of the annotation, upright where both do.",
        choices=EXIF,
    )
    max_image_pixels: int = argument(
        MAX_IMAGE_PIXELS,
        "The most pixels of an image or a label map; one that has more is an error.",
    )
    task: str | None = argument(
        None,
        "Kind of segmentation. Default: that of the checkpoint; for a new model, of the annotations.",
        choices=TASKS,
    )
    skip_bad_samples: bool = argument(
        False,
        "Read everything once before training, and leave out what cannot be used instead of stopping.",
    )
    check_data: bool = argument(False, "Read everything, print the report of the data, and stop there.")
    image_size: list[int] | None = argument(
        None,
        "Side of the model's square input in pixels, or height and width. Default: the checkpoint's, 640 for a new "
        "one.",
    )
    augmentation: bool = argument(True, "Flip, scale and crop training images at random.")
    scale_range: list[float] | None = argument(
        None,
        "Smallest and largest size of a training image over the size at which it just fits. Default: 0.1 2.0, for "
        "semantic segmentation 0.5 2.0.",
    )
    color_jitter: bool = argument(False, "Change the colours of training images at random.")
    predict_outputs: list[str] = argument(
        list(DEFAULT_OUTPUTS),
        "What do_predict writes. overlays: images with the predictions drawn on them; maps: panoptic PNGs or label "
        "maps; json: COCO's formats; figures: image, target and prediction side by side.",
        choices=OUTPUTS,
    )
    max_train_samples: int | None = argument(None, "Train on so many of the images, drawn at random, always the same.")
    max_eval_samples: int | None = argument(
        None,
        "Evaluate on so many of the images, drawn at random, always the same.",
    )
    threshold: float | None = argument(
        None,
        "For do_predict: segments need at least this score, 0 to 1. Default: the checkpoint's.",
    )
    mask_threshold: float | None = argument(
        None,
        "For do_predict: a segment covers the pixels where it is at least as probable as this, 0 to 1. Default: the "
        "checkpoint's.",
    )
    overlap_mask_area_threshold: float | None = argument(
        None,
        "For do_predict, panoptic: a segment needs to keep at least this share of its mask against the others, 0 to "
        "1. Default: the checkpoint's.",
    )
    top_k: int | None = argument(
        None,
        "For do_predict, instances: how many may be found in an image. Default: the checkpoint's.",
    )
    overwrite_output_dir: bool = argument(False, "Write into an output folder that already holds something.")

    def __post_init__(self) -> None:
        check_ranges(vars(self))
        if self.exif not in EXIF:
            raise ValueError(f"exif is {self.exif!r}: it must be one of {', '.join(EXIF)}.")
        if self.class_names is not None and self.label_values is not None:
            raise ValueError("class_names and label_values both say what the classes are: give one.")
        if self.scale_range is not None and (len(self.scale_range) != 2 or self.scale_range[0] > self.scale_range[1]):
            raise ValueError(f"scale_range takes the smallest and the largest scale, got {self.scale_range}.")
        if self.image_size is not None and len(self.image_size) not in (1, 2):
            raise ValueError(f"image_size takes one number or height and width, got {self.image_size}.")
        if self.dataset is not None and (self.train_data or self.validation_data):
            raise ValueError("dataset names a whole dataset, train_data and validation_data its splits: give one.")
        if self.train_val_split is not None and self.validation_data is not None:
            raise ValueError("train_val_split and validation_data both say what to evaluate on: give one.")

    def prediction_settings(self, task: str) -> dict[str, Any]:
        """Returns the settings that a prediction changes. Raises a `ValueError` if one has no effect on the task."""
        from ..tasks import TASKS

        known = [name for name in PREDICTION_SETTINGS if name in TASKS[task].settings]
        if unknown := [name for name in self.given_prediction_settings if name not in known]:
            has = f"these have: {', '.join(known)}" if known else "nothing like it has"
            raise ValueError(f"--{unknown[0]} has no effect on {task} segmentation; {has}. Leave it out.")
        return {name: getattr(self, name) for name in self.given_prediction_settings}

    @property
    def given_prediction_settings(self) -> list[str]:
        """Names of the settings for prediction that are given."""
        return [name for name in PREDICTION_SETTINGS if getattr(self, name) is not None]

    @property
    def pixels(self) -> int | tuple[int, int] | None:
        """`image_size` as models take it."""
        if self.image_size is None or len(self.image_size) == 1:
            return None if self.image_size is None else self.image_size[0]
        return self.image_size[0], self.image_size[1]


def parse_json_object(name: str, text: str) -> Any:
    """Parses JSON on the command line. Raises a `ValueError` if it is none."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not a JSON object: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object. Raises a `ValueError` if a name comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, number in Counter(name for name, _ in pairs).items() if number > 1)
        raise ValueError(f"{twice!r} comes twice")
    return found


ScriptArguments = tuple[ModelArguments, DataArguments, Any]  # the last [`EomtTrainingArguments`]

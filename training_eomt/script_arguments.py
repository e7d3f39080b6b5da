"""Arguments of `run_segmentation.py`: what the model is and what the data are, and how recipes set them."""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from configuration_eomt import EomtConfig
from image_processing_eomt.tasks_eomt import TASKS

from .data import FORMATS
from .data.images import EXIF, MAX_IMAGE_PIXELS, ImageReading
from .prediction_outputs import DEFAULT_OUTPUTS, OUTPUTS
from .training_arguments import EomtTrainingArguments


@dataclass
class ModelArguments:
    """Which model: one that exists, or a new one."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "What to start from, a folder or a name on the Hub: an EoMT checkpoint, or a pre-trained ViT "
            "(DINOv2, DINOv3, ViT, DeiT, timm's ViTs) that becomes the backbone of a new model. Default: nothing."
        },
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of EomtConfig for a new model, a JSON object on the command line."},
    )
    num_queries: int | None = field(
        default=None,
        metadata={
            "help": "The most segments that are found in a picture. Default: the checkpoint's, 200 for a new one."
        },
    )
    num_blocks: int | None = field(
        default=None,
        metadata={"help": "Blocks of the ViT that process the queries. Default: as published for its depth."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.model_config, str):
            try:
                self.model_config = json.loads(self.model_config)
            except ValueError as error:
                raise ValueError(f"model_config {self.model_config!r} is not a JSON object: {error}") from error
        if not self.model_config:
            return
        if self.model_name_or_path:
            raise ValueError("model_config describes a new model, model_name_or_path names an existing one: give one.")
        if not isinstance(self.model_config, dict):
            raise ValueError(f"model_config {self.model_config!r} is not an object of EomtConfig's fields.")
        for owner, names in (
            ("--image_size", ["image_size"]),
            ("--num_queries", ["num_queries"] if self.num_queries else []),
            ("--num_blocks", ["num_blocks"] if self.num_blocks else []),
            ("the data", ["id2label", "label2id", "num_labels"]),
        ):
            if given := [name for name in names if name in self.model_config]:
                raise ValueError(f"model_config sets {given[0]!r}, which comes from {owner}.")
        check_names(self.model_config, [EomtConfig], "model_config")


# What of the image processor's settings decides what becomes a segment, for each task.
PREDICTION_SETTINGS = {
    "panoptic": ("threshold", "mask_threshold", "overlap_mask_area_threshold"),
    "instance": ("threshold", "mask_threshold", "top_k"),
    "semantic": (),
}


@dataclass
class DataArguments:
    """Which data, and how they are prepared."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A data set to train and evaluate on: a folder or a zip file with its splits as they were "
            "published, or a name on the Hub. train_data and validation_data name the splits one by one instead."
        },
    )
    train_data: str | None = field(
        default=None, metadata={"help": "Data to train on: a folder, a COCO JSON file, a zip file, a name on the Hub."}
    )
    validation_data: str | None = field(default=None, metadata={"help": "Data to evaluate on, given as train_data."})
    predict_data: str | None = field(
        default=None,
        metadata={"help": "Pictures to segment: a folder of pictures, a single one, or data given as train_data."},
    )
    dataset_format: str = field(
        default="auto",
        metadata={"help": "How the data are stored. auto: found by looking at them.", "choices": list(FORMATS)},
    )
    train_val_split: float | None = field(
        default=None,
        metadata={
            "help": "How much of the training data to evaluate on instead of training on it, as a fraction below 1 or "
            "a number of pictures: for data without a validation split of their own."
        },
    )
    class_names: str | None = field(
        default=None,
        metadata={"help": "File with the names of the classes, for label maps: a line for each, or JSON."},
    )
    ignore_index: list[int] | None = field(
        default=None, metadata={"help": "Values in label maps that belong to no class. Default: 255."}
    )
    do_reduce_labels: bool | None = field(
        default=None, metadata={"help": "In label maps, 0 belongs to no class and the first class is 1."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the pictures in a `datasets` set."})
    annotation_column: str | None = field(
        default=None, metadata={"help": "Column of the annotations in a `datasets` set."}
    )
    exif: str = field(
        default="auto",
        metadata={
            "help": "Which way up images are read that have an EXIF orientation. upright: turned as it says; stored: "
            "as they lie in the file; auto: as it fits the size of the annotation, upright where both do.",
            "choices": list(EXIF),
        },
    )
    max_image_pixels: int = field(
        default=MAX_IMAGE_PIXELS,
        metadata={"help": "The most pixels of an image or a label map; one that has more is an error."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Kind of segmentation. Default: that of the checkpoint; for a new model, of the annotations.",
            "choices": list(TASKS),
        },
    )
    skip_bad_samples: bool = field(
        default=False,
        metadata={
            "help": "Read everything once before training, and leave out what cannot be used instead of stopping."
        },
    )
    check_data: bool = field(
        default=False, metadata={"help": "Read everything, print the report of the data, and stop there."}
    )
    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Side of the model's square input in pixels, or height and width. "
            "Default: the checkpoint's, 640 for a new one."
        },
    )
    augmentation: bool = field(default=True, metadata={"help": "Flip, scale and crop training pictures at random."})
    scale_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "Smallest and largest size of a training picture over the size at which it just fits. "
            "Default: 0.1 2.0, for semantic segmentation 0.5 2.0."
        },
    )
    color_jitter: bool = field(default=False, metadata={"help": "Change the colours of training pictures at random."})
    predict_outputs: list[str] = field(
        default_factory=lambda: list(DEFAULT_OUTPUTS),
        metadata={
            "help": "What do_predict writes. overlays: pictures with what was found drawn on them; maps: panoptic "
            "PNGs or label maps; json: COCO's formats; figures: picture, target and prediction side by side.",
            "choices": list(OUTPUTS),
        },
    )
    threshold: float | None = field(
        default=None,
        metadata={"help": "For do_predict: segments need at least this score, 0 to 1. Default: the checkpoint's."},
    )
    mask_threshold: float | None = field(
        default=None,
        metadata={
            "help": "For do_predict: a segment covers the pixels where it is at least as probable as this, 0 to 1. "
            "Default: the checkpoint's."
        },
    )
    overlap_mask_area_threshold: float | None = field(
        default=None,
        metadata={
            "help": "For do_predict, panoptic: a segment needs to keep at least this share of its mask against the "
            "others, 0 to 1. Default: the checkpoint's."
        },
    )
    top_k: int | None = field(
        default=None,
        metadata={"help": "For do_predict, instances: how many may be found in a picture. Default: the checkpoint's."},
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Write into an output folder that already holds something."}
    )

    def __post_init__(self) -> None:
        ImageReading(self.exif, self.max_image_pixels)  # checks both
        if self.scale_range is not None and len(self.scale_range) != 2:
            raise ValueError(f"scale_range takes the smallest and the largest scale, got {self.scale_range}.")
        if self.image_size is not None and len(self.image_size) not in (1, 2):
            raise ValueError(f"image_size takes one number or height and width, got {self.image_size}.")
        if self.dataset is not None and (self.train_data or self.validation_data):
            raise ValueError("dataset names a whole data set, train_data and validation_data its splits: give one.")
        share = self.train_val_split
        if share is not None and (share <= 0 or (share >= 1 and share != int(share))):
            raise ValueError(f"train_val_split={share}: it must be a fraction below 1 or a number of pictures.")
        if share is not None and self.validation_data is not None:
            raise ValueError("train_val_split and validation_data both say what to evaluate on: give one.")

        for name in ("threshold", "mask_threshold", "overlap_mask_area_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:  # which NaN is not, either
                raise ValueError(f"{name} is {value}: it must lie between 0 and 1.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}: it must be at least 1.")

    def prediction_settings(self, task: str) -> dict[str, Any]:
        """
        Settings of the image processor for prediction, over its own.

        Raises:
            ValueError: one of them has no effect on the task.
        """
        known, given = PREDICTION_SETTINGS[task], self.gives_prediction_settings
        if unknown := [name for name in given if name not in known]:
            has = f"these have: {', '.join(known)}" if known else "nothing like it has"
            raise ValueError(f"--{unknown[0]} has no effect on {task} segmentation; {has}. Leave it out.")
        return {name: getattr(self, name) for name in given}

    @property
    def gives_prediction_settings(self) -> list[str]:
        """Names of the settings for prediction that are given."""
        names = dict.fromkeys(name for names in PREDICTION_SETTINGS.values() for name in names)
        return [name for name in names if getattr(self, name) is not None]

    @property
    def pixels(self) -> int | tuple[int, int] | None:
        """`image_size` as models take it."""
        if self.image_size is None or len(self.image_size) == 1:
            return self.image_size[0] if self.image_size else None
        return self.image_size[0], self.image_size[1]


def check_names(given: Mapping[str, Any], kinds: Sequence[Any], where: str) -> None:
    """Refuses names that are not fields of any of the given dataclasses, with a suggestion."""
    known = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{where}: there is no {name!r}." + (f" Did you mean {similar[0]!r}?" if similar else ""))


ScriptArguments = tuple[ModelArguments, DataArguments, EomtTrainingArguments]
_KINDS: list[Any] = [ModelArguments, DataArguments, EomtTrainingArguments]


def parse_arguments(arguments: Sequence[str]) -> ScriptArguments:
    """
    Arguments of the command line, on top of those of the recipes that `--recipe` names.

    Args:
        arguments: the command line's words.

    Raises:
        ValueError: a recipe or the command line sets something that does not exist.
        SystemExit: the command line gives a value that cannot be, or asks for help.
    """
    parser = HfArgumentParser(_KINDS, allow_abbrev=False)
    parser.add_argument(
        "--recipe", nargs="+", help="YAML files of arguments: later ones come on top, the command line's own last."
    )
    recipes = parser.parse_known_args(arguments)[0].recipe or []
    given = [word for recipe in recipes for word in recipe_words(Path(recipe))]
    model, data, training, _, unknown = parser.parse_args_into_dataclasses(
        [*given, *arguments], look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        flags = [word.removeprefix("--").split("=")[0].replace("-", "_") for word in unknown if word.startswith("--")]
        check_names(dict.fromkeys(flags), _KINDS, "The command line")
        raise ValueError(f"The command line: {' '.join(unknown)} belongs to no argument.")
    return model, data, training


def recipe_words(path: Path) -> list[str]:
    """The command line that says what a recipe says."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is not a recipe: it must map names of arguments to values.")
    check_names(recipe, _KINDS, str(path))
    words = []
    for name, value in recipe.items():
        if value is None:  # as if it were not there
            continue
        words.append(f"--{name}")
        if isinstance(value, list):
            words.extend(str(item) for item in value)
        else:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return words

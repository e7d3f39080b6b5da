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
        for owner, names in (("--image_size", ["image_size"]), ("the data", ["id2label", "label2id", "num_labels"])):
            if given := [name for name in names if name in self.model_config]:
                raise ValueError(f"model_config sets {given[0]!r}, which comes from {owner}.")
        check_names(self.model_config, [EomtConfig], "model_config")


@dataclass
class DataArguments:
    """Which data, and how they are prepared."""

    train_data: str | None = field(
        default=None,
        metadata={
            "help": "COCO panoptic data to train on: a folder with images/, panoptic/ and panoptic.json, or a JSON "
            "file in COCO's own layout such as coco/annotations/panoptic_train2017.json."
        },
    )
    validation_data: str | None = field(default=None, metadata={"help": "Data to evaluate on, given as train_data."})
    predict_data: str | None = field(
        default=None, metadata={"help": "Pictures to segment: a folder of pictures, or data given as train_data."}
    )
    task: str = field(default="panoptic", metadata={"help": "Kind of segmentation.", "choices": ["panoptic"]})
    image_size: int | None = field(
        default=None,
        metadata={"help": "Side of the model's square input in pixels. Default: the checkpoint's, 640 for a new one."},
    )
    augmentation: bool = field(default=True, metadata={"help": "Flip, scale and crop training pictures at random."})
    scale_range: list[float] = field(
        default_factory=lambda: [0.1, 2.0],
        metadata={"help": "Smallest and largest size of a training picture over the size at which it just fits."},
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Write into an output folder that already holds something."}
    )

    def __post_init__(self) -> None:
        if len(self.scale_range) != 2:
            raise ValueError(f"scale_range takes the smallest and the largest scale, got {self.scale_range}.")


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
    Arguments of the command line, on top of those of the recipe that `--recipe` names.

    Args:
        arguments: the command line's words.

    Raises:
        ValueError: the recipe sets something that does not exist.
        SystemExit: the command line does.
    """
    parser = HfArgumentParser(_KINDS, allow_abbrev=False)
    parser.add_argument("--recipe", help="YAML file of arguments; the command line's own come on top.")
    recipe = parser.parse_known_args(arguments)[0].recipe
    given = recipe_words(Path(recipe)) if recipe is not None else []
    model, data, training, _ = parser.parse_args_into_dataclasses([*given, *arguments], look_for_args_file=False)
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

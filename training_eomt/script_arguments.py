"""Arguments of `run_segmentation.py`: what the model is and what the data are, and how recipes set them."""

import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from .training_arguments import EomtTrainingArguments


@dataclass
class ModelArguments:
    """Which model: one that exists, or a new one."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "EoMT checkpoint to start from, a folder or a name on the Hub. Default: none."}
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of EomtConfig for a new model, a JSON object on the command line."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.model_config, str):
            self.model_config = json.loads(self.model_config)
        if self.model_config and self.model_name_or_path:
            raise ValueError("model_config describes a new model, model_name_or_path names an existing one: give one.")


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
    image_size: int = field(default=640, metadata={"help": "Side of the model's square input in pixels."})
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
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    known = [field.name for kind in _KINDS for field in dataclasses.fields(kind)]
    words = []
    for name, value in recipe.items():
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {similar[0]!r}?" if similar else ""
            raise ValueError(f"{path}: there is no argument {name!r}.{hint}")
        words.append(f"--{name}")
        if isinstance(value, list):
            words.extend(str(item) for item in value)
        else:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return words

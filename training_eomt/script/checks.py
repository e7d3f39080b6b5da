"""Finds what is wrong with a run before anything is loaded; nothing here needs torch."""

import os
import re
from pathlib import Path
from typing import Any, Literal

from ..disk import check_writable
from ..run_files import REPORT
from .arguments import DataArguments, ModelArguments


# Names that a repository on the Hub may have, with or without its owner; only the Hub knows whether it does.
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def evaluates(training_args: Any) -> bool:
    """Returns whether a run evaluates, in the end or during training."""
    during_training = (
        training_args.eval_strategy not in (None, "no")
        or training_args.load_best_model_at_end
        or training_args.save_strategy == "best"
        or training_args.early_stopping_patience is not None
    )
    return training_args.do_eval or (training_args.do_train and during_training)


def check_arguments(model_args: ModelArguments, data_args: DataArguments, training_args: Any) -> None:
    """
    Checks the actions of a run and the folders that it names.

    Raises:
        OSError: a file or folder is missing, the output folder holds something already or cannot be written to.
        ValueError: the arguments do not fit each other.
    """
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
    for name in ("class_names", "label_values", "images_dir"):
        if given := getattr(data_args, name):
            check_exists(name, given, may_be_on_hub=False)
    if data_args.check_data:
        return
    if model_args.model_name_or_path:
        check_exists("model_name_or_path", model_args.model_name_or_path)
    if not training_args.names_output_dir:
        raise ValueError("--output_dir is missing.")
    if data_args.given_prediction_settings and not training_args.do_predict:
        raise ValueError(f"--{data_args.given_prediction_settings[0]} is for --do_predict: add that, or leave it out.")
    if not training_args.do_train and model_args.model_name_or_path is None:
        raise ValueError("Without --do_train there is no model yet: --model_name_or_path names one.")
    if not training_args.do_train and (model_args.num_queries is not None or model_args.num_blocks is not None):
        raise ValueError("Without --do_train the model stays as it is: leave out --num_queries and --num_blocks.")
    output_dir = Path(training_args.output_dir)
    resume_from = parse_resume(training_args)
    if training_args.do_train and resume_from is not None:
        from ..checkpoints import last_complete

        if resume_from is True and last_complete(output_dir) is None:
            raise ValueError(f"{output_dir} holds no complete checkpoint to resume from.")
        if resume_from is not True and not Path(resume_from).is_dir():
            raise ValueError(f"--resume_from_checkpoint {resume_from}: there is no such folder.")
    if training_args.do_train and data_args.overwrite_output_dir and resume_from is None:
        from .former_run import check_not_needed

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


def parse_resume(training_args: Any) -> str | Literal[True] | None:
    """Returns what to resume from: True for the last checkpoint, a checkpoint's path, or None."""
    given = training_args.resume_from_checkpoint
    if given is None or str(given).lower() == "false":
        return None
    return True if str(given).lower() == "true" else given


def check_exists(argument: str, given: str, may_be_on_hub: bool = True) -> None:
    """Raises a `FileNotFoundError` for what is no file or folder, not in a zip, and cannot be a name on the Hub."""
    path = Path(given)
    is_there = path.exists() or any(parent.is_file() for parent in path.parents)
    if not is_there and not (may_be_on_hub and HUB_NAME.fullmatch(given)):
        raise FileNotFoundError(f"--{argument} {given}: there is no such file or folder.")

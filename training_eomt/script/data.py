"""The data of a run: opened, checked, reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from ..data import NoDatasetError, SegmentationDataset, leave_out, open_dataset, split_dataset
from ..data.base import Settings
from ..data.images import ImageReading
from ..data.report import check_samples, has_targets, list_reasons, report
from ..data.subsets import Subset, draw_samples
from ..prediction.sources import ImageFolder, is_image
from .arguments import DataArguments


MAX_READ = 1000  # samples that are read for the report, where only reading them tells


class RunData(NamedTuple):
    """The training and validation data of a run, each None if the run has no use for it."""

    train: SegmentationDataset | None
    validation: SegmentationDataset | None


def open_data(
    arguments: DataArguments, trains: bool, evaluates: bool, task: str | None, id2label: Mapping[int, str] | None
) -> RunData:
    """
    Opens the data that a run needs.

    `task` is None for the task that the data are annotated for; `id2label` are the classes of a model that is not
    trained. Raises a `FileNotFoundError` or a `ValueError` for data that are missing or cannot be used.
    """

    def open_split(path: str, split: str, **settings: Any) -> SegmentationDataset:
        return open_dataset(path, arguments.dataset_format, split=split, **settings, **_settings(arguments))

    train: SegmentationDataset | None = None
    validation: SegmentationDataset | None = None
    train_path, validation_path = arguments.train_data or arguments.dataset, arguments.validation_data
    share = arguments.train_val_split
    if validation_path is None and share is None:
        validation_path = arguments.dataset
    if (trains or share is not None) and train_path is not None:
        train = open_split(train_path, "train", task=task, id2label=None if trains else id2label)
        if share is not None:
            # The same images whenever it is evaluated, and whatever the seed of the training is.
            train, validation = split_dataset(train, share if share < 1 else int(share), seed=0)
        if trains:
            id2label, task = train.label_space.id2label, train.task
        else:
            train = None
    if evaluates and validation_path is not None:
        validation = open_split(validation_path, "validation", task=task, id2label=id2label)
        if arguments.dataset is not None and train is not None and _is_same(train, validation):
            raise ValueError(
                f"{arguments.dataset} has no validation split: name validation data with --train_data and "
                "--validation_data, or set images apart with --train_val_split."
            )
    return RunData(train, validation if evaluates else None)


def _is_same(train: SegmentationDataset, validation: SegmentationDataset) -> bool:
    """Returns whether two splits are the same, since there is only one."""
    if train.where != validation.where or not (len(train) and len(validation)):
        return False
    return train.name(0) == validation.name(0)


def open_prediction_images(
    arguments: DataArguments, task: str | None, id2label: Mapping[int, str]
) -> SegmentationDataset | ImageFolder:
    """Opens the images to segment: a dataset with its targets, a plain folder, or a single image."""
    assert arguments.predict_data is not None
    path = Path(arguments.predict_data)
    image_reading = _image_reading(arguments)
    if is_image(path):
        return ImageFolder(path, image_reading)
    try:
        return open_dataset(
            arguments.predict_data,
            arguments.dataset_format,
            split="predict",
            task=task,
            id2label=id2label,
            **_settings(arguments),
        )
    except NoDatasetError:
        return ImageFolder(arguments.predict_data, image_reading)
    except FileNotFoundError:
        if arguments.dataset_format == "auto":
            raise
        return ImageFolder(arguments.predict_data, image_reading)  # the format belongs to the other data


def _settings(arguments: DataArguments) -> dict[str, Any]:
    """Returns the arguments that say how the data are stored."""
    given = {name: value for name in Settings.__annotations__ if (value := getattr(arguments, name)) is not None}
    # A check goes on after the first error, to list all of them.
    return {
        **given,
        "skip_bad_samples": arguments.skip_bad_samples or arguments.check_data,
        "image_reading": _image_reading(arguments),
    }


def _image_reading(arguments: DataArguments) -> ImageReading:
    return ImageReading(arguments.exif, arguments.max_image_pixels)


def report_data(
    data: RunData, arguments: DataArguments, num_workers: int, show_progress: bool = True
) -> tuple[RunData, dict[str, Any]]:
    """
    Prints the report of the data; takes only some of them and leaves out what cannot be used if that is asked for.

    Returns:
        The data that are left, and the report of each split as a dictionary.

    Raises:
        ValueError: bad samples that are not to be skipped, or no sample is left, or there is nothing to learn in the
            training data.
    """
    state = PartialState()
    limits = {"train": arguments.max_train_samples, "validation": arguments.max_eval_samples}
    parts: dict[str, SegmentationDataset | None] = {}
    reports: dict[str, Any] = {}
    for name, dataset in data._asdict().items():
        if dataset is not None and (number := limits[name]) is not None:
            dataset = draw_samples(dataset, number)
        if dataset is not None and (arguments.skip_bad_samples or arguments.check_data):
            share = Subset(dataset, range(state.process_index, len(dataset), state.num_processes))
            found = check_samples(share, num_workers, show_progress=show_progress and state.is_main_process)
            bad = list(dict.fromkeys([*dataset.bad_samples, *gather_object(found)]))
            if bad and not arguments.skip_bad_samples:
                lines = "\n".join(list_reasons(bad))
                raise ValueError(
                    f"{dataset.where}: {len(bad)} samples, or parts of them, cannot be used. Repair them, or leave "
                    f"them out with --skip_bad_samples:\n{lines}"
                )
            dataset = leave_out(dataset, bad)
            if not len(dataset):
                raise ValueError("\n".join([f"No sample of {dataset.where} can be used.", *list_reasons(bad)]))
        parts[name] = dataset
        if dataset is None:
            continue
        outcome: list[Any] = [None, None]  # the report, and the error to raise in every process
        if state.is_main_process:
            try:
                result = report(dataset, None if arguments.check_data else MAX_READ, num_workers, show_progress)
                print(f"\n{name} data: {result}", flush=True)
                outcome[0] = result.as_dict()
                is_sure = result.num_to_learn and not arguments.skip_bad_samples
                if name == "train" and not is_sure and not has_targets(dataset, num_workers, show_progress):
                    outcome[1] = f"{dataset.where}: there is nothing to learn, since {result.explain_nothing()}."
            except ValueError as error:
                outcome[1] = str(error)
        outcome = broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise ValueError(outcome[1])
        reports[name] = outcome[0]
    return RunData(**parts), reports

"""Opens a dataset of any format, which is recognised by its files."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .ade20k import Ade20kDataset
from .base import SegmentationDataset, Settings
from .cityscapes import CityscapesDataset
from .coco_instance import CocoInstanceDataset
from .coco_panoptic import CocoPanopticDataset
from .files import FileTree, open_tree
from .images import DEFAULT_READING, ImageReading
from .label_maps import LabelMapDataset
from .splits import SPLITS, find_split_names, list_split_names
from .table import TableDataset
from .yolo import YoloDataset


if TYPE_CHECKING:
    from typing_extensions import Unpack


logger = logging.getLogger(__name__)

# In the order in which they are tried.
READERS: dict[str, type[SegmentationDataset]] = {
    "coco_panoptic": CocoPanopticDataset,
    "coco_instance": CocoInstanceDataset,
    "yolo": YoloDataset,
    "cityscapes": CityscapesDataset,
    "ade20k": Ade20kDataset,
    "datasets": TableDataset,
    "label_maps": LabelMapDataset,
}
AUTO = "auto"
FORMATS = (AUTO, *READERS)
MANY_ENTRIES = 12


class NoDatasetError(FileNotFoundError):
    """The files at a path are of no known format."""


def open_dataset(
    path: str | Path,
    format: str = AUTO,
    *,
    split: str = "train",
    id2label: Mapping[int, str] | None = None,
    task: str | None = None,
    skip_bad_samples: bool = False,
    image_reading: ImageReading = DEFAULT_READING,
    **settings: Unpack[Settings],
) -> SegmentationDataset:
    """
    Opens a dataset.

    Looked at are, in this order, the path itself, the folders in it that are named like the split (`train`,
    `train2017`, `val`, `test`...), and, where there is a single folder in it, that one likewise. At the first of these
    that fits a format, the formats are tried in the order of [`FORMATS`]; for instance segmentation, COCO instances
    come first, since their masks may overlap. Where several fit, the choice is logged as a warning.

    Args:
        path: a folder or a zip with one split or several, a JSON or YAML file, or a name on the Hub.
        format: one of [`FORMATS`].
        split: "train", "validation" or "predict" (test data, or those for validation where there are none).
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`].
        settings: see [`Settings`].

    Raises:
        FileNotFoundError: there is no such path, or nothing of a known format in it ([`NoDatasetError`]).
        ValueError: there is no such format or split, a setting that the format does not know, or what its reader
            raises.
    """
    list_split_names(split)
    if format not in FORMATS:
        raise ValueError(f"There is no data format {format!r}: {', '.join(FORMATS)}.")
    name, source = _find(str(path), format, split, task, skip_bad_samples)
    reader = READERS[name]
    for setting, value in settings.items():
        if value is not None and setting not in reader.SETTINGS:
            able = [other for other in READERS if setting in READERS[other].SETTINGS]
            raise ValueError(
                f"{path} is read as {name}, which has no {setting} ({value!r} was given): it is a setting of "
                f"{' and '.join(able)}."
            )
    return reader(
        source,
        id2label,
        task=task,
        skip_bad_samples=skip_bad_samples,
        split=split,
        image_reading=image_reading,
        **settings,
    )


def _find(
    path: str, format: str, split: str, task: str | None, skip_bad_samples: bool
) -> tuple[str, str | Path | FileTree]:
    """Finds the format of the files at a path, and the source that its reader takes."""
    if any(Path(path).suffix in reader.SUFFIXES for reader in READERS.values()):
        found = next(name for name, reader in READERS.items() if reader.fits_file(Path(path)))
        return (found if format == AUTO else format), path
    try:
        tree = open_tree(path, skip_bad_samples)
    except FileNotFoundError:
        looks_like_hub = not Path(path).is_absolute() and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path)
        if format == "datasets" or (format == AUTO and looks_like_hub):
            return "datasets", path
        raise
    readers = READERS if format == AUTO else {format: READERS[format]}
    if task == "instance":
        readers = dict(sorted(readers.items(), key=lambda item: item[0] != "coco_instance"))
    candidates = _list_places(tree, split)
    for place in candidates:
        fitting = [name for name, reader in readers.items() if reader.fits(place, split)]
        if fitting:
            fitting = [name for name in fitting if name != "label_maps"] or fitting  # the most general one
            if len(fitting) > 1:
                logger.warning(
                    "%s fits the formats %s; it is read as %s.", place.root, " and ".join(fitting), fitting[0]
                )
            return fitting[0], place
    if format != AUTO:
        return format, tree  # whose reader says what is missing
    entries = [f"{name}/" for name in tree.folders()] + tree.files()
    found = ", ".join(entries[:MANY_ENTRIES]) or "nothing"
    if len(entries) > MANY_ENTRIES:
        found += f" and {len(entries) - MANY_ENTRIES} more"
    looked_for = "; ".join(reader.LOOKS_FOR for reader in READERS.values())
    raise NoDatasetError(
        f"{path} holds no dataset of a known format for the {split} split. Looked for, there and in folders named "
        f"{', '.join(list_split_names(split))}: {looked_for}. Found: {found}."
    )


def _list_places(tree: FileTree, split: str) -> list[FileTree]:
    """Lists where a split may be, in the order in which to look."""
    places = [tree, *(tree.subtree(folder) for folder in find_split_names(tree.folders(), split))]
    folders = tree.folders()
    if len(folders) == 1 and not any(find_split_names(folders, other) for other in SPLITS):
        inner = tree.subtree(folders[0])
        places += [inner, *(inner.subtree(folder) for folder in find_split_names(inner.folders(), split))]
    return places

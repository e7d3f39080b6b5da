"""What is written for a segmented picture, and for all of them together once the last one is done."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from image_processing_eomt import draw_segmentation

from ..data.colours import decode_rgb
from ..data.samples import Sample
from ..figures import as_segments, overlapping_segments, side_by_side
from ..tasks import build_panoptic_reference
from .records import Record, is_running


OUTPUTS = ("overlays", "maps", "json", "figures")
DEFAULT_OUTPUTS = OUTPUTS[:3]
OVERLAYS, FIGURES, PANOPTIC, LABEL_MAPS, DRAFTS = "overlays", "figures", "panoptic", "label_maps", ".drafts"
# What is added to a picture's path, in each of these folders.
ENDINGS = {OVERLAYS: ".overlay.png", FIGURES: ".figure.png", PANOPTIC: ".png", LABEL_MAPS: ".png"}
PANOPTIC_JSON, INSTANCES_JSON, CLASSES_JSON = "panoptic.json", "instances.json", "classes.json"
SCORE_DIGITS = 6
MAX_NUMBER = np.iinfo(np.uint16).max  # of a class in a label map


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Args:
        name: its name in the source.
        path: what its files are called, less their endings.
        image_id: the data set's number of it, or its name.
        size: `(height, width)` in pixels.
        stamp: tells the file that was read from one that replaces it.
        sample: the picture itself and its targets, where it is to be drawn.
    """

    name: str
    path: str
    image_id: int | str
    size: tuple[int, int]
    stamp: str | None = None
    sample: Sample | None = None


class PredictionFiles:
    """The files of predictions in a folder; every one appears under its name once it is complete.

    A picture's files are called like the picture, with its folders and its suffix, and an ending: `street/1.jpg`
    becomes `street/1.jpg.png`, so that no picture replaces another.

    Args:
        directory: the folder.
        task: "panoptic", "instance" or "semantic".
        outputs: which of `OUTPUTS` to write.
        id2label: the model's classes.
        stuff_classes: label ids of the classes that are not things.
        category_ids: label id -> number under which the class is written; other classes get numbers after these. By
            default label ids themselves.
        has_targets: whether pictures know what is to be found in them.
        process: tells unfinished files of one process from those of another.

    Raises:
        ValueError: an output does not exist, two classes have one number, or a number does not fit in a label map.
    """

    def __init__(
        self,
        directory: Path,
        task: str,
        outputs: Collection[str],
        id2label: Mapping[int, str],
        stuff_classes: Collection[int] = (),
        category_ids: Mapping[int, int] | None = None,
        has_targets: bool = False,
        process: str = "0-of-1",
    ) -> None:
        if unknown := sorted(set(outputs) - set(OUTPUTS)):
            raise ValueError(f"There is no output {unknown[0]!r}, only {', '.join(OUTPUTS)}.")
        self.directory = directory
        self.task = task
        self.outputs = frozenset(outputs)
        self.id2label = id2label
        self.stuff_classes = frozenset(stuff_classes)
        self.category_ids = _category_ids(id2label, category_ids)
        if task == "semantic" and not all(0 <= number <= MAX_NUMBER for number in self.category_ids.values()):
            raise ValueError(f"Numbers of classes in label maps are 0 to {MAX_NUMBER}, got {self.category_ids}.")
        self.has_targets = has_targets
        self.process = process
        self._draft_numbers = itertools.count()

    @property
    def draws(self) -> bool:
        """Whether pictures themselves are needed, to be drawn."""
        return bool(self.outputs & {"overlays", "figures"})

    def names(self, path: str) -> list[str]:
        """The files of a picture, from the folder on."""
        folders = [OVERLAYS] if "overlays" in self.outputs else []
        folders += [FIGURES] if "figures" in self.outputs else []
        if "maps" in self.outputs and self.task != "instance":
            folders.append(PANOPTIC if self.task == "panoptic" else LABEL_MAPS)
        return [f"{folder}/{path}{ENDINGS[folder]}" for folder in folders]

    def are_whole(self, sizes: Mapping[str, int]) -> bool:
        """Whether files, given by their names from the folder on, are there with these sizes in bytes."""
        try:
            return all((self.directory / name).stat().st_size == size for name, size in sizes.items())
        except OSError:
            return False

    def holds(self, record: Record, path: str) -> bool:
        """Whether a record says everything of the picture with files at `path`, and they are there."""
        needed = (record.id, record.height, record.width, record.segments)
        if "json" in self.outputs and self.task != "semantic" and any(value is None for value in needed):
            return False
        return sorted(record.files) == sorted(self.names(path)) and self.are_whole(record.files)

    def remove_old_drafts(self) -> None:
        """Removes what runs that were killed left behind. Only for the [`only_run`] of this process."""
        owners: dict[str, bool] = {self.process: False}
        for draft in sorted((self.directory / DRAFTS).glob("*")):
            owner = draft.name.partition(".")[0]
            if owner not in owners:
                owners[owner] = is_running(self.directory, owner)
            if not owners[owner]:
                draft.unlink(missing_ok=True)

    def write(self, picture: Picture, result: Any) -> dict[str, Any]:
        """
        Writes the files of one picture. Threads may do this for several pictures at a time.

        Args:
            picture: the picture.
            result: what post-processing for the task returned, on the CPU; masks of instances as run lengths.

        Returns:
            Fields of its [`Record`], JSON.

        Raises:
            OSError, ValueError: a file cannot be written. None of the picture's files is left then.
        """
        sizes: dict[str, int] = {}
        try:
            for name in self.names(picture.path):
                sizes[name] = self._save(self._drawn(name.partition("/")[0], picture, result), name)
        except BaseException:
            for name in sizes:
                (self.directory / name).unlink(missing_ok=True)
            raise
        content: dict[str, Any] = {"stamp": picture.stamp, "files": sizes}
        if self.task == "semantic":
            return content
        segments = self._panoptic_segments(result) if self.task == "panoptic" else self._instances(result)
        content["num_segments"] = len(segments)
        if "json" in self.outputs:
            height, width = picture.size
            content |= {"id": picture.image_id, "height": height, "width": width, "segments": segments}
        return content

    @property
    def final_names(self) -> list[str]:
        """The files that are about all pictures."""
        if "json" not in self.outputs:
            return []
        return {
            "panoptic": [PANOPTIC_JSON],
            "instance": [INSTANCES_JSON, CLASSES_JSON],
            "semantic": [CLASSES_JSON],
        }[self.task]

    def finish(self, records: Callable[[], Iterator[Record]]) -> dict[str, int]:
        """
        Writes the files that are about all pictures.

        Args:
            records: gives, each time it is called, the record of each picture, in order.

        Returns:
            Their names, and their sizes in bytes.
        """
        writers: dict[str, Callable[[TextIO], None]] = {
            PANOPTIC_JSON: lambda file: self._write_panoptic_json(file, records),
            INSTANCES_JSON: lambda file: _write_array(
                file, ({"image_id": record.id, **segment} for record in records() for segment in record.segments or ())
            ),
            CLASSES_JSON: self._write_classes,
        }
        return {name: self.write_text(name, writers[name]) for name in self.final_names}

    def write_text(self, name: str, write: Callable[[TextIO], None]) -> int:
        """Has a text file written, which replaces the one of this name once it is complete; its size in bytes."""
        draft = self._draft()
        try:
            with draft.open("w", encoding="ascii") as file:
                write(file)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            size = draft.stat().st_size
            draft.replace(self.directory / name)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return size

    def _draft(self) -> Path:
        """Where to write a file that is not complete yet."""
        folder = self.directory / DRAFTS
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.process}.{os.getpid()}.{next(self._draft_numbers)}"

    def _save(self, image: Image.Image, name: str) -> int:
        """Writes a picture and returns the size of its file in bytes."""
        draft, path = self._draft(), self.directory / name
        try:
            image.save(draft, format="PNG")
            size = draft.stat().st_size
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return size

    def _drawn(self, folder: str, picture: Picture, result: Any) -> Image.Image:
        """What is to be seen of a picture in the file of one of the folders."""
        if folder == PANOPTIC:
            return _panoptic_png(result["segmentation"].numpy())
        if folder == LABEL_MAPS:
            return self._label_map(result.numpy())
        sample = picture.sample
        assert sample is not None  # read for this
        found = overlapping_segments(result, picture.size) if self.task == "instance" else as_segments(result)
        if folder == OVERLAYS:
            return draw_segmentation(sample.image, found["segmentation"], found["segments_info"], self.id2label)
        panels: dict[str, Any] = {"target": build_panoptic_reference(sample)} if self.has_targets else {}
        return side_by_side(sample.image, {**panels, "prediction": found}, self.id2label)

    def _write_classes(self, file: TextIO) -> None:
        classes = {self.category_ids[label_id]: name for label_id, name in self.id2label.items()}
        json.dump(dict(sorted(classes.items())), file, indent=2)

    def _label_map(self, classes: np.ndarray) -> Image.Image:
        """Numbers of classes, with 8 bits or, where one of them does not fit, 16."""
        numbers = np.array([self.category_ids[label_id] for label_id in range(len(self.category_ids))])
        dtype = np.uint8 if numbers.max() <= np.iinfo(np.uint8).max else np.uint16
        return Image.fromarray(numbers.astype(dtype)[classes])

    def _panoptic_segments(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "id": info["id"] + 1,
                "category_id": self.category_ids[info["label_id"]],
                "area": info["area"],
                "bbox": info["bbox"],
                "iscrowd": 0,
                "score": round(info["score"], SCORE_DIGITS),
            }
            for info in result["segments_info"]
        ]

    def _instances(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        # Without boxes: where there are some, pycocotools takes their areas for those of the masks.
        return [
            {
                "category_id": self.category_ids[info["label_id"]],
                "segmentation": rle,
                "score": round(info["score"], SCORE_DIGITS),
            }
            for rle, info in zip(result["segmentation"], result["segments_info"], strict=True)
            if info["area"] > 0
        ]

    def _write_panoptic_json(self, file: TextIO, records: Callable[[], Iterator[Record]]) -> None:
        categories = [
            {"id": number, "name": self.id2label[label_id], "isthing": int(label_id not in self.stuff_classes)}
            for label_id, number in sorted(self.category_ids.items(), key=lambda item: item[1])
        ]
        images = (
            {"id": record.id, "file_name": record.picture, "height": record.height, "width": record.width}
            for record in records()
        )
        annotations = (
            {"image_id": record.id, "file_name": _map_of(record), "segments_info": record.segments}
            for record in records()
        )
        for start, entries in (
            ('{"categories": ', categories),
            (',\n"images": ', images),
            (',\n"annotations": ', annotations),
        ):
            file.write(start)
            _write_array(file, entries)
        file.write("}")


def _map_of(record: Record) -> str:
    """The panoptic PNG of a picture, as COCO's JSON calls it, whether it was written or not."""
    name = next((name for name in record.files if name.startswith(f"{PANOPTIC}/")), None)
    return f"{record.picture}.png" if name is None else name.partition("/")[2]


def _write_array(file: TextIO, entries: Iterable[Any]) -> None:
    """A JSON array, an entry to a line, of which no two are in memory."""
    separator = "["
    for entry in entries:
        file.write(f"{separator}\n{json.dumps(entry)}")
        separator = ","
    file.write("[]" if separator == "[" else "\n]")


def _panoptic_png(segmentation: np.ndarray) -> Image.Image:
    """Segment `i` of a map of `(height, width)` in the colour of COCO's id i + 1, what is no segment black."""
    return Image.fromarray(decode_rgb(segmentation + 1))


def _category_ids(id2label: Mapping[int, str], given: Mapping[int, int] | None) -> dict[int, int]:
    """The number of every class; those that data do not know come after those they do."""
    if given is None:
        return {label_id: label_id for label_id in id2label}
    if len(set(given.values())) < len(given):
        raise ValueError(f"Two classes have one number in category_ids: {dict(given)}.")
    free = itertools.count(max(given.values(), default=-1) + 1)
    return {label_id: given[label_id] if label_id in given else next(free) for label_id in sorted(id2label)}

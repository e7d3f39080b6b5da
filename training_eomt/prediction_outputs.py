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

from .data.samples import Sample
from .figures import as_segments, overlapping_segments, side_by_side
from .inputs import panoptic_reference


OUTPUTS = ("overlays", "maps", "json")
OVERLAYS, PANOPTIC, LABEL_MAPS, DRAFTS = "overlays", "panoptic", "label_maps", ".drafts"
PANOPTIC_JSON, INSTANCES_JSON, CLASSES_JSON = "panoptic.json", "instances.json", "classes.json"
SCORE_DIGITS = 6
MAX_NUMBER = np.iinfo(np.uint16).max  # of a class in a label map


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Args:
        name: its path in the source.
        image_id: the data set's number of it, or its name.
        size: `(height, width)` in pixels.
        sample: the picture itself and its targets, where it is to be drawn.
    """

    name: str
    image_id: int | str
    size: tuple[int, int]
    sample: Sample | None = None


class PredictionFiles:
    """The files of predictions in a folder; every one appears under its name once it is complete.

    A picture's files are called like the picture, with its folders and its suffix: `street/1.jpg` becomes
    `street/1.jpg.png`, so that no picture replaces another.

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
        for draft in (directory / DRAFTS).glob(f"{process}.*"):  # of a run that was stopped
            draft.unlink()

    def write(self, picture: Picture, result: Any) -> dict[str, Any]:
        """
        Writes the files of one picture. Threads may do this for several pictures at a time.

        Args:
            picture: the picture.
            result: what post-processing for the task returned, on the CPU; masks of instances as run lengths.

        Returns:
            What `finish` needs of the picture, JSON.
        """
        if "overlays" in self.outputs:
            self._save(self._overlay(picture, result), f"{OVERLAYS}/{picture.name}.png")
        if "maps" in self.outputs and self.task == "panoptic":
            self._save(_panoptic_png(result["segmentation"].numpy()), f"{PANOPTIC}/{picture.name}.png")
        if "maps" in self.outputs and self.task == "semantic":
            self._save(self._label_map(result.numpy()), f"{LABEL_MAPS}/{picture.name}.png")
        if "json" not in self.outputs or self.task == "semantic":
            return {}
        segments = self._panoptic_segments(result) if self.task == "panoptic" else self._instances(result)
        height, width = picture.size
        return {"id": picture.image_id, "height": height, "width": width, "segments": segments}

    def finish(self, records: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """
        Writes the files that are about all pictures.

        Args:
            records: gives, each time it is called, for each picture in order what `write` returned, and its name as
                `picture`.
        """
        if "json" not in self.outputs:
            return
        if self.task == "panoptic":
            self.write_text(PANOPTIC_JSON, lambda file: self._write_panoptic_json(file, records))
            return
        if self.task == "instance":
            instances = (
                {"image_id": record["id"], **instance} for record in records() for instance in record["segments"]
            )
            self.write_text(INSTANCES_JSON, lambda file: _write_array(file, instances))
        classes = {self.category_ids[label_id]: name for label_id, name in self.id2label.items()}
        self.write_text(CLASSES_JSON, lambda file: json.dump(dict(sorted(classes.items())), file, indent=2))

    def write_text(self, name: str, write: Callable[[TextIO], None]) -> None:
        """Has a text file written, which replaces the one of this name once it is complete."""
        draft = self._draft()
        with draft.open("w", encoding="ascii") as file:
            write(file)
            file.write("\n")
        draft.replace(self.directory / name)

    def _draft(self) -> Path:
        """Where to write a file that is not complete yet."""
        folder = self.directory / DRAFTS
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.process}.{os.getpid()}.{next(self._draft_numbers)}"

    def _save(self, image: Image.Image, name: str) -> None:
        draft, path = self._draft(), self.directory / name
        image.save(draft, format="PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path)

    def _overlay(self, picture: Picture, result: Any) -> Image.Image:
        sample = picture.sample
        assert sample is not None  # read for this
        panels: dict[str, Any] = {"target": panoptic_reference(sample)} if self.has_targets else {}
        panels["prediction"] = (
            overlapping_segments(result, picture.size) if self.task == "instance" else as_segments(result)
        )
        return side_by_side(sample.image, panels, self.id2label)

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

    def _write_panoptic_json(self, file: TextIO, records: Callable[[], Iterator[dict[str, Any]]]) -> None:
        categories = [
            {"id": number, "name": self.id2label[label_id], "isthing": int(label_id not in self.stuff_classes)}
            for label_id, number in sorted(self.category_ids.items(), key=lambda item: item[1])
        ]
        images = (
            {
                "id": record["id"],
                "file_name": record["picture"],
                "height": record["height"],
                "width": record["width"],
            }
            for record in records()
        )
        annotations = (
            {
                "image_id": record["id"],
                "file_name": f"{record['picture']}.png",
                "segments_info": record["segments"],
            }
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


def _write_array(file: TextIO, entries: Iterable[Any]) -> None:
    """A JSON array, an entry to a line, of which no two are in memory."""
    separator = "["
    for entry in entries:
        file.write(f"{separator}\n{json.dumps(entry)}")
        separator = ","
    file.write("[]" if separator == "[" else "\n]")


def _panoptic_png(segmentation: np.ndarray) -> Image.Image:
    """Segment `i` of a map of `(height, width)` in the colour of COCO's id i + 1, what is no segment black."""
    ids = segmentation + 1
    return Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8))


def _category_ids(id2label: Mapping[int, str], given: Mapping[int, int] | None) -> dict[int, int]:
    """The number of every class; those that data do not know come after those they do."""
    if given is None:
        return {label_id: label_id for label_id in id2label}
    if len(set(given.values())) < len(given):
        raise ValueError(f"Two classes have one number in category_ids: {dict(given)}.")
    free = itertools.count(max(given.values(), default=-1) + 1)
    return {label_id: given[label_id] if label_id in given else next(free) for label_id in sorted(id2label)}

"""What is written for a segmented image, and for all of them together once the last one is done."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
from PIL import Image

from image_processing_eomt import draw_segmentation

from ..data.colours import decode_rgb
from ..data.samples import Sample
from ..figures import Segmentation, as_segments, draw_comparison, overlapping_segments, side_by_side
from ..json_files import read_json
from ..tasks import build_panoptic_reference
from .records import RECORD_ENDING, RECORDS, Record
from .shared_folder import SharedFolder
from .summary import PredictionSummary


OUTPUTS = ("overlays", "maps", "json", "figures")
DEFAULT_OUTPUTS = OUTPUTS[:3]
OVERLAYS, FIGURES, PANOPTIC, LABEL_MAPS = "overlays", "figures", "panoptic", "label_maps"
# What is added to an image's path, in each of these folders.
ENDINGS = {
    OVERLAYS: ".overlay.png",
    FIGURES: ".figure.png",
    PANOPTIC: ".png",
    LABEL_MAPS: ".png",
    RECORDS: RECORD_ENDING,
}
PANOPTIC_JSON, INSTANCES_JSON, CLASSES_JSON = "panoptic.json", "instances.json", "classes.json"
SUMMARY_FILE = "summary.json"
SCORE_DIGITS = 6
MAX_NUMBER = np.iinfo(np.uint16).max  # of a class in a label map

# Returns, each time it is called, the records of all finished images, in order.
ReadRecords = Callable[[], Iterator[Record]]


class ReadImage(NamedTuple):
    """An image that was read.

    Args:
        path: what its files are called, without their endings.
        record: what is known about it so far.
        sample: the image itself and its targets, where it is to be drawn.
    """

    path: str
    record: Record
    sample: Sample | None = None

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return self.record.height, self.record.width


class _SummaryFile(msgspec.Struct):
    """What `summary.json` says. `files` are the other files about all images and their sizes in bytes."""

    num_images: int
    num_segmented: int
    num_without_segments: int
    failed: list[dict[str, str]]
    records_sha256: str
    files: dict[str, int]


class PredictionFiles(ABC):
    """The files of a task's predictions; [`PREDICTION_FILES`] has the class for each task.

    An image's files are called like the image, with its folders and another ending: `street/1.jpg` becomes
    `street/1.png`, see [`make_safe_paths`].

    Args:
        folder: where to write.
        outputs: which of `OUTPUTS` to write.
        id2label: the model's classes.
        stuff_classes: label ids of the classes that are not things.
        category_ids: label id -> number under which the class is written; other classes get numbers after these. By
            default label ids themselves.
        has_targets: whether images come with targets.

    Raises:
        ValueError: an output does not exist, two classes have one number, or a number does not fit in a label map.
    """

    maps: ClassVar[str | None] = None  # the folder of the maps
    has_background: ClassVar[bool] = False  # whether pixels without a target are known to be of no class
    post_processing: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # settings that results are made with

    def __init__(
        self,
        folder: SharedFolder,
        outputs: Collection[str],
        id2label: Mapping[int, str],
        stuff_classes: Collection[int] = (),
        category_ids: Mapping[int, int] | None = None,
        has_targets: bool = False,
    ) -> None:
        if unknown := sorted(set(outputs) - set(OUTPUTS)):
            raise ValueError(f"There is no output {unknown[0]!r}, only {', '.join(OUTPUTS)}.")
        self.folder = folder
        self.outputs = frozenset(outputs)
        self.id2label = id2label
        self.stuff_classes = frozenset(stuff_classes)
        self.category_ids = _number_classes(id2label, category_ids)
        self.has_targets = has_targets

    @property
    def draws(self) -> bool:
        """Whether the images themselves are needed, to be drawn."""
        return bool(self.outputs & {"overlays", "figures"})

    def list_names(self, path: str) -> list[str]:
        """Returns the files of an image, by their paths in the folder."""
        folders = {"overlays": OVERLAYS, "figures": FIGURES, "maps": self.maps}
        wanted = [folder for output, folder in folders.items() if output in self.outputs and folder is not None]
        return [f"{folder}/{path}{ENDINGS[folder]}" for folder in wanted]

    def are_whole(self, sizes: Mapping[str, int]) -> bool:
        """Whether files, given by their paths in the folder, are there with these sizes in bytes."""
        try:
            return all((self.folder.directory / name).stat().st_size == size for name, size in sizes.items())
        except OSError:
            return False

    def write(self, image: ReadImage, result: Any) -> None:
        """
        Writes the files of one image, and completes its record. Threads may do this for several images at a time.

        Args:
            image: the image.
            result: what post-processing with `post_processing` returned, on the CPU.

        Raises:
            OSError, ValueError: a file cannot be written. None of the image's files is left then.
        """
        sizes: dict[str, int] = {}
        try:
            for name in self.list_names(image.path):
                drawing = self._draw(name.partition("/")[0], image, result)
                sizes[name] = self.folder.write(name, partial(drawing.save, format="PNG"))
        except BaseException:
            for name in sizes:
                (self.folder.directory / name).unlink(missing_ok=True)
            raise
        image.record.files = sizes
        segments = self.list_segments(result)
        image.record.num_segments = None if segments is None else len(segments)
        image.record.segments = segments if "json" in self.outputs else None

    def is_up_to_date(self, summary: PredictionSummary) -> bool:
        """Whether the files about all images are there and say what the summary does."""
        try:
            written = read_json((self.folder.directory / SUMMARY_FILE).read_bytes(), _SummaryFile, SUMMARY_FILE)
        except (OSError, ValueError):
            return False
        return written.records_sha256 == summary.records_sha256 and self.are_whole(written.files)

    def write_files_about_all(self, summary: PredictionSummary, read_records: ReadRecords) -> None:
        """Writes the JSON files of the task and, last, the summary."""
        texts = self.format_json(read_records) if "json" in self.outputs else {}
        content = _SummaryFile(
            summary.num_images,
            summary.num_segmented,
            summary.num_empty,
            [image._asdict() for image in summary.failed],
            summary.records_sha256,
            {name: self.folder.write_text(name, parts) for name, parts in texts.items()},
        )
        self.folder.write_text(SUMMARY_FILE, [json.dumps(msgspec.to_builtins(content), indent=2), "\n"])

    @abstractmethod
    def list_segments(self, result: Any) -> list[dict[str, Any]] | None:
        """Returns the segments as the task's JSON has them, None where every pixel has a class."""

    @abstractmethod
    def format_json(self, read_records: ReadRecords) -> dict[str, Iterable[str]]:
        """Returns the text of each file about all images, in parts that are made when they are asked for."""

    def draw_map(self, result: Any) -> Image.Image:
        """Draws the map in the folder `maps`."""
        raise NotImplementedError

    def flatten(self, result: Any, size: tuple[int, int]) -> Segmentation:
        """Returns the segments as they are drawn, one for each pixel."""
        return as_segments(result)

    def _draw(self, folder: str, image: ReadImage, result: Any) -> Image.Image:
        if folder == self.maps:
            return self.draw_map(result)
        sample = image.sample
        assert sample is not None  # read for this
        found = self.flatten(result, image.size)
        if folder == OVERLAYS:
            return draw_segmentation(sample.image, found["segmentation"], found["segments_info"], self.id2label)
        if not self.has_targets:
            return side_by_side(sample.image, {"prediction": found}, self.id2label)
        target = build_panoptic_reference(sample)
        return draw_comparison(sample.image, target, found, self.id2label, self.has_background)

    def _format_classes(self) -> Iterable[str]:
        classes = {self.category_ids[label_id]: name for label_id, name in self.id2label.items()}
        return json.dumps(dict(sorted(classes.items())), indent=2), "\n"


class PanopticFiles(PredictionFiles):
    """Maps whose colours are ids, and JSON in COCO panoptic format, each segment with its `score`."""

    maps = PANOPTIC

    def list_segments(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
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

    def draw_map(self, result: Mapping[str, Any]) -> Image.Image:
        """Draws segment `i` in the colour of COCO's id i + 1, and black what is no segment."""
        return Image.fromarray(decode_rgb(result["segmentation"].numpy() + 1))

    def format_json(self, read_records: ReadRecords) -> dict[str, Iterable[str]]:
        return {PANOPTIC_JSON: self._format_panoptic(read_records)}

    def _format_panoptic(self, read_records: ReadRecords) -> Iterator[str]:
        categories = (
            {"id": number, "name": self.id2label[label_id], "isthing": int(label_id not in self.stuff_classes)}
            for label_id, number in sorted(self.category_ids.items(), key=lambda item: item[1])
        )
        images = (
            {"id": record.id, "file_name": record.image, "height": record.height, "width": record.width}
            for record in read_records()
        )
        annotations = (
            {"image_id": record.id, "file_name": _find_map(record), "segments_info": record.segments}
            for record in read_records()
        )
        yield '{"categories": '
        yield from _format_array(categories)
        yield ',\n"images": '
        yield from _format_array(images)
        yield ',\n"annotations": '
        yield from _format_array(annotations)
        yield "}\n"


class InstanceFiles(PredictionFiles):
    """COCO results; instances overlap, so they have no maps."""

    has_background = True
    post_processing = MappingProxyType({"return_coco_annotation": True})

    def list_segments(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
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

    def flatten(self, result: Mapping[str, Any], size: tuple[int, int]) -> Segmentation:
        return overlapping_segments(result, size)

    def format_json(self, read_records: ReadRecords) -> dict[str, Iterable[str]]:
        results = (
            {"image_id": record.id, **segment} for record in read_records() for segment in record.segments or ()
        )
        return {INSTANCES_JSON: itertools.chain(_format_array(results), ["\n"]), CLASSES_JSON: self._format_classes()}


class SemanticFiles(PredictionFiles):
    """Maps of the numbers of classes."""

    maps = LABEL_MAPS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not all(0 <= number <= MAX_NUMBER for number in self.category_ids.values()):
            raise ValueError(f"Numbers of classes in label maps are 0 to {MAX_NUMBER}, got {self.category_ids}.")

    def list_segments(self, result: Any) -> None:
        return None

    def format_json(self, read_records: ReadRecords) -> dict[str, Iterable[str]]:
        return {CLASSES_JSON: self._format_classes()}

    def draw_map(self, result: Any) -> Image.Image:
        """Draws numbers of classes, with 8 bits or, where one of them does not fit, 16."""
        numbers = np.array([self.category_ids[label_id] for label_id in range(len(self.category_ids))])
        dtype = np.uint8 if numbers.max() <= np.iinfo(np.uint8).max else np.uint16
        return Image.fromarray(numbers.astype(dtype)[result.numpy()])


PREDICTION_FILES: Mapping[str, type[PredictionFiles]] = {
    "panoptic": PanopticFiles,
    "instance": InstanceFiles,
    "semantic": SemanticFiles,
}


def _find_map(record: Record) -> str:
    """Returns the panoptic PNG of an image as COCO's JSON names it, whether it was written or not."""
    name = next((name for name in record.files if name.startswith(f"{PANOPTIC}/")), None)
    return f"{record.image}.png" if name is None else name.partition("/")[2]


def _format_array(entries: Iterable[Any]) -> Iterator[str]:
    """Yields a JSON array, an entry to a line."""
    separator = "["
    for entry in entries:
        yield f"{separator}\n{json.dumps(entry)}"
        separator = ","
    yield "[]" if separator == "[" else "\n]"


def _number_classes(id2label: Mapping[int, str], given: Mapping[int, int] | None) -> dict[int, int]:
    """Returns the number of every class; those that the data do not know come after those they do."""
    if given is None:
        return {label_id: label_id for label_id in id2label}
    if len(set(given.values())) < len(given):
        raise ValueError(f"Two classes have one number in category_ids: {dict(given)}.")
    free = itertools.count(max(given.values(), default=-1) + 1)
    return {label_id: given[label_id] if label_id in given else next(free) for label_id in sorted(id2label)}

"""Data sets in COCO's instance format: pictures, and one JSON file with polygons and run-length encodings.

The format: https://cocodataset.org/#format-data, section 1.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pycocotools import mask as coco_mask

from .base import Annotation, SampleSummary, SegmentationDataset
from .coco_json import (
    SEGMENT_NUMBERS,
    fault_of_entry,
    find_folder,
    find_json,
    images_by_id,
    locate_json,
    missing_files,
    read_categories,
    read_json,
    summary_size,
)
from .files import FileTree
from .images import DEFAULT_READING, ImageReading
from .samples import Sample


COCO_INSTANCE = "COCO instances"


class CocoInstanceDataset(SegmentationDataset):
    """Reads COCO instances; item `i` is the `Sample` of the `i`-th picture that is listed and can be used.

    A picture without annotations is a sample without targets. Masks may overlap. That every picture exists and what
    annotations state is checked at once, polygons are turned into masks when a sample is read. An annotation that
    covers no pixel is an error that names it; with `skip_bad_samples` the annotation alone is left out.

    Args:
        path: a folder that holds `images/` and `instances.json`; or COCO's own, with
            `annotations/instances_train2017.json` and `train2017/`; or pictures with `_annotations.coco.json` beside
            them; or the JSON file, of any name, in such a folder.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`]. Categories are things unless
            they have an `isthing` that says otherwise.
        split: which of COCO's own JSON files to take where there are several.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the JSON file is not COCO's, or contradicts itself or `id2label`. Reading a sample: picture and
            JSON file contradict each other, the picture cannot be decoded, an annotation covers no pixel.
    """

    LOOKS_FOR = (
        "instances.json with images/, annotations/instances_SPLIT.json, or _annotations.coco.json (COCO instances)"
    )

    def __init__(
        self,
        path: str | Path | FileTree,
        id2label: Mapping[int, str] | None = None,
        *,
        task: str | None = None,
        skip_bad_samples: bool = False,
        split: str | None = None,
        image_reading: ImageReading = DEFAULT_READING,
    ) -> None:
        self.json = locate_json(path, split, "instances", skip_bad_samples)
        self.tree = self.json.tree
        where = self.json.path
        content = read_json(self.json, COCO_INSTANCE)
        categories = read_categories(content, where, COCO_INSTANCE, all_things=True)
        super().__init__(where, categories, "instance", id2label, task, skip_bad_samples, self.tree, image_reading)
        if not content["images"]:
            raise ValueError(f"{where} has no images: there is no picture to read.")
        images = images_by_id(content, where, self.bad_sample)
        names = [image["file_name"] for image in images.values()]
        self.image_folder = find_folder(self.json, "pictures", names, "instances_")
        missing = missing_files(self.json, self.image_folder, names, self.bad_sample)
        self._annotations: dict[int | str, list[dict[str, Any]]] = {}
        for index, annotation in enumerate(content["annotations"]):
            self._add(index, annotation, images)
        self.images = [image for image in images.values() if image["file_name"] not in missing]

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        return find_json(tree, split, "instances") is not None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.tree.path(posixpath.join(self.image_folder, self.images[index]["file_name"]))

    def open_image(self, index: int) -> BinaryIO:
        return self.tree.open(posixpath.join(self.image_folder, self.images[index]["file_name"]))

    def __getitem__(self, index: int) -> Sample:
        record = self.images[index]
        image = self.read_image(index, summary_size(record), f"in {self.where}")
        annotations = []
        for annotation in self._annotations.get(record["id"], ()):
            try:
                rle = rle_of(annotation["segmentation"], image.height, image.width)
            except ValueError as error:
                where = f"{self.name(index)}: annotation {annotation['id']}"
                self.bad_sample(where, f"{where} of {self.where} {error}. Correct or drop the annotation.")
                continue
            iscrowd = bool(annotation.get("iscrowd", 0))
            annotations.append(Annotation(rle, annotation["category_id"], iscrowd, annotation.get("area")))
        return Sample(record["id"], image, self.targets(annotations), record["file_name"])

    def summary(self, index: int) -> SampleSummary | None:
        record = self.images[index]
        size = summary_size(record)
        segments = [(a["category_id"], bool(a.get("iscrowd", 0))) for a in self._annotations.get(record["id"], ())]
        return None if size is None else self.summarised(size, segments)

    def _add(self, index: int, annotation: dict[str, Any], images: Mapping[int | str, dict[str, Any]]) -> None:
        """Checks what can be checked without the picture."""
        if "segments_info" in annotation:
            raise ValueError(f"{self.where} holds panoptic annotations, not instances: read it as coco_panoptic.")
        where = f"{self.where}: annotation {annotation.get('id', index)}"
        needed = ("id", "image_id", "category_id", "segmentation")
        if fault := fault_of_entry(annotation, needed, SEGMENT_NUMBERS):
            reason = f"{where} is not {COCO_INSTANCE}: {fault}"
        elif annotation["image_id"] not in images:
            reason = f"{where} belongs to image_id {annotation['image_id']!r}, which is not among 'images'"
        else:
            file_name = images[annotation["image_id"]]["file_name"]
            where = f"{where} of {file_name}"
            if not self.knows(annotation["category_id"]):
                reason = (
                    f"{where} has category_id {annotation['category_id']}, which is not among the file's 'categories'"
                )
            elif fault := fault_of(annotation["segmentation"]):
                reason = f"{where} {fault}"
            else:
                self._annotations.setdefault(annotation["image_id"], []).append(annotation)
                return
        self.bad_sample(where, f"{reason}. Correct or drop the annotation.")


def fault_of(segmentation: Any) -> str | None:
    """What can be seen to be wrong with a segmentation without drawing it; None if nothing is."""
    if isinstance(segmentation, dict):
        return None if {"counts", "size"} <= segmentation.keys() else "is no run-length encoding with counts and size"
    if not (isinstance(segmentation, list) and segmentation and all(isinstance(p, list) for p in segmentation)):
        return "has neither polygons nor a run-length encoding" + (
            ": boxes are not enough" if not segmentation else ""
        )
    for polygon in segmentation:
        if len(polygon) % 2:
            return f"has a polygon of {len(polygon)} numbers, which are no pairs of x and y"
    if all(len(p) < 6 or min(p[::2]) == max(p[::2]) or min(p[1::2]) == max(p[1::2]) for p in segmentation):
        return "has no area: fewer than 3 points, or all on one line"
    return None


def rle_of(segmentation: dict[str, Any] | Sequence[Sequence[float]], height: int, width: int) -> dict[str, Any]:
    """
    The mask of a segmentation, run-length encoded as pycocotools does it.

    Args:
        segmentation: polygons of x1, y1, x2, y2... in pixels, each a part of the mask; or a run-length encoding,
            compressed or not.
        height, width: the picture's.

    Raises:
        ValueError: the encoding is not of a mask of this size, or the mask has no pixels.
    """
    if isinstance(segmentation, dict):
        counts, size = segmentation["counts"], list(segmentation["size"])
        if size != [height, width]:
            raise ValueError(f"has a run-length encoding of {size[0]}x{size[-1]} pixels, not {height}x{width}")
        if isinstance(counts, list):
            if sum(counts) != height * width:
                raise ValueError(f"has a run-length encoding of {sum(counts)} pixels, not {height}x{width}")
            rle = coco_mask.frPyObjects({"counts": counts, "size": size}, height, width)
        else:
            # pycocotools would fill pixels that an encoding leaves out with whatever is in memory.
            covered = pixels_covered(counts)
            if covered is None:
                raise ValueError("has counts that are no run-length encoding")
            if covered != height * width:
                raise ValueError(f"has a run-length encoding of {covered} pixels, not {height}x{width}")
            rle = {"size": size, "counts": counts.encode()}
    else:
        polygons = [list(map(float, polygon)) for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            raise ValueError("has fewer than 3 points")
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    if not coco_mask.area(rle):
        raise ValueError("covers no pixel")
    return rle


def pixels_covered(counts: str) -> int | None:
    """How many pixels a compressed run-length encoding is of, set or not; None if it is no such encoding.

    A run is written in characters of 6 bits from "0" on: 5 bits of the number, the lowest first, and one that says
    that more follow; the highest bit of the last is the sign. From the fourth on it is the difference to the run
    before the last.
    """
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return sum(runs) if min(runs, default=0) >= 0 and not shift else None

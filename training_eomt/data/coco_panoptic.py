"""Data sets in COCO panoptic format: pictures, PNGs that encode segment ids as colours, and one JSON file.

The format: https://cocodataset.org/#format-data, section 4.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

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
from .samples import Sample, encode_masks


COCO_PANOPTIC = "COCO panoptic"


class CocoPanopticDataset(SegmentationDataset):
    """Reads a COCO panoptic data set; item `i` is the `Sample` of the `i`-th annotation that can be used.

    Pixels of segment id 0 are void: they belong to no target. Crowd segments are kept, with `iscrowd`. That every
    picture and PNG exists is checked at once, what is in them when a sample is read.

    Args:
        path: a folder that holds `images/`, `panoptic/` and `panoptic.json`; or COCO's own, with
            `annotations/panoptic_train2017.json`, `annotations/panoptic_train2017/` (PNGs) and `train2017/`
            (pictures); or the JSON file in one of them.
        id2label, task, skip_bad_samples, image_reading: see [`SegmentationDataset`].
        split: which of COCO's own JSON files to take where there are several.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the JSON file is not COCO panoptic, or contradicts itself or `id2label`. Reading a sample: the
            PNG, the picture and the JSON file contradict each other, or a file cannot be decoded.
    """

    LOOKS_FOR = "panoptic.json with images/ and panoptic/, or annotations/panoptic_SPLIT.json (COCO panoptic)"

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
        self.json = locate_json(path, split, "panoptic", skip_bad_samples)
        self.tree = self.json.tree
        where = self.json.path
        content = read_json(self.json, COCO_PANOPTIC)
        for index, annotation in enumerate(content["annotations"]):
            if "segments_info" not in annotation and ("segmentation" in annotation or "bbox" in annotation):
                raise ValueError(
                    f"{where} holds instance annotations (annotation {index} has no 'segments_info'), not COCO "
                    "panoptic. Pass the panoptic JSON file, or read it as coco_instance."
                )
        categories = read_categories(content, where, COCO_PANOPTIC, all_things=False)
        super().__init__(where, categories, "panoptic", id2label, task, skip_bad_samples, self.tree, image_reading)
        if not content["annotations"]:
            raise ValueError(f"{where} has no annotations: there is no picture to read.")
        self._images = images_by_id(content, where, self.bad_sample)
        self.annotations = self._usable(content["annotations"])
        pictures = [self._images[annotation["image_id"]]["file_name"] for annotation in self.annotations]
        pngs = [annotation["file_name"] for annotation in self.annotations]
        self.image_folder = find_folder(self.json, "pictures", pictures, "panoptic_")
        self.panoptic_folder = find_folder(self.json, "panoptic PNGs", pngs, "panoptic_")
        missing_pictures = missing_files(self.json, self.image_folder, pictures, self.bad_sample)
        missing_pngs = missing_files(self.json, self.panoptic_folder, pngs, self.bad_sample)
        self.annotations = [
            annotation
            for annotation, picture in zip(self.annotations, pictures)
            if picture not in missing_pictures and annotation["file_name"] not in missing_pngs
        ]

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        return find_json(tree, split, "panoptic") is not None

    def __len__(self) -> int:
        return len(self.annotations)

    def open_image(self, index: int) -> BinaryIO:
        file_name = self._images[self.annotations[index]["image_id"]]["file_name"]
        return self.tree.open(posixpath.join(self.image_folder, file_name))

    def __getitem__(self, index: int) -> Sample:
        annotation = self.annotations[index]
        file_name = self._images[annotation["image_id"]]["file_name"]
        png_name = posixpath.join(self.panoptic_folder, annotation["file_name"])
        segment_map = read_segment_map(self.tree, png_name, self.image_reading)
        image = self.read_image(index, segment_map.shape, self.tree.path(png_name))
        segments = annotation["segments_info"]
        _check_segments(segment_map, segments, self.tree.path(png_name))
        annotations = [
            Annotation(rle, segment["category_id"], bool(segment.get("iscrowd", 0)), segment.get("area"))
            for rle, segment in zip(encode_masks(segment_map, [segment["id"] for segment in segments]), segments)
        ]
        return Sample(annotation["image_id"], image, self.targets(annotations), file_name)

    def name(self, index: int) -> str:
        file_name = self._images[self.annotations[index]["image_id"]]["file_name"]
        return self.tree.path(posixpath.join(self.image_folder, file_name))

    def summary(self, index: int) -> SampleSummary | None:
        annotation = self.annotations[index]
        size = summary_size(self._images[annotation["image_id"]])
        segments = [(s["category_id"], bool(s.get("iscrowd", 0))) for s in annotation["segments_info"]]
        return None if size is None else self.summarised(size, segments)

    def _usable(self, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        usable, seen = [], set()
        for index, annotation in enumerate(annotations):
            where = f"{self.where}: annotation {index}"
            if fault := fault_of_annotation(annotation):
                self.bad_sample(str(annotation.get("file_name", where)), f"{where} is not {COCO_PANOPTIC}: {fault}.")
                continue
            unknown = [s for s in annotation["segments_info"] if not self.knows(s["category_id"])]
            if annotation["image_id"] not in self._images:
                reason = (
                    f"{where} ({annotation['file_name']}) belongs to image_id {annotation['image_id']!r}, which is "
                    "not among 'images'. Add the image or drop the annotation."
                )
            elif annotation["image_id"] in seen:
                reason = (
                    f"{where} ({annotation['file_name']}) is the second one of image_id {annotation['image_id']!r}."
                )
            elif unknown:
                reason = (
                    f"{self.where}: segment {unknown[0]['id']} of {annotation['file_name']} has category_id "
                    f"{unknown[0]['category_id']}, which is not among the file's 'categories'. Add the category or "
                    "drop the segment."
                )
            else:
                usable.append(annotation)
                seen.add(annotation["image_id"])
                continue
            self.bad_sample(annotation["file_name"], reason)
        return usable


def fault_of_annotation(annotation: dict[str, Any]) -> str | None:
    """What is wrong with the entry of a picture in the JSON file; None if nothing is."""
    if fault := fault_of_entry(annotation, ("image_id", "file_name", "segments_info")):
        return fault
    if not isinstance(annotation["segments_info"], list):
        return f"its 'segments_info' is {annotation['segments_info']!r}, no list"
    for segment in annotation["segments_info"]:
        if fault := fault_of_entry(segment, ("id", "category_id"), SEGMENT_NUMBERS):
            return f"of a segment, {fault}"
    return None


def read_segment_map(tree: FileTree, name: str, image_reading: ImageReading) -> np.ndarray:
    """
    Segment ids `(height, width)` from COCO's colours: id = R + 256 G + 65536 B.

    Raises:
        ValueError: the file cannot be decoded, or is no colour picture.
    """
    with tree.open(name) as file:
        png = image_reading.read_annotation(file, tree.path(name))
    if png.mode not in ("RGB", "RGBA"):
        raise ValueError(
            f"{tree.path(name)} is no panoptic PNG: its mode is {png.mode}, expected RGB, whose colours are ids of "
            "segments."
        )
    red, green, blue = np.asarray(png.convert("RGB"), dtype=np.int32).transpose(2, 0, 1)
    return red + 256 * green + 65536 * blue


def _check_segments(segment_map: np.ndarray, segments: list[dict[str, Any]], png_path: str) -> None:
    listed = {segment["id"] for segment in segments}
    if len(listed) < len(segments):
        raise ValueError(f"{png_path}: the JSON file lists two segments with one id. Ids must be unique in a picture.")
    if 0 in listed:
        raise ValueError(f"{png_path}: the JSON file lists a segment with id 0, which means void. Give it another id.")
    painted = set(np.unique(segment_map).tolist()) - {0}
    if absent := sorted(listed - painted):
        raise ValueError(f"{png_path}: segment {absent[0]}, which the JSON file lists, has no pixels in the PNG.")
    if unlisted := sorted(painted - listed):
        raise ValueError(
            f"{png_path}: {int((segment_map == unlisted[0]).sum())} pixels have segment id {unlisted[0]}, which "
            "the JSON file does not list. List the segment, or paint its pixels black (0, void)."
        )

"""Data sets in COCO panoptic format: pictures, PNGs that encode segment ids as colours, and one JSON file.

The format: https://cocodataset.org/#format-data, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from ..json_files import describe_fault, parse_flag, parse_id
from .base import Annotation, SampleSummary, SegmentationDataset
from .coco_json import (
    ENTRY_ERRORS,
    EntryNames,
    Flag,
    Id,
    category_number,
    find_folder,
    find_json,
    locate_files,
    locate_json,
    names_of,
    read_categories,
    read_coco,
    read_images,
)
from .files import FileTree
from .images import DEFAULT_READING, ImageReading
from .label_coding import check_lossless, values_in
from .label_maps import open_tree
from .samples import Sample, encode_masks


COCO_PANOPTIC = "COCO panoptic"


class SegmentEntry(msgspec.Struct, gc=False):
    """A segment as a JSON file lists it."""

    id: Id
    category_id: Id
    iscrowd: Flag = None
    area: float | None = None

    def __post_init__(self) -> None:
        self.id = parse_id(self.id)
        if isinstance(self.id, str):
            raise ValueError(f"the segment's id is {self.id!r}, expected a number, the colour of its pixels")
        self.category_id = category_number(self.category_id)
        self.iscrowd = self.iscrowd is not None and parse_flag(self.iscrowd, "iscrowd")


class PanopticEntry(msgspec.Struct):
    """The segments of a picture as a JSON file lists them."""

    image_id: Id
    file_name: str
    segments_info: list[SegmentEntry]

    def __post_init__(self) -> None:
        self.image_id = parse_id(self.image_id)


_decode_entry = msgspec.json.Decoder(PanopticEntry).decode


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
        images_dir: the folder of the pictures where it is another one; theirs may be any last part of their names.

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
        images_dir: str | Path | None = None,
    ) -> None:
        self.json = locate_json(path, split, "panoptic", skip_bad_samples)
        self.tree = self.json.tree
        where = self.json.path
        content = read_coco(self.json, COCO_PANOPTIC)
        first = names_of(content.annotations[0]) if content.annotations else EntryNames()
        if first.segments_info is None and (first.segmentation is not None or first.bbox is not None):
            raise ValueError(
                f"{where} holds instance annotations (annotation 0 has no 'segments_info'), not COCO panoptic. Pass "
                "the panoptic JSON file, or read it as coco_instance."
            )
        categories = read_categories(content, where, COCO_PANOPTIC, all_things=False)
        super().__init__(where, categories, "panoptic", id2label, task, skip_bad_samples, self.tree, image_reading)
        if not content.annotations:
            raise ValueError(f"{where} has no annotations: there is no picture to read.")
        self._images, left_out = read_images(content, where, COCO_PANOPTIC, self.bad_sample)
        usable = self._usable(content.annotations, left_out)
        pictures = [self._images[entry.image_id].file_name for entry in usable]
        pngs = [entry.file_name for entry in usable]
        images_tree = None if images_dir is None else open_tree(images_dir, skip_bad_samples)
        self.image_folder = find_folder(self.json, "pictures", pictures, "panoptic_", images_tree)
        self.panoptic_folder = find_folder(self.json, "panoptic PNGs", pngs, "panoptic_")
        self._picture_paths = locate_files(self.json, self.image_folder, "pictures", pictures, self.bad_sample)
        self._png_paths = locate_files(self.json, self.panoptic_folder, "panoptic PNGs", pngs, self.bad_sample)
        self.annotations = [
            entry
            for entry, picture in zip(usable, pictures)
            if picture in self._picture_paths and entry.file_name in self._png_paths
        ]

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        return find_json(tree, split, "panoptic") is not None

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        entry = self.annotations[index]
        record = self._images[entry.image_id]
        png_name = self._png_paths[entry.file_name]
        png_path = self.tree.path(png_name)
        segment_map = read_segment_map(self.tree, png_name, self.image_reading)
        image = self.read_image(index, segment_map.shape, png_path)
        _check_segments(segment_map, entry.segments_info, png_path)
        rles = encode_masks(segment_map, [int(segment.id) for segment in entry.segments_info])
        annotations = [
            Annotation(rle, int(segment.category_id), bool(segment.iscrowd), segment.area)
            for rle, segment in zip(rles, entry.segments_info)
        ]
        return Sample(record.image_id, image, self.targets(annotations), record.file_name)

    def name(self, index: int) -> str:
        return self.image_folder.tree.path(self._picture(index))

    def open_image(self, index: int) -> BinaryIO:
        return self.image_folder.tree.open(self._picture(index))

    def _picture(self, index: int) -> str:
        return self._picture_paths[self._images[self.annotations[index].image_id].file_name]

    def summary(self, index: int) -> SampleSummary | None:
        entry = self.annotations[index]
        if (size := self._images[entry.image_id].size) is None:
            return None
        return self.summarised(size, [(int(s.category_id), bool(s.iscrowd)) for s in entry.segments_info])

    def _usable(self, raws: list[msgspec.Raw], left_out: set[Id]) -> list[PanopticEntry]:
        usable: list[PanopticEntry] = []
        seen: set[Id] = set()
        for index, raw in enumerate(raws):
            where = f"{self.where}: annotation {index}"
            try:
                entry = _decode_entry(raw)
            except ENTRY_ERRORS as error:
                name = str(names_of(raw).file_name or where)
                self.bad_sample(name, f"{where} is not {COCO_PANOPTIC}: {describe_fault(error)}. Correct or drop it.")
                continue
            unknown = [s for s in entry.segments_info if not self.knows(int(s.category_id))]
            if entry.image_id in left_out:
                continue
            if entry.image_id not in self._images:
                reason = (
                    f"{where} ({entry.file_name}) belongs to image_id {entry.image_id!r}, which is not among "
                    "'images'. Add the image or drop the annotation."
                )
            elif entry.image_id in seen:
                reason = f"{where} ({entry.file_name}) is the second one of image_id {entry.image_id!r}."
            elif unknown:
                reason = (
                    f"{self.where}: segment {unknown[0].id} of {entry.file_name} has category_id "
                    f"{unknown[0].category_id}, which is not among the file's 'categories'. Add the category or drop "
                    "the segment."
                )
            else:
                usable.append(entry)
                seen.add(entry.image_id)
                continue
            self.bad_sample(entry.file_name, reason)
        return usable


def read_segment_map(tree: FileTree, name: str, image_reading: ImageReading) -> np.ndarray:
    """
    Segment ids `(height, width)` from COCO's colours: id = R + 256 G + 65536 B.

    Raises:
        ValueError: the file cannot be decoded, or is no colour picture.
    """
    with tree.open(name) as file:
        png = image_reading.read_annotation(file, tree.path(name))
    check_lossless(png, tree.path(name))
    if png.mode not in ("RGB", "RGBA"):
        raise ValueError(
            f"{tree.path(name)} is no panoptic PNG: its mode is {png.mode}, expected RGB, whose colours are ids of "
            "segments."
        )
    red, green, blue = np.asarray(png.convert("RGB"), dtype=np.int32).transpose(2, 0, 1)
    return red + 256 * green + 65536 * blue


def _check_segments(segment_map: np.ndarray, segments: list[SegmentEntry], png_path: str) -> None:
    listed = {int(segment.id) for segment in segments}
    if len(listed) < len(segments):
        raise ValueError(f"{png_path}: the JSON file lists two segments with one id. Ids must be unique in a picture.")
    if 0 in listed:
        raise ValueError(f"{png_path}: the JSON file lists a segment with id 0, which means void. Give it another id.")
    painted = values_in(segment_map) - {0}
    if absent := sorted(listed - painted):
        raise ValueError(f"{png_path}: segment {absent[0]}, which the JSON file lists, has no pixels in the PNG.")
    if unlisted := sorted(painted - listed):
        raise ValueError(
            f"{png_path}: {int((segment_map == unlisted[0]).sum())} pixels have segment id {unlisted[0]}, which "
            "the JSON file does not list. List the segment, or paint its pixels black (0, void)."
        )

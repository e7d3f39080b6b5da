"""Datasets in COCO panoptic format: images, PNGs that encode segment ids as colours, and one JSON file.

The format: https://cocodataset.org/#format-data, section 4.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

import msgspec
import numpy as np

from ..json_files import SCHEMA_ERRORS, describe_fault, parse_id
from .base import Annotation, ImageFile, SampleSummary
from .coco_json import PNGS, CocoDataset, EntryNames, Id, ImageEntry, SegmentFields, read_names
from .colours import extract_ids
from .files import FileTree
from .masks import encode_masks, find_values
from .samples import Sample


class SegmentEntry(SegmentFields, gc=False, kw_only=True):
    """A segment as a JSON file lists it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.id = parse_id(self.id)
        if isinstance(self.id, str):
            raise ValueError(f"the segment's id is {self.id!r}, expected a number, the colour of its pixels")


class PanopticEntry(msgspec.Struct):
    """The segments of an image as a JSON file lists them."""

    image_id: Id
    file_name: str
    segments_info: list[SegmentEntry]

    def __post_init__(self) -> None:
        self.image_id = parse_id(self.image_id)


_decode_entry = msgspec.json.Decoder(PanopticEntry).decode


class CocoPanopticDataset(CocoDataset):
    """Reads a COCO panoptic dataset; item `i` is the `Sample` of the `i`-th annotation that can be used.

    Pixels of segment id 0 are void: they belong to no target. Crowd segments are kept, with `iscrowd`. Whether every
    image and PNG exists is checked at once, what is in them when a sample is read.

    The dataset is a folder that holds `images/`, `panoptic/` and `panoptic.json`; or COCO's own, with
    `annotations/panoptic_train2017.json`, `annotations/panoptic_train2017/` (PNGs) and `train2017/` (images); or the
    JSON file in one of them.
    """

    LOOKS_FOR = "panoptic.json with images/ and panoptic/, or annotations/panoptic_SPLIT.json (COCO panoptic)"
    SUFFIXES = (".json",)
    JSON_NAME = "panoptic"
    WHAT = "COCO panoptic"

    @classmethod
    def fits_file(cls, path: Path) -> bool:
        if path.suffix not in cls.SUFFIXES or path.stem.startswith(("instances", "_annotations")):
            return False
        return path.stem.startswith("panoptic") or (path.is_file() and b'"segments_info"' in path.read_bytes())

    def open(self, path: str | Path | FileTree) -> None:
        content = self.read_content(path)
        first = read_names(content.annotations[0]) if content.annotations else EntryNames()
        if first.segments_info is None and (first.segmentation is not None or first.bbox is not None):
            raise ValueError(
                f"{self.where} holds instance annotations (annotation 0 has no 'segments_info'), not COCO panoptic. "
                "Pass the panoptic JSON file, or read it as coco_instance."
            )
        self.set_categories(self.where, "panoptic", self.read_categories(content, all_things=False))
        if not content.annotations:
            raise ValueError(f"{self.where} has no annotations: there is no image to read.")
        entries, left_out = self.read_image_entries(content)
        usable = self._read_annotations(content.annotations, entries, left_out)
        image_names = [entries[entry.image_id].file_name for entry in usable]
        images_tree, images = self.locate_images(image_names)
        png_names = [entry.file_name for entry in usable]
        folder, stem = posixpath.split(self.json.removesuffix(".json"))
        own = stem.removeprefix("panoptic_") if stem.startswith("panoptic_") else "images"
        candidates = [posixpath.join(folder, stem), stem, "panoptic", f"panoptic/{own}"]
        hint = ", and the PNGs in 'panoptic/' or 'annotations/panoptic_NAME/'."
        pngs = self.locate(PNGS, self.find_folder(PNGS, candidates, png_names, hint), png_names)
        self.annotations: list[PanopticEntry] = []
        self.entries: list[ImageEntry] = []
        self.pngs: list[str] = []
        for entry, name in zip(usable, image_names):
            if name in images and entry.file_name in pngs:
                self.annotations.append(entry)
                self.entries.append(entries[entry.image_id])
                self.images.append(ImageFile(images_tree, images[name]))
                self.pngs.append(pngs[entry.file_name])

    def __getitem__(self, index: int) -> Sample:
        entry, segments = self.entries[index], self.annotations[index].segments_info
        png, png_path = self.read_map(self.pngs[index])
        segment_map = extract_ids(png, png_path, "its colours are ids of segments")
        image = self.read_image(index, segment_map.shape, png_path)
        _check_segments(segment_map, segments, png_path)
        rles = encode_masks(segment_map, [int(segment.id) for segment in segments])
        annotations = [
            Annotation(rle, int(segment.category_id), bool(segment.iscrowd), segment.area)
            for rle, segment in zip(rles, segments)
        ]
        return Sample(entry.image_id, image, self.make_targets(annotations), entry.file_name)

    def summarize(self, index: int) -> SampleSummary | None:
        segments = [(segment.category_id, segment.iscrowd) for segment in self.annotations[index].segments_info]
        return self.summarize_segments(self.entries[index].size, segments)

    def _read_annotations(
        self, raws: list[msgspec.Raw], images: dict[Id, ImageEntry], left_out: set[Id]
    ) -> list[PanopticEntry]:
        usable: list[PanopticEntry] = []
        seen: set[Id] = set()
        for index, raw in enumerate(raws):
            where = f"{self.where}: annotation {index}"
            try:
                entry = _decode_entry(raw)
            except SCHEMA_ERRORS as error:
                name = str(read_names(raw).file_name or where)
                self.bad_sample(name, f"{where} is not {self.WHAT}: {describe_fault(error)}. Correct or drop it.")
                continue
            unknown = [s for s in entry.segments_info if not self.knows(int(s.category_id))]
            if entry.image_id in left_out:
                continue
            if entry.image_id not in images:
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


def _check_segments(segment_map: np.ndarray, segments: list[SegmentEntry], png_path: str) -> None:
    listed = {int(segment.id) for segment in segments}
    if len(listed) < len(segments):
        raise ValueError(f"{png_path}: the JSON file lists two segments with one id. Ids must be unique in an image.")
    if 0 in listed:
        raise ValueError(f"{png_path}: the JSON file lists a segment with id 0, which means void. Give it another id.")
    painted = find_values(segment_map) - {0}
    if absent := sorted(listed - painted):
        raise ValueError(f"{png_path}: segment {absent[0]}, which the JSON file lists, has no pixels in the PNG.")
    if unlisted := sorted(painted - listed):
        raise ValueError(
            f"{png_path}: {int((segment_map == unlisted[0]).sum())} pixels have segment id {unlisted[0]}, which "
            "the JSON file does not list. List the segment, or paint its pixels black (0, void)."
        )

"""Datasets in COCO's instance format: images, and one JSON file with polygons and run-length encodings.

The format: https://cocodataset.org/#format-data, section 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from ..json_files import SCHEMA_ERRORS, describe_fault, parse_id
from .base import Annotation, ImageFile, SampleSummary
from .coco_json import OTHER_NAMES, CocoDataset, Id, ImageEntry, SegmentFields, read_names
from .files import FileTree
from .masks import decode_segmentation, encode_segmentation, find_segmentation_fault
from .samples import Sample


class InstanceEntry(SegmentFields, gc=False, kw_only=True):
    """An annotation as a JSON file lists it. Its segmentation stays as it is written until the sample is read."""

    image_id: Id
    segmentation: msgspec.Raw

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_id = parse_id(self.image_id)


_decode_entry = msgspec.json.Decoder(InstanceEntry).decode


class CocoInstanceDataset(CocoDataset):
    """Reads COCO instances; item `i` is the `Sample` of the `i`-th image that is listed and can be used.

    An image without annotations is a sample without targets. Masks may overlap. Whether every image exists and what
    annotations state is checked at once, polygons are turned into masks when a sample is read. An annotation that
    covers no pixel is an error that names it; with `skip_bad_samples` the annotation alone is left out. Categories are
    things unless they have an `isthing` that says otherwise.

    The dataset is a folder that holds `images/` and `instances.json`; or COCO's own, with
    `annotations/instances_train2017.json` and `train2017/`; or images with `_annotations.coco.json` beside them; or
    the JSON file, of any name, in such a folder.
    """

    LOOKS_FOR = (
        "instances.json with images/, annotations/instances_SPLIT.json, or _annotations.coco.json (COCO instances)"
    )
    SUFFIXES = (".json",)
    JSON_NAME = "instances"
    WHAT = "COCO instances"

    @classmethod
    def find_other_json(cls, tree: FileTree) -> str | None:
        if "_annotations.coco.json" in tree:  # Roboflow's export
            return "_annotations.coco.json"
        return next((name for name in OTHER_NAMES if name in tree and _is_coco(tree.read_bytes(name))), None)

    def open(self, path: str | Path | FileTree) -> None:
        content = self.read_content(path)
        self.set_categories(self.where, "instance", self.read_categories(content, all_things=True))
        if not content.images:
            raise ValueError(f"{self.where} has no images: there is no image to read.")
        entries, left_out = self.read_image_entries(content)
        self._annotations: dict[Id, list[InstanceEntry]] = {key: [] for key in entries}
        for index, annotation in enumerate(content.annotations):
            self._add(index, annotation, entries, left_out)
        tree, images = self.locate_images([entry.file_name for entry in entries.values()])
        self.entries = [entry for entry in entries.values() if entry.file_name in images]
        self.images = [ImageFile(tree, images[entry.file_name]) for entry in self.entries]

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        image = self.read_image(index, entry.size, f"in {self.where}")
        annotations = []
        for instance in self._annotations[entry.key]:
            try:
                rle = encode_segmentation(decode_segmentation(instance.segmentation), (image.height, image.width))
            except ValueError as error:
                where = f"{self.name(index)}: annotation {instance.id}"
                self.bad_sample(where, f"{where} of {self.where} {error}. Correct or drop the annotation.")
                continue
            annotations.append(Annotation(rle, int(instance.category_id), bool(instance.iscrowd), instance.area))
        return Sample(entry.image_id, image, self.make_targets(annotations), entry.file_name)

    def summarize(self, index: int) -> SampleSummary | None:
        entry = self.entries[index]
        return self.summarize_segments(entry.size, [(a.category_id, a.iscrowd) for a in self._annotations[entry.key]])

    def _add(self, index: int, raw: msgspec.Raw, images: Mapping[Id, ImageEntry], left_out: Collection[Id]) -> None:
        """Checks what can be checked without the image."""
        try:
            entry = _decode_entry(raw)
        except SCHEMA_ERRORS as error:
            named = read_names(raw)
            if named.segments_info is not None:
                raise ValueError(
                    f"{self.where} holds panoptic annotations, not instances: read it as coco_panoptic."
                ) from error
            where = f"{self.where}: annotation {index if named.id is None else named.id}"
            reason: str | None = f"is not {self.WHAT}: {describe_fault(error)}"
        else:
            where = f"{self.where}: annotation {entry.id}"
            image = images.get(entry.image_id)
            if image is None:
                if entry.image_id in left_out:
                    return
                reason = f"belongs to image_id {entry.image_id!r}, which is not among 'images'"
            else:
                where = f"{where} of {image.file_name}"
                if self.knows(int(entry.category_id)):
                    reason = find_segmentation_fault(entry.segmentation, image.size)
                else:
                    reason = f"has category_id {entry.category_id}, which is not among the file's 'categories'"
        if reason is None:
            self._annotations[entry.image_id].append(entry)
        else:
            self.bad_sample(where, f"{where} {reason}. Correct or drop the annotation.")


def _is_coco(content: bytes) -> bool:
    """Whether a JSON file looks like one of COCO's, with instances."""
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return all(key in content for key in keys) and b'"segments_info"' not in content

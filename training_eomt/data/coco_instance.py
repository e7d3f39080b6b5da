"""Data sets in COCO's instance format: pictures, and one JSON file with polygons and run-length encodings.

The format: https://cocodataset.org/#format-data, section 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from pycocotools import mask as coco_mask

from ..json_files import describe_fault, parse_flag, parse_id
from .base import Annotation, SampleSummary, SegmentationDataset
from .coco_json import (
    ENTRY_ERRORS,
    Flag,
    Id,
    ImageEntry,
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
from .label_maps import open_tree
from .samples import Sample


COCO_INSTANCE = "COCO instances"
MAX_RUN_BITS = 35  # of a number in a compressed run-length encoding: 7 characters


class RunLengths(msgspec.Struct):
    """A run-length encoding: `counts` of pixels that are and are not set, column by column, compressed or not."""

    counts: str | list[int]
    size: tuple[int, int]  # (height, width) in pixels


Polygons = list[list[float]]  # each x1, y1, x2, y2... in pixels
_decode_segmentation = msgspec.json.Decoder(Polygons | RunLengths).decode


class InstanceEntry(msgspec.Struct, gc=False):
    """An annotation as a JSON file lists it. Its segmentation stays as it is written until the sample is read."""

    id: Id
    image_id: Id
    category_id: Id
    segmentation: msgspec.Raw
    iscrowd: Flag = None
    area: float | None = None

    def __post_init__(self) -> None:
        self.image_id = parse_id(self.image_id)
        self.category_id = category_number(self.category_id)
        self.iscrowd = self.iscrowd is not None and parse_flag(self.iscrowd, "iscrowd")


_decode_entry = msgspec.json.Decoder(InstanceEntry).decode


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
        images_dir: the folder of the pictures where it is another one; theirs may be any last part of their names.

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
        images_dir: str | Path | None = None,
    ) -> None:
        self.json = locate_json(path, split, "instances", skip_bad_samples)
        self.tree = self.json.tree
        where = self.json.path
        content = read_coco(self.json, COCO_INSTANCE)
        categories = read_categories(content, where, COCO_INSTANCE, all_things=True)
        super().__init__(where, categories, "instance", id2label, task, skip_bad_samples, self.tree, image_reading)
        if not content.images:
            raise ValueError(f"{where} has no images: there is no picture to read.")
        images, left_out = read_images(content, where, COCO_INSTANCE, self.bad_sample)
        self._annotations: dict[Id, list[InstanceEntry]] = {key: [] for key in images}
        for index, annotation in enumerate(content.annotations):
            self._add(index, annotation, images, left_out)
        names = [image.file_name for image in images.values()]
        images_tree = None if images_dir is None else open_tree(images_dir, skip_bad_samples)
        self.folder = find_folder(self.json, "pictures", names, "instances_", images_tree)
        self._paths = locate_files(self.json, self.folder, "pictures", names, self.bad_sample)
        self.images = [image for image in images.values() if image.file_name in self._paths]

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        """Whether a folder holds such data."""
        return find_json(tree, split, "instances") is not None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.folder.tree.path(self._paths[self.images[index].file_name])

    def open_image(self, index: int) -> BinaryIO:
        return self.folder.tree.open(self._paths[self.images[index].file_name])

    def __getitem__(self, index: int) -> Sample:
        record = self.images[index]
        image = self.read_image(index, record.size, f"in {self.where}")
        annotations = []
        for entry in self._annotations[record.key]:
            try:
                rle = rle_of(_decode_segmentation(entry.segmentation), image.height, image.width)
            except ValueError as error:
                where = f"{self.name(index)}: annotation {entry.id}"
                self.bad_sample(where, f"{where} of {self.where} {error}. Correct or drop the annotation.")
                continue
            annotations.append(Annotation(rle, int(entry.category_id), bool(entry.iscrowd), entry.area))
        return Sample(record.image_id, image, self.targets(annotations), record.file_name)

    def summary(self, index: int) -> SampleSummary | None:
        record = self.images[index]
        if (size := record.size) is None:
            return None
        return self.summarised(size, [(int(a.category_id), bool(a.iscrowd)) for a in self._annotations[record.key]])

    def _add(self, index: int, raw: msgspec.Raw, images: Mapping[Id, ImageEntry], left_out: Collection[Id]) -> None:
        """Checks what can be checked without the picture."""
        try:
            entry = _decode_entry(raw)
        except ENTRY_ERRORS as error:
            named = names_of(raw)
            if named.segments_info is not None:
                raise ValueError(
                    f"{self.where} holds panoptic annotations, not instances: read it as coco_panoptic."
                ) from error
            where = f"{self.where}: annotation {index if named.id is None else named.id}"
            reason: str | None = f"is not {COCO_INSTANCE}: {describe_fault(error)}"
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
                    reason = fault_of_segmentation(entry.segmentation, image.size)
                else:
                    reason = f"has category_id {entry.category_id}, which is not among the file's 'categories'"
        if reason is None:
            self._annotations[entry.image_id].append(entry)
        else:
            self.bad_sample(where, f"{where} {reason}. Correct or drop the annotation.")


def fault_of_segmentation(raw: msgspec.Raw, size: tuple[int, int] | None) -> str | None:
    """What can be seen to be wrong with a segmentation without drawing it; None if nothing is."""
    try:
        segmentation = _decode_segmentation(raw)
    except ENTRY_ERRORS as error:
        return f"has a segmentation that is neither polygons nor a run-length encoding: {describe_fault(error)}"
    if isinstance(segmentation, RunLengths):
        # Counting compressed ones takes long: that is left to reading.
        if size is None or isinstance(segmentation.counts, str):
            return None
        return fault_of_run_lengths(segmentation, size)
    if not segmentation:
        return "has neither polygons nor a run-length encoding: boxes are not enough"
    has_area = False
    for polygon in segmentation:
        if len(polygon) % 2:
            return f"has a polygon of {len(polygon)} numbers, which are no pairs of x and y"
        if len(polygon) < 6:
            continue
        left, right = min(polygon[::2]), max(polygon[::2])
        top, bottom = min(polygon[1::2]), max(polygon[1::2])
        is_inside = size is None or (left < size[1] and right > 0 and top < size[0] and bottom > 0)
        has_area |= left < right and top < bottom and is_inside
        if size is not None and (far := far_off(min(left, top), max(right, bottom), size)):
            return far
    return None if has_area else "has no area: fewer than 3 points, all on one line, or outside the picture"


def fault_of_run_lengths(encoding: RunLengths, size: tuple[int, int]) -> str | None:
    """What is wrong with the run-length encoding of a mask of `(height, width)` pixels; None if nothing is."""
    height, width = size
    if encoding.size != size:
        return f"has a run-length encoding of {'x'.join(map(str, encoding.size))} pixels, not {height}x{width}"
    # pycocotools would fill pixels that an encoding leaves out with whatever is in memory.
    if isinstance(encoding.counts, str):
        covered = pixels_covered(encoding.counts)
    else:
        covered = None if min(encoding.counts, default=0) < 0 else sum(encoding.counts)
    if covered is None:
        return "has counts that are no run-length encoding"
    return (
        None if covered == height * width else f"has a run-length encoding of {covered} pixels, not {height}x{width}"
    )


def far_off(lowest: float, highest: float, size: tuple[int, int]) -> str | None:
    """What is wrong with a polygon that leaves the picture by more than the picture's longer side; else None.

    Polygons that stand out a little are common; drawing one of gigantic numbers takes all memory.
    """
    side = max(size)
    if -side <= lowest and highest <= 2 * side:
        return None
    return (
        f"has a polygon with coordinates from {lowest:g} to {highest:g}, far outside the picture of "
        f"{size[0]}x{size[1]} pixels (height x width)"
    )


def rle_of(segmentation: RunLengths | Sequence[Sequence[float]], height: int, width: int) -> dict[str, Any]:
    """
    The mask of a segmentation, run-length encoded as pycocotools does it.

    Args:
        segmentation: polygons of x1, y1, x2, y2... in pixels, finite numbers, each a part of the mask; or a run-length
            encoding.
        height, width: the picture's.

    Raises:
        ValueError: the encoding is not of a mask of this size, a polygon is far outside the picture, or the mask has
            no pixels.
    """
    if isinstance(segmentation, RunLengths):
        if fault := fault_of_run_lengths(segmentation, (height, width)):
            raise ValueError(fault)
        counts, size = segmentation.counts, [height, width]
        if isinstance(counts, list):
            rle = coco_mask.frPyObjects({"counts": counts, "size": size}, height, width)
        else:
            rle = {"size": size, "counts": counts.encode()}
    else:
        polygons = [list(map(float, polygon)) for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            raise ValueError("has fewer than 3 points")
        for polygon in polygons:
            if far := far_off(min(polygon), max(polygon), (height, width)):
                raise ValueError(far)
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
        if shift > MAX_RUN_BITS:
            return None
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return sum(runs) if min(runs, default=0) >= 0 and not shift else None

"""Masks as run lengths: of maps of numbers, of polygons, and of COCO's own encodings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from ..json_files import SCHEMA_ERRORS, describe_fault
from .images import format_size


MAX_RUN_BITS = 35  # of a number in a compressed run-length encoding: 7 characters


class RunLengths(msgspec.Struct):
    """A run-length encoding: lengths of runs of pixels that are not set and set in turn, column by column."""

    counts: str | list[int]  # compressed, or plain
    size: tuple[int, int]  # (height, width) in pixels


Polygons = list[list[float]]  # each x1, y1, x2, y2... in pixels
decode_segmentation = msgspec.json.Decoder(Polygons | RunLengths).decode


def encode_masks(segment_map: np.ndarray, segment_ids: Sequence[int]) -> list[dict[str, Any]]:
    """
    Run-length encodes the regions of `segment_map`, `(height, width)`, that hold each of `segment_ids`.

    All of them come from the runs of the map itself, so that memory does not grow with the number of segments.
    """
    size = list(segment_map.shape)
    pixels = segment_map.ravel(order="F")  # column by column, as COCO counts
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts, ends = np.append(0, changes), np.append(changes, len(pixels))
    order = np.argsort(pixels[starts], kind="stable")
    starts, ends = starts[order], ends[order]
    ids = pixels[starts]
    firsts, lasts = (np.searchsorted(ids, segment_ids, side) for side in ("left", "right"))
    rles = []
    for first, last in zip(firsts, lasts):
        borders = np.zeros(2 * (last - first) + 2, dtype=np.int64)
        borders[1:-1:2], borders[2:-1:2], borders[-1] = starts[first:last], ends[first:last], len(pixels)
        counts = np.diff(borders).tolist()
        if not counts[-1]:  # pycocotools writes no empty run at the end
            counts.pop()
        rles.append(coco_mask.frPyObjects({"size": size, "counts": counts}, *size))
    return rles


def find_values(label_map: np.ndarray) -> set[int]:
    """Finds the values that occur in a map, `(height, width)` of integers."""
    pixels = label_map.ravel()
    last_of_runs = pixels[np.flatnonzero(pixels[1:] != pixels[:-1])]  # far fewer than pixels
    return {*np.unique(last_of_runs).tolist(), *pixels[-1:].tolist()}


def find_segmentation_fault(raw: msgspec.Raw, size: tuple[int, int] | None) -> str | None:
    """Finds a fault in a segmentation that shows without drawing it; None if there is none."""
    try:
        segmentation = decode_segmentation(raw)
    except SCHEMA_ERRORS as error:
        return f"has a segmentation that is neither polygons nor a run-length encoding: {describe_fault(error)}"
    if isinstance(segmentation, RunLengths):
        # Counting compressed runs takes long: that is left to reading.
        if size is None or isinstance(segmentation.counts, str):
            return None
        return _find_run_fault(segmentation, size)
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
        if size is not None and (fault := _find_range_fault(min(left, top), max(right, bottom), size)):
            return fault
    return None if has_area else "has no area: fewer than 3 points, all on one line, or outside the image"


def encode_segmentation(segmentation: RunLengths | Polygons, size: tuple[int, int]) -> dict[str, Any]:
    """
    Encodes the mask of a segmentation as pycocotools does it.

    Args:
        segmentation: polygons, whose union is the mask, of finite numbers; or a run-length encoding.
        size: `(height, width)` of the image in pixels.

    Raises:
        ValueError: the encoding is of a mask of another size, a polygon is far outside the image, or the mask has no
            pixels.
    """
    if isinstance(segmentation, RunLengths):
        if fault := _find_run_fault(segmentation, size):
            raise ValueError(fault)
        if isinstance(segmentation.counts, list):
            rle = coco_mask.frPyObjects({"counts": segmentation.counts, "size": list(size)}, *size)
        else:
            rle = {"size": list(size), "counts": segmentation.counts.encode()}
    else:
        polygons = [list(map(float, polygon)) for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            raise ValueError("has fewer than 3 points")
        for polygon in polygons:
            if fault := _find_range_fault(min(polygon), max(polygon), size):
                raise ValueError(fault)
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    if not coco_mask.area(rle):
        raise ValueError("covers no pixel")
    return rle


def _find_run_fault(encoding: RunLengths, size: tuple[int, int]) -> str | None:
    """Finds a fault in the run-length encoding of a mask of `(height, width)` pixels; None if there is none."""
    expected = f"not {size[0]}x{size[1]}"
    if encoding.size != size:
        return f"has a run-length encoding of {'x'.join(map(str, encoding.size))} pixels, {expected}"
    # pycocotools would fill pixels that an encoding leaves out with whatever is in memory.
    runs = decode_runs(encoding.counts) if isinstance(encoding.counts, str) else encoding.counts
    if runs is None or min(runs, default=0) < 0:
        return "has counts that are no run-length encoding"
    return None if sum(runs) == size[0] * size[1] else f"has a run-length encoding of {sum(runs)} pixels, {expected}"


def _find_range_fault(lowest: float, highest: float, size: tuple[int, int]) -> str | None:
    """Finds a polygon that leaves the image by more than its longer side; None if it does not.

    Polygons that stand out a little are common; drawing one of gigantic numbers takes all memory.
    """
    if -max(size) <= lowest and highest <= 2 * max(size):
        return None
    found = f"has a polygon with coordinates from {lowest:g} to {highest:g}"
    return f"{found}, far outside the image of {format_size(size)}"


def decode_runs(counts: str) -> list[int] | None:
    """
    Decodes the runs of a compressed run-length encoding; None if it is no such encoding.

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
    return None if shift else runs

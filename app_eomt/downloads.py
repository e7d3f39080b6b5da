"""Segments as files: masks as PNG, COCO's JSON, run lengths."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pycocotools import mask as coco_mask

from eomt_transformers.segment import as_file_name


def write_files(
    folder: Path,
    stem: str,
    photograph: str,
    size: tuple[int, int],
    segments: Sequence[Mapping[str, Any]],
    id2label: Mapping[int, str],
    drawing: Image.Image,
) -> list[Path]:
    """
    Writes what can be downloaded of the segments of one photograph.

    Args:
        folder: where.
        stem: what the names of the files begin with.
        photograph: the name of its file.
        size: its `(height, width)` in pixels.
        segments: as `Segmenter.segment` returns them.
        id2label: names of the model's classes.
        drawing: the segments over the photograph.

    Returns:
        The files: the drawing; a zip file of one mask for each segment, 255 inside; an annotation file that
        `pycocotools.coco.COCO` reads; and the segments as a list, with run lengths.
    """
    names = ("overlay.png", "masks_png.zip", "coco.json", "rle.json")
    overlay, masks, coco, run_lengths = (folder / f"{stem}_{name}" for name in names)
    drawing.save(overlay)
    with zipfile.ZipFile(masks, "w") as archive:  # not compressed: PNG is
        for number, segment in enumerate(segments, start=1):
            with archive.open(f"{stem}/{name_mask(number, segment)}", "w") as file:
                mask = Image.fromarray(coco_mask.decode(segment["segmentation"]) * 255)
                mask.save(file, format="PNG", compress_level=1)
    coco.write_text(json.dumps(as_coco(photograph, size, segments, id2label)), encoding="utf-8")
    run_lengths.write_text(json.dumps(segments), encoding="utf-8")
    return [overlay, masks, coco, run_lengths]


def name_mask(number: int, segment: Mapping[str, Any]) -> str:
    """Returns the file name of a segment's mask: its number, class and, where it has one, score."""
    score = "" if segment["score"] is None else f"_{segment['score']:.2f}"
    return f"{number:03d}_{as_file_name(segment['label'])}{score}.png"


def as_coco(
    photograph: str, size: tuple[int, int], segments: Sequence[Mapping[str, Any]], id2label: Mapping[int, str]
) -> dict[str, Any]:
    """Returns an annotation file in COCO's format, with scores; the numbers of categories are the model's."""
    height, width = size
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": segment["label_id"],
            "segmentation": segment["segmentation"],
            "area": segment["area"],
            "bbox": segment["bbox"],
            "iscrowd": 0,
            **({} if segment["score"] is None else {"score": segment["score"]}),
        }
        for number, segment in enumerate(segments, start=1)
    ]
    return {
        "images": [{"id": 1, "file_name": photograph, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": label_id, "name": name} for label_id, name in sorted(id2label.items())],
    }

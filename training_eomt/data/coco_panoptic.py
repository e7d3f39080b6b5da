"""Data sets in COCO panoptic format: pictures, PNGs that encode segment ids as colours, and one JSON file.

The format: https://cocodataset.org/#format-data, section 4.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .base import Annotation, SampleSummary, SegmentationDataset
from .files import FileTree
from .samples import Category, Sample, encode_masks, read_rgb


class CocoPanopticDataset(SegmentationDataset):
    """Reads a COCO panoptic data set; item `i` is the `Sample` of the JSON file's `i`-th annotation.

    Pixels of segment id 0 are void: they belong to no target. Crowd segments are kept, with `iscrowd`. That every
    picture and PNG exists is checked at once, what is in them when a sample is read.

    Args:
        path: a folder that holds `images/`, `panoptic/` and `panoptic.json`; or a JSON file in COCO's own layout, such
            as `annotations/panoptic_train2017.json`, with PNGs in `annotations/panoptic_train2017/` and pictures in
            `train2017/` beside `annotations/`.
        id2label, task, skip_bad_samples: see [`SegmentationDataset`].

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the JSON file is not COCO panoptic, or contradicts itself or `id2label`. Reading a sample: the
            PNG, the picture and the JSON file contradict each other, or a file cannot be decoded.
    """

    def __init__(
        self,
        path: str | Path,
        id2label: Mapping[int, str] | None = None,
        *,
        task: str | None = None,
        skip_bad_samples: bool = False,
    ) -> None:
        self.json_path, self.image_folder, self.panoptic_folder = _locate(Path(path))
        content = _read_json(self.json_path)
        categories = _categories(content, self.json_path)
        super().__init__(str(self.json_path), categories, "panoptic", id2label, task, skip_bad_samples)
        self.annotations: list[dict[str, Any]] = content["annotations"]
        self._images: dict[int | str, dict[str, Any]] = {image["id"]: image for image in content["images"]}
        if not self.annotations:
            raise ValueError(f"{self.json_path} has no annotations: there is no picture to read.")
        self._check_annotations()
        self._check_files_exist()

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        annotation = self.annotations[index]
        file_name = self._images[annotation["image_id"]]["file_name"]
        image = read_rgb(FileTree(self.image_folder), file_name)
        png_path = self.panoptic_folder / annotation["file_name"]
        png = read_rgb(FileTree(self.panoptic_folder), annotation["file_name"])
        if image.size != png.size:
            raise ValueError(
                f"{self.image_folder / file_name} is {_size(image)} and its annotation {png_path} is {_size(png)}. "
                "Picture and annotation must have the same size."
            )
        segment_map = _segment_map(png)
        segments = annotation["segments_info"]
        self._check_segments(segment_map, segments, png_path)
        annotations = [
            Annotation(rle, segment["category_id"], bool(segment.get("iscrowd", 0)), segment.get("area"))
            for rle, segment in zip(encode_masks(segment_map, [segment["id"] for segment in segments]), segments)
        ]
        return Sample(annotation["image_id"], image, self.targets(annotations), file_name)

    def name(self, index: int) -> str:
        return str(self.image_folder / self._images[self.annotations[index]["image_id"]]["file_name"])

    def summary(self, index: int) -> SampleSummary | None:
        annotation = self.annotations[index]
        image = self._images[annotation["image_id"]]
        if not ("height" in image and "width" in image):
            return None
        label_ids = self.label_space.label_ids
        segments = [segment for segment in annotation["segments_info"] if segment["category_id"] in label_ids]
        found = [label_ids[segment["category_id"]] for segment in segments]
        if self.task == "semantic":
            found, segments = sorted(set(found)), []
        return SampleSummary(
            (image["height"], image["width"]), found, sum(bool(segment.get("iscrowd", 0)) for segment in segments)
        )

    def _check_annotations(self) -> None:
        for index, annotation in enumerate(self.annotations):
            if annotation["image_id"] not in self._images:
                raise ValueError(
                    f"{self.json_path}: annotation {index} ({annotation['file_name']}) belongs to image_id "
                    f"{annotation['image_id']!r}, which is not among 'images'. Add the image or drop the annotation."
                )
            for segment in annotation["segments_info"]:
                if not self.knows(segment["category_id"]):
                    raise ValueError(
                        f"{self.json_path}: segment {segment['id']} of {annotation['file_name']} has category_id "
                        f"{segment['category_id']}, which is not among the file's 'categories'. Add the category or "
                        "drop the segment."
                    )

    def _check_files_exist(self) -> None:
        pictures = {self._images[annotation["image_id"]]["file_name"] for annotation in self.annotations}
        pngs = {annotation["file_name"] for annotation in self.annotations}
        for folder, names in ((self.image_folder, pictures), (self.panoptic_folder, pngs)):
            missing = sorted(names - set(os.listdir(folder)))
            # Names with a subfolder are not in the listing.
            missing = [name for name in missing if not ("/" in name and (folder / name).is_file())]
            if missing:
                raise FileNotFoundError(
                    f"{folder / missing[0]} is missing ({len(missing)} of {len(names)} files that {self.json_path} "
                    f"refers to are not in {folder}). Add them or drop their annotations."
                )

    @staticmethod
    def _check_segments(segment_map: np.ndarray, segments: list[dict[str, Any]], png_path: Path) -> None:
        listed = {segment["id"] for segment in segments}
        if len(listed) < len(segments):
            raise ValueError(
                f"{png_path}: the JSON file lists two segments with one id. Ids must be unique in a picture."
            )
        if 0 in listed:
            raise ValueError(
                f"{png_path}: the JSON file lists a segment with id 0, which means void. Give it another id."
            )
        painted = set(np.unique(segment_map).tolist()) - {0}
        if absent := sorted(listed - painted):
            raise ValueError(f"{png_path}: segment {absent[0]}, which the JSON file lists, has no pixels in the PNG.")
        if unlisted := sorted(painted - listed):
            raise ValueError(
                f"{png_path}: {int((segment_map == unlisted[0]).sum())} pixels have segment id {unlisted[0]}, which "
                "the JSON file does not list. List the segment, or paint its pixels black (0, void)."
            )


def _locate(path: Path) -> tuple[Path, Path, Path]:
    """The JSON file, the folder of pictures and the folder of PNGs."""
    if path.suffix == ".json":
        json_path = path
        panoptic_folder = path.with_suffix("")
        image_folder = path.parent.parent / path.stem.removeprefix("panoptic_")
    else:
        json_path, image_folder, panoptic_folder = path / "panoptic.json", path / "images", path / "panoptic"
    for needed, what in ((json_path, "JSON file"), (image_folder, "pictures"), (panoptic_folder, "panoptic PNGs")):
        if not needed.exists():
            raise FileNotFoundError(
                f"{needed} ({what}) is missing. A COCO panoptic data set is a folder with 'images/', 'panoptic/' and "
                "'panoptic.json', or 'annotations/panoptic_NAME.json' with 'annotations/panoptic_NAME/' and 'NAME/' "
                "beside 'annotations/'."
            )
    return json_path, image_folder, panoptic_folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not COCO panoptic: it holds a {type(content).__name__}, expected an object.")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"{path} is not COCO panoptic: it has no {key!r}, only {sorted(content)}.")
    for index, image in enumerate(content["images"]):
        _require(image, ("id", "file_name"), f"{path}: image {index}")
    for index, annotation in enumerate(content["annotations"]):
        if "segments_info" not in annotation and ("segmentation" in annotation or "bbox" in annotation):
            raise ValueError(
                f"{path} holds instance annotations (annotation {index} has no 'segments_info'), not COCO panoptic. "
                "Pass the panoptic JSON file."
            )
        _require(annotation, ("image_id", "file_name", "segments_info"), f"{path}: annotation {index}")
        for segment in annotation["segments_info"]:
            _require(segment, ("id", "category_id"), f"{path}: a segment of annotation {index}")
    return content


def _categories(content: dict[str, Any], path: Path) -> list[Category]:
    categories = []
    for index, category in enumerate(content["categories"]):
        _require(category, ("id", "name", "isthing"), f"{path}: category {index}")
        categories.append(Category(category["id"], category["name"], bool(category["isthing"])))
    return categories


def _require(entry: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        if key not in entry:
            raise ValueError(f"{where} is not COCO panoptic: it has no {key!r}, only {sorted(entry)}.")


def _segment_map(png: Image.Image) -> np.ndarray:
    """Segment ids `(height, width)` from COCO's colours: id = R + 256 G + 65536 B."""
    red, green, blue = np.asarray(png, dtype=np.int32).transpose(2, 0, 1)
    return red + 256 * green + 65536 * blue


def _size(image: Image.Image) -> str:
    return f"{image.height}x{image.width} pixels (height x width)"

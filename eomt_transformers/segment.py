"""`eomt segment`: a few images, from files to files. For folders of many there is `eomt predict`."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from deployment_eomt.decoder import encode_mask
from image_processing_eomt import TASKS, draw_segmentation
from image_processing_eomt.reading_eomt import load_upright

from .pipelines import pipeline


MAX_NAME_BYTES = 100


def main(arguments: Sequence[str] | None = None, prog: str = "eomt segment") -> None:
    """The command line, see `--help`."""
    options = build_parser(prog).parse_args(arguments)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        folders = name_folders(options.images, Path(options.output))
        settings = {"subtask": options.task, "threshold": options.threshold}
        given = {name: value for name, value in settings.items() if value is not None}
        segmenter = pipeline(options.model, device=options.device, **given)
        for path, folder in folders.items():
            image = load_upright(path)
            segments = write_segments(folder, image, segmenter(image), segmenter.model.config.label2id)
            print(f"{path}: {len(segments)} segments in {folder}")
            for segment in segments:
                score = "" if segment["score"] is None else f"{segment['score']:.3f}"
                share = segment["area"] / (image.width * image.height)
                print(f"  {segment['label']:<24} {score:>5}  {share:6.1%} of the image")
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Segments images: for each a folder with overlay.png, segments.json and masks/."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files or URLs of images")
    parser.add_argument(
        "--model", required=True, help="a folder, or a name on the Hub such as tue-mps/coco_panoptic_eomt_large_640"
    )
    parser.add_argument("--output", default="segments", metavar="DIR", help="where to write (default: %(default)s)")
    parser.add_argument("--task", choices=TASKS, help="kind of segmentation (default: the model's)")
    parser.add_argument("--threshold", type=float, help="score that a segment needs, 0 to 1 (default: the model's)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")
    return parser


def name_folders(images: Sequence[str], output: Path) -> dict[str, Path]:
    """
    Returns the folder of each image: named after its file.

    Raises:
        ValueError: two images would share a folder.
    """
    names = {image: Path(image.split("?")[0]).stem or "image" for image in images}
    if shared := [name for name, number in Counter(names.values()).items() if number > 1]:
        raise ValueError(f"Several images are called {shared[0]!r}: segment them one by one, into different folders.")
    return {image: output / name for image, name in names.items()}


def write_segments(
    folder: Path, image: Image.Image, segments: Sequence[Mapping[str, Any]], label2id: Mapping[str, int]
) -> list[dict[str, Any]]:
    """
    Writes what was found in an image: `overlay.png`, `segments.json` and a PNG, 255 inside, for each mask.

    Args:
        folder: made if it is not there; earlier masks in it are removed.
        image: upright.
        segments: what the pipeline returned.
        label2id: of the model.

    Returns:
        What `segments.json` holds.
    """
    masks = folder / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    for former in masks.glob("*.png"):
        former.unlink()
    described = []
    for number, segment in enumerate(segments):
        label = segment["label"]
        segment["mask"].save(masks / f"{number:03}_{as_file_name(label)}.png")
        run_lengths = encode_mask(np.asarray(segment["mask"]) > 0)
        described.append(describe_segment(label, label2id[label], segment["score"], run_lengths))
    (folder / "segments.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    draw_segmentation(image, segments).save(folder / "overlay.png")
    return described


def as_file_name(text: str) -> str:
    """Returns a text of any letters as a part of a file name: 100 bytes at most, where 255 is what disks take."""
    name = re.sub(r"[^\w.-]+", "_", text).encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return name.strip("_-.") or "unnamed"


def describe_segment(label: str, label_id: int, score: float | None, run_lengths: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a segment as exported models write it: with its area and box in pixels, and COCO's run lengths."""
    return {
        "label": label,
        "label_id": label_id,
        "score": score,
        "area": int(coco_mask.area(run_lengths)),
        "bbox": [int(edge) for edge in coco_mask.toBbox(run_lengths)],  # x, y, width, height
        "segmentation": run_lengths,
    }

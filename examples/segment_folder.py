"""
Segments every image of a folder, in batches: a line of JSON for each, masks as COCO's run lengths.

    python examples/segment_folder.py photos segments.jsonl --batch_size 8

Images are read as they are needed and results written as they come, so that their number does not matter.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from eomt_transformers import pipeline


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Segments every image of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path, help="file to write, a line of JSON for each image")
    parser.add_argument("--model", default="tue-mps/coco_panoptic_eomt_large_640", help="folder or name on the Hub")
    parser.add_argument("--batch_size", type=int, default=1, help="images at a time; more than one pays on a GPU")
    options = parser.parse_args()

    segmenter = pipeline(options.model)
    paths = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    found = segmenter((str(path) for path in paths), batch_size=options.batch_size)
    with options.output.open("w", encoding="utf-8") as file:
        for path, segments in zip(paths, found):
            for segment in segments:
                run_lengths = coco_mask.encode(np.asfortranarray(segment.pop("mask")) // 255)
                segment["segmentation"] = {**run_lengths, "counts": run_lengths["counts"].decode()}
            print(json.dumps({"file_name": path.name, "segments": segments}), file=file)

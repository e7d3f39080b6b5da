"""Exported graphs against the pipeline: largest difference of logits, and whether the segments are the same.

    python -m benchmarks.deployment --models outputs/shapes_demo --output benchmarks/results/deployment.json
    python -m benchmarks.deployment --models MODEL MODEL --photos FOLDER --formats onnx openvino

Each model is exported in each format and kind, and segments the images as `predict.py` does, for each of the three
tasks: trained panoptic models answer all of them. They are compared with this project's pipeline in float32. Images
are generated scenes of many sizes, and photographs if there are any. The kinds are

- `fixed` and `dynamic`: the raw graph with a batch of 1 and the model's size, and with all sizes left open;
- `segmenter`: the graph from an image to segments, of the images as they are; OpenVINO's does not resize, `predict.py`
  does for it;
- `at size`: the same, of images that are made to fit in the model's size before, for the pipeline too; semantic
  models, whose images cover that size, resize them all the same;
- `float16`, `int8`: the fixed raw graph in a lower precision.

Figures: the largest difference of mask and class logits in relation to the largest logit; the number of images with
the same list of segments, that is the same classes in the same order, and with as many segments of each class in any
order; the share of pixels that differ, of all images whose lists are the same, and the most of them in one image.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import surroundings
from deployment_eomt import export_model
from deployment_eomt.decoder import decode_mask, preprocess
from deployment_eomt.export import load_model
from deployment_eomt.predict import Segmenter
from image_processing_eomt import TASKS, EomtImageSegmentationPipeline
from image_processing_eomt.geometry_eomt import fit_size, parse_size
from training_eomt.shapes import generate_shapes_dataset


NUM_IMAGES = 100
SCENE_SIZES = (64, 200)  # shortest and longest side of generated scenes, in pixels
# What is exported, by the name in the table: the arguments of `export_model`, and the formats it is for.
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "fixed": ({"dynamic": ()}, ("onnx", "openvino", "torch", "executorch")),
    "dynamic": ({"dynamic": ("batch", "height", "width")}, ("onnx", "openvino", "torch")),
    "segmenter": ({"kind": "segmenter"}, ("onnx", "openvino")),
    "at size": ({"kind": "segmenter"}, ("onnx", "openvino")),
    "float16": ({"dynamic": (), "precision": "float16"}, ("onnx",)),
    "int8": ({"dynamic": (), "precision": "int8"}, ("onnx",)),
}
FORMATS = ("onnx", "openvino", "torch", "executorch")

Segments = list[tuple[int, np.ndarray]]  # class and `(height, width)` bool mask of each


def load_images(photos: Path | None, folder: Path) -> list[np.ndarray]:
    """Returns `NUM_IMAGES` images, `(height, width, 3)` uint8: photographs first, then generated scenes."""
    paths = sorted(path for path in photos.rglob("*") if path.suffix in (".jpg", ".png")) if photos else []
    scenes = generate_shapes_dataset(folder, 0, 0, NUM_IMAGES - len(paths), image_size=SCENE_SIZES, seed=7)
    paths += sorted((scenes / "test" / "images").iterdir())
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths[:NUM_IMAGES]]


def export_rows(
    path: Path, kinds: Sequence[str], formats: Sequence[str], images: list[np.ndarray], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yields a row for each format, kind and task of a model."""
    as_they_are = images
    model, image_processor = load_model(path)
    family, model_size = model.config.model_type, parse_size(image_processor.size)
    for kind in kinds:
        images = [fit(image, model_size) for image in as_they_are] if kind == "at size" else as_they_are
        expected = {task: list(segment_eagerly(path, task, images)) for task in TASKS}
        settings, of_formats = KINDS[kind]
        for format in (name for name in formats if name in of_formats):
            exported: Path | None = None
            for task in TASKS:
                if exported is None or settings.get("kind") == "segmenter":
                    exported = export_model(
                        path, folder / f"{kind}_{format}_{task}", format, task=task, allow_inaccurate=True, **settings
                    )
                else:
                    exported = with_task(exported, path, task, folder / f"{kind}_{format}_{task}")
                segmenter = Segmenter(exported)
                row: dict[str, Any] = {
                    "format": format,
                    "family": family,
                    "task": task,
                    "kind": kind,
                }
                if segmenter.graph.description["kind"] == "raw":
                    row["logits"] = compare_logits(segmenter, path, task, images)
                yield row | compare_segments(segmenter, images, expected[task])


def fit(image: np.ndarray, model_size: tuple[int, int]) -> np.ndarray:
    """Makes an image as large as fits in the model's size."""
    height, width = fit_size((image.shape[0], image.shape[1]), model_size)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def with_task(exported: Path, path: Path, task: str, folder: Path) -> Path:
    """Copies an exported raw graph, which is the same for every task, and gives the copy the settings of another."""
    shutil.copytree(exported, folder)
    settings = load_model(path, task)[1].to_json_string()
    (folder / "preprocessor_config.json").write_text(settings)
    return folder


def segment_eagerly(path: Path, task: str, images: list[np.ndarray]) -> Iterator[Segments]:
    """Yields the segments of each image as this project's pipeline finds them."""
    model, image_processor = load_model(path, task)
    pipeline: Any = EomtImageSegmentationPipeline(model=model, image_processor=image_processor)
    names: Any = model.config.label2id
    for image in images:
        found = pipeline(Image.fromarray(image))
        yield [(names[each["label"]], np.asarray(each["mask"]) > 0) for each in found]


def compare_logits(segmenter: Segmenter, path: Path, task: str, images: list[np.ndarray]) -> float:
    """Returns the largest difference of logits to the model's, in relation to the largest logit."""
    model, _ = load_model(path, task)
    difference = largest = 0.0
    for image in images:
        for pixel_values in preprocess(image, segmenter.settings):
            with torch.inference_mode():
                expected = model(torch.from_numpy(pixel_values))
            found = segmenter.graph(pixel_values=pixel_values)
            for name, values in found.items():
                logits = expected[name].numpy()
                difference = max(difference, float(abs(values - logits).max()))
                largest = max(largest, float(abs(logits).max()))
    return difference / largest


def compare_segments(segmenter: Segmenter, images: list[np.ndarray], expected: list[Segments]) -> dict[str, Any]:
    """Returns how many images have the same list of segments, and the shares of pixels that differ in those."""
    num_same, num_same_classes, num_segments, shares = 0, 0, 0, []
    for image, segments in zip(images, expected, strict=True):
        found = segmenter(image)
        num_segments += len(segments)
        labels, expected_labels = [each["label_id"] for each in found], [label for label, _ in segments]
        num_same_classes += sorted(labels) == sorted(expected_labels)
        if labels != expected_labels:
            continue
        num_same += 1
        differs = np.zeros(image.shape[:2], dtype=bool)
        for each, (_, mask) in zip(found, segments):
            differs |= decode_mask(each["segmentation"]) != mask
        shares.append(float(differs.mean()))
    return {
        "images": len(images),
        "segments": num_segments,
        "same_lists": num_same,
        "same_classes": num_same_classes,
        "differing_pixels": round(float(np.mean(shares)), 7),
        "most_differing_pixels": round(max(shares), 7),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of trained panoptic models")
    parser.add_argument("--photos", type=Path, help="folder of photographs, taken before generated scenes")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    results: dict[str, Any] = {**surroundings(torch.device("cpu")), "rows": []}
    for path in options.models:
        with tempfile.TemporaryDirectory() as name:
            images = load_images(options.photos, Path(name, "scenes"))
            for row in export_rows(path, options.kinds, options.formats, images, Path(name)):
                logits = f"{row['logits']:.1e}" if "logits" in row else ""
                print(
                    f"{row['format']:<11}{row['family']:<13}{row['task']:<10}{row['kind']:<10}{logits:>8}"
                    f"{row['same_lists']:>5}, {row['same_classes']} of {row['images']}, {row['segments']} segments"
                    f"{row['differing_pixels']:>12.2e}{row['most_differing_pixels']:>11.2e}",
                    flush=True,
                )
                results["rows"].append(row)
                if options.output:
                    options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

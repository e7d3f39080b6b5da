"""What low precision changes in the outputs of a trained model.

    python benchmarks/precision.py --model outputs/shapes_demo --images outputs/shapes_data/validation/images \\
        --output benchmarks/results/precision.json    # after: make demo

Every image goes through the model in float32 and in each lower precision (see `optimize_for_inference`). Of the
queries that see an object in float32, `class_agreement` is the share that gives the same class, and `mask_iou` the
mean IoU of their masks with those of float32. `pixel_agreement` is the share of pixels that end in the same class.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import surroundings
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation


PRECISIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "int8": {"quantization": "int8"},
    "float8": {"dtype": torch.bfloat16, "quantization": "float8"},
}
ON_CPU, ON_CUDA = ("bfloat16", "int8"), ("bfloat16", "float16", "float8")
MEASURES = ("class_agreement", "mask_iou", "pixel_agreement")


@torch.no_grad()
def compare(reference: Any, other: Any, processor: EomtImageProcessor, image: Image.Image) -> dict[str, float]:
    """The three measures for one image."""
    inputs = processor(images=[image], return_tensors="pt").to(reference.device)
    outputs = [model(**inputs) for model in (reference, other)]
    masks, other_masks = (output.masks_queries_logits.flatten(2) > 0 for output in outputs)
    classes, other_classes = (output.class_queries_logits.argmax(-1) for output in outputs)
    is_object = (classes != reference.config.num_labels) & masks.any(-1)
    ious = (masks & other_masks).sum(-1) / (masks | other_masks).sum(-1).clamp(min=1)
    size = [(image.height, image.width)]
    labels, other_labels = (processor.post_process_semantic_segmentation(output, size)[0] for output in outputs)
    return {
        "class_agreement": (classes == other_classes)[is_object].float().mean().item(),
        "mask_iou": ious[is_object].mean().item(),
        "pixel_agreement": (labels == other_labels).float().mean().item(),
    }


def images(folder: Path, number: int) -> Iterator[Image.Image]:
    """Images of a folder, evenly spread over it."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in paths[:: max(1, len(paths) // number)][:number]:
        with Image.open(path) as image:
            yield image.convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model and its image processor")
    parser.add_argument("--images", type=Path, required=True, help="folder of images that the model knows to segment")
    parser.add_argument("--number", type=int, default=25, help="of images")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), help="default: what suits the device")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    precisions = arguments.precisions or (ON_CUDA if arguments.device.type == "cuda" else ON_CPU)

    def load() -> EomtForUniversalSegmentation:
        return EomtForUniversalSegmentation.from_pretrained(arguments.model).to(arguments.device).eval()

    processor = EomtImageProcessor.from_pretrained(arguments.model)
    reference = load()
    config = reference.config
    results: dict[str, Any] = {
        **surroundings(arguments.device),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "images": arguments.number,
        "precisions": {},
    }
    for precision in precisions:
        model = load().optimize_for_inference(**PRECISIONS[precision])
        figures = [compare(reference, model, processor, image) for image in images(arguments.images, arguments.number)]
        means = {measure: round(statistics.mean(figure[measure] for figure in figures), 4) for measure in MEASURES}
        results["precisions"][precision] = means
        print(precision, means, flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""How time and memory grow with what is computed: this project's class against Transformers' own.

    python benchmarks/scaling.py --output benchmarks/results/scaling.json  # ViT-S on a CPU; also writes scaling.png
    python benchmarks/scaling.py --device cuda --size large --dtype bfloat16 \\
        --output benchmarks/results/scaling_cuda.json

One axis is varied at a time. From a forward pass of one 320x320 image with 100 queries and without masks, as at
inference: resolution, queries, batch. From a training step (see `training.py`) of two such images with 20 targets
each and with masks: targets. From panoptic post-processing of the logits of `post_processing.py` (200 queries, 20
segments, 640x640 pixels): the size of the image. Both have the same weights and inputs, they take turns, and times
are medians. Memory is what PyTorch's allocator hands out at once, beyond what was there before, such as weights and
the optimizer's moments.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.inference import models_of
from benchmarks.measuring import (
    MIB,
    SIZES,
    check_measurement,
    peak_memory,
    surroundings,
    taking_turns,
    times_faster,
    write_json,
)
from benchmarks.post_processing import STUFF_CLASSES, make_image, make_outputs, processors
from benchmarks.training import MODELS, steps_of


FORWARD = {"image_size": 320, "num_queries": 100, "batch_size": 1}
TRAINING = {"image_size": 320, "num_queries": 100, "batch_size": 2, "num_targets": 20}
AXES = {  # and their names in the plot
    "image_size": "side in pixels, forward",
    "num_queries": "queries, forward",
    "batch_size": "images, forward",
    "num_targets": "targets per image, training step",
    "image": "pixels of an image, post-processing",
}

Calls = dict[str, Callable[[], Any]]  # what to measure, of each of `MODELS`


def forward_passes(case: dict[str, int], arguments: argparse.Namespace) -> Calls:
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    models = models_of(arguments.size, case["image_size"], dtype, device, case["num_queries"])
    pixels = torch.randn(case["batch_size"], 3, case["image_size"], case["image_size"], device=device, dtype=dtype)
    return {name: torch.inference_mode()(partial(model, pixel_values=pixels)) for name, model in models.items()}


def training_steps(case: dict[str, int], arguments: argparse.Namespace) -> Calls:
    words = {"size": arguments.size, "dtype": arguments.dtype, "device": str(arguments.device)}
    return dict(steps_of(words | case, probability=1.0))


def post_processings(image: tuple[int, int], device: torch.device) -> Calls:
    theirs, ours = processors("panoptic")
    outputs = make_outputs(ours(make_image(image), return_tensors="pt"), image, device)
    return {
        name: partial(
            processor.post_process_panoptic_segmentation,
            outputs,
            [image],
            threshold=0.8,
            stuff_classes=STUFF_CLASSES,
        )
        for name, processor in zip(MODELS, (theirs, ours), strict=True)
    }


def calls_of(axis: str, value: Any, arguments: argparse.Namespace) -> Calls:
    """What an axis is measured on, at a value of it."""
    if axis == "image":
        return post_processings(value, arguments.device)
    if axis == "num_targets":
        return training_steps({**TRAINING, axis: value}, arguments)
    return forward_passes({**FORWARD, axis: value}, arguments)


def measure(axis: str, value: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row of the results."""
    calls, device = calls_of(axis, value, arguments), arguments.device
    seconds = taking_turns(calls, arguments.rounds, device, warm_up=1)
    row: dict[str, Any] = {"axis": axis, "value": value}
    for name, call in calls.items():
        row[name] = {
            "seconds": round(statistics.median(seconds[name]), 5),
            "peak_mib": round(peak_memory(call, device) / MIB, 1),
        }
    row["times_faster"] = times_faster(seconds["transformers"], seconds["ours"])
    row["memory_share"] = round(row["ours"]["peak_mib"] / row["transformers"]["peak_mib"], 3)
    return row


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A column for each axis, seconds above memory."""
    axes = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
    figure = Figure(figsize=(3 * len(axes), 5), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False, sharex="col")
    for axis, (upper, lower) in zip(axes, panels.T, strict=True):
        points = [row for row in rows if row["axis"] == axis]
        values = [prod(row["value"]) if axis == "image" else row["value"] for row in points]
        for panel, quantity in ((upper, "seconds"), (lower, "peak_mib")):
            for name in MODELS:
                panel.loglog(values, [row[name][quantity] for row in points], marker="o", label=name)
            lowest, highest = panel.get_ylim()
            panel.set_ylim(lowest / 2, highest * 2)  # what hardly grows shall look like it
        labels = ["x".join(map(str, row["value"])) if axis == "image" else str(row["value"]) for row in points]
        lower.set_xticks(values, labels, rotation=30)
        lower.set_xticks([], minor=True)
        lower.set_xlabel(AXES[axis])
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak memory, MiB")
    panels[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=100)


def image_size(text: str) -> tuple[int, int]:
    """Height and width from `480x640`."""
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--image-sizes", type=int, nargs="*", default=[320, 480, 640, 960], help="pixels")
    parser.add_argument("--queries", type=int, nargs="*", default=[50, 100, 200, 400])
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--targets", type=int, nargs="*", default=[5, 20, 80], help="per image")
    parser.add_argument(
        "--images",
        type=image_size,
        nargs="*",
        default=[(480, 640), (960, 1280), (1920, 2560)],
        help="heights and widths in pixels, such as 480x640",
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each; the median counts")
    parser.add_argument("--output", type=Path, help="JSON file to write; the plot goes beside it")
    arguments = parser.parse_args()
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say when it starts

    check_measurement(arguments.device)
    results: dict[str, Any] = {
        **surroundings(arguments.device),
        "size": arguments.size,
        "dtype": arguments.dtype,
        "forward": FORWARD,
        "training": TRAINING,
        "rows": [],
    }
    values = {
        "image_size": arguments.image_sizes,
        "num_queries": arguments.queries,
        "batch_size": arguments.batch_sizes,
        "num_targets": arguments.targets,
        "image": arguments.images,
    }
    for axis in AXES:
        for value in values[axis]:
            row = measure(axis, value, arguments)
            results["rows"].append(row)
            print(
                f"{axis} {value}: theirs {row['transformers']}, ours {row['ours']}, {row['times_faster']}x as fast, "
                f"{row['memory_share']:.0%} of the memory",
                flush=True,
            )
            write_json(results, arguments.output)
    if arguments.output is not None:
        draw(results["rows"], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()

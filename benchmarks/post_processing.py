"""Pre- and post-processing: Transformers' own EoMT image processor and ours, time and memory.

    python benchmarks/post_processing.py --output benchmarks/post_processing.json

Both get the same pictures and the same logits: 200 queries, 133 classes, 20 queries that see something, at 640 pixels
(split into windows for semantic segmentation). Runs of the two take turns, figures are medians, and the results are
compared before they are timed. Memory is what PyTorch's allocator hands out at once during a call.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measuring import MIB, check_measurement, peak_memory, surroundings
from PIL import Image
from torch import Tensor
from transformers.models.eomt.image_processing_eomt import EomtImageProcessor as TheirProcessor
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil as TheirProcessorPil


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil


NUM_QUERIES, NUM_CLASSES, NUM_SEGMENTS = 200, 133, 20
STUFF_CLASSES = list(range(80, 133))  # as in COCO
SIZE = 640
PICTURES = ((480, 640), (1280, 1920))  # height, width
TASKS = ("panoptic", "instance", "semantic")
MIN_IOU = 0.95  # of a segment here and there: their size before padding is truncated, ours rounded
MIN_AGREEMENT = 0.999  # of the pixels' classes


def processors(task: str, is_pil: bool = False) -> tuple[Any, Any]:
    """Transformers' and ours with the same settings."""
    their_class, our_class = (
        (TheirProcessorPil, EomtImageProcessorPil) if is_pil else (TheirProcessor, EomtImageProcessor)
    )
    is_split = task == "semantic"
    size = {"shortest_edge": SIZE, "longest_edge": None if is_split else SIZE}
    theirs = their_class(size=size, do_split_image=is_split, do_pad=not is_split)
    return theirs, our_class(size=SIZE, task=task, stuff_classes=STUFF_CLASSES)


def outputs_of(batch: Any, picture: tuple[int, int], device: torch.device) -> SimpleNamespace:
    """Logits as a model would give them: 20 queries with a disc each on a grid, the others see nothing."""
    torch.manual_seed(0)
    num_inputs = len(batch["pixel_values"])
    edge = SIZE // 4
    scale = SIZE / 4 / max(picture)
    height, width = (length * scale for length in picture) if num_inputs == 1 else (edge, edge)
    y, x = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    masks = torch.randn(NUM_QUERIES, edge, edge) - 4
    classes = torch.randn(NUM_QUERIES, NUM_CLASSES + 1)
    classes[:, -1] += 10
    seeing = torch.randperm(NUM_QUERIES)[:NUM_SEGMENTS]
    labels = torch.randperm(NUM_CLASSES)[:NUM_SEGMENTS]
    for index, (query, label) in enumerate(zip(seeing, labels)):
        row, column = (index // 5 + 0.5) * height / 4, (index % 5 + 0.5) * width / 5
        distance = ((y - row).square() / (height / 9) ** 2 + (x - column).square() / (width / 11) ** 2).sqrt()
        masks[query] = (1 - distance) * 12 + torch.randn(edge, edge) * 0.2
        classes[query, -1] -= 10
        classes[query, label] += 10
    return SimpleNamespace(
        masks_queries_logits=masks.repeat(num_inputs, 1, 1, 1).to(device),
        class_queries_logits=classes.repeat(num_inputs, 1, 1).to(device),
        patch_offsets=batch.get("patch_offsets"),
    )


def check_same(task: str, theirs: Any, ours: Any) -> dict[str, float]:
    """
    How alike two results are: the least overlap of a segment, or the share of pixels with the same class.

    Raises:
        RuntimeError: they are not the same segments.
    """
    if task == "semantic":
        agreement = (theirs == ours).float().mean().item()
        if agreement < MIN_AGREEMENT:
            raise RuntimeError(f"Only {agreement:.2%} of the pixels have the same class.")
        return {"agreement": round(agreement, 6)}
    by_label = [
        {info["label_id"]: (info["score"], result["segmentation"] == info["id"]) for info in result["segments_info"]}
        for result in (theirs, ours)
    ]
    if len(by_label[0]) != NUM_SEGMENTS or by_label[0].keys() != by_label[1].keys():
        raise RuntimeError(f"Not the same segments: {[sorted(segments) for segments in by_label]}.")
    ious = []
    for label, (score, mask) in by_label[0].items():
        our_score, our_mask = by_label[1][label]
        if abs(score - our_score) > 1e-2:
            raise RuntimeError(f"The segment of class {label} has the scores {score} and {our_score}.")
        ious.append(((mask & our_mask).sum() / (mask | our_mask).sum()).item())
    if min(ious) < MIN_IOU:
        raise RuntimeError(f"A segment overlaps with its counterpart by {min(ious):.3f} only.")
    return {"num_segments": len(ious), "min_iou": round(min(ious), 4)}


def compare(theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int, device: torch.device) -> dict[str, Any]:
    """Median times in ms, taking turns, their ratio, and PyTorch's peak memory in MiB, if both use it."""
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(repeats):
        for name, function in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    memory = {name: peak_memory(function, device) for name, function in (("theirs", theirs), ("ours", ours))}
    ratios = [their_time / our_time for their_time, our_time in zip(*times.values())]
    figures: dict[str, Any] = {
        **{f"{name}_ms": round(1000 * statistics.median(values), 1) for name, values in times.items()},
        "times_faster": round(statistics.median(ratios), 2),
    }
    if memory["theirs"] > MIB:  # PIL and NumPy are not PyTorch's
        figures.update({f"{name}_peak_mib": round(value / MIB, 1) for name, value in memory.items()})
        figures["memory_share"] = round(memory["ours"] / memory["theirs"], 3)
    return figures


def picture_of(size: tuple[int, int]) -> Image.Image:
    """A smooth random picture."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def as_tensors(batch: Any) -> Tensor:
    return batch["pixel_values"] if isinstance(batch["pixel_values"], Tensor) else torch.stack(batch["pixel_values"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each case; the median counts")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    device = arguments.device
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say when it starts

    check_measurement(device)
    results: dict[str, Any] = {**surroundings(device), "post_processing": [], "pre_processing": []}
    print(f"{'':<32}{'theirs ms':>10}{'ours ms':>10}{'faster':>8}{'theirs MiB':>12}{'ours MiB':>10}{'share':>8}")
    for size in PICTURES:
        for task in TASKS:
            theirs, ours = processors(task)
            outputs = outputs_of(ours(picture_of(size), return_tensors="pt"), size, device)
            settings: dict[str, Any] = {"threshold": 0.8} if task != "semantic" else {}
            if task == "panoptic":
                settings["stuff_classes"] = STUFF_CLASSES
            calls = [
                lambda p=processor: getattr(p, f"post_process_{task}_segmentation")(outputs, [size], **settings)  # noqa: B023
                for processor in (theirs, ours)
            ]
            alike = check_same(task, *(call()[0] for call in calls))
            case = {"task": task, "picture": list(size), **alike}
            report(results["post_processing"], case, compare(*calls, arguments.repeats, device))
    for size in PICTURES:
        picture = picture_of(size)
        for task in ("panoptic", "semantic"):
            for backend in ("torchvision", "pil"):
                calls = [
                    lambda p=processor: p(picture, return_tensors="pt")  # noqa: B023
                    for processor in processors(task, backend == "pil")
                ]
                case = {"task": task, "picture": list(size), "backend": backend}
                report(results["pre_processing"], case, compare(*calls, arguments.repeats, torch.device("cpu")))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def report(rows: list[dict[str, Any]], case: dict[str, Any], figures: dict[str, Any]) -> None:
    rows.append({**case, **figures})
    name = f"{case['task']} {case['picture'][1]}x{case['picture'][0]} {case.get('backend', '')}"
    print(
        f"{name:<32}{figures['theirs_ms']:>10}{figures['ours_ms']:>10}{figures['times_faster']:>8}"
        + "".join(
            f"{figures.get(column, ''):>{width}}"
            for column, width in (("theirs_peak_mib", 12), ("ours_peak_mib", 10), ("memory_share", 8))
        )
    )


if __name__ == "__main__":
    main()

"""Pre- and post-processing: Transformers' own EoMT image processor and ours, time and memory.

    python benchmarks/post_processing.py --output benchmarks/results/post_processing.json

Both get the same images and the same logits: 200 queries, 133 classes, 20 queries that see something, at 640 pixels
(split into windows for semantic segmentation). What they see overlaps a little, and two see the same stuff. Results
are compared before they are timed. Runs of the two take turns, figures are medians. Memory is what PyTorch's allocator
hands out at once during a call.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.eomt.image_processing_eomt import EomtImageProcessor as TheirProcessor
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil as TheirProcessorPil


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import MIB, check_measurement, peak_memory, surroundings, taking_turns, times_faster
from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil


NUM_QUERIES, NUM_CLASSES, NUM_SEGMENTS = 200, 133, 20
STUFF_CLASSES = list(range(80, 133))  # as in COCO
SIZE = 640
PHOTO_SIZES = ((480, 640), (1280, 1920))  # height, width
TASKS = ("panoptic", "instance", "semantic")
# Of a segment here and there. 640x480 fits; for 1920x1280, their size before padding is truncated, ours is rounded.
MIN_IOU = {(480, 640): 0.999, (1280, 1920): 0.95}
MIN_AGREEMENT = 0.999  # of the pixels' classes


def processors(task: str, is_pil: bool = False) -> tuple[Any, Any]:
    """Transformers' and ours with the same settings."""
    their_class, our_class = (
        (TheirProcessorPil, EomtImageProcessorPil) if is_pil else (TheirProcessor, EomtImageProcessor)
    )
    is_split = task == "semantic"
    size: Any = {"shortest_edge": SIZE, "longest_edge": None if is_split else SIZE}
    theirs = their_class(size=size, do_split_image=is_split, do_pad=not is_split)
    return theirs, our_class(size=SIZE, task=task, stuff_classes=STUFF_CLASSES)


def make_outputs(batch: Any, image: tuple[int, int], device: torch.device) -> SimpleNamespace:
    """Logits as a model would give them: 20 queries with a disc each on a grid, the others see nothing."""
    torch.manual_seed(0)
    num_inputs = len(batch["pixel_values"])
    edge = SIZE // 4
    scale = SIZE / 4 / max(image)
    height, width = (length * scale for length in image) if num_inputs == 1 else (edge, edge)
    y, x = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    masks = torch.randn(NUM_QUERIES, edge, edge) - 4
    classes = torch.randn(NUM_QUERIES, NUM_CLASSES + 1)
    classes[:, -1] += 10
    seeing = torch.randperm(NUM_QUERIES)[:NUM_SEGMENTS]
    labels = torch.randperm(NUM_CLASSES)[:NUM_SEGMENTS]
    labels[:2] = STUFF_CLASSES[0]
    labels[2:][labels[2:] == STUFF_CLASSES[0]] = 0 if 0 not in labels else STUFF_CLASSES[1]
    for index, (query, label) in enumerate(zip(seeing, labels)):
        row, column = (index // 5 + 0.5) * height / 4, (index % 5 + 0.5) * width / 5
        # Wider than their distance: neighbours overlap a little.
        distance = ((y - row).square() / (height / 9) ** 2 + (x - column).square() / (width / 9) ** 2).sqrt()
        masks[query] = (1 - distance) * 12 + torch.randn(edge, edge) * 0.2
        classes[query, -1] -= 10
        classes[query, label] += 10
    return SimpleNamespace(
        masks_queries_logits=masks.repeat(num_inputs, 1, 1, 1).to(device),
        class_queries_logits=classes.repeat(num_inputs, 1, 1).to(device),
        patch_offsets=batch.get("patch_offsets"),
    )


def check_same(task: str, image: tuple[int, int], theirs: Any, ours: Any) -> dict[str, Any]:
    """
    How alike two results are: the least overlap of a segment, or the share of pixels with the same class.

    For instances, theirs is a map in which a later query covers an earlier one, ours are whole masks: theirs must lie
    in ours, and together they must cover the same.

    Raises:
        RuntimeError: they are not the same segments.
    """
    if task == "semantic":
        agreement = (theirs == ours).float().mean().item()
        require(agreement >= MIN_AGREEMENT, f"only {agreement:.2%} of the pixels have the same class")
        return {"agreement": round(agreement, 6)}
    is_panoptic = task == "panoptic"
    infos, our_infos = (
        sorted(result["segments_info"], key=lambda info: (info["label_id"], info["score"]))
        for result in (theirs, ours)
    )
    require(len(infos) == len(our_infos) == NUM_SEGMENTS - is_panoptic, "another number of segments")
    maps, our_maps = theirs["segmentation"], ours["segmentation"]
    if is_panoptic:
        for found, listed in ((maps, infos), (our_maps, our_infos)):
            ids = sorted(info["id"] for info in listed)
            require(found.unique().tolist() == [-1, *ids], "another id in the map than in the list")
    ious = []
    for info, our_info in zip(infos, our_infos):
        require(info["label_id"] == our_info["label_id"], "another class")
        require(abs(info["score"] - our_info["score"]) < 1e-2, "another score")
        mask = maps == info["id"]
        our_mask = our_maps == our_info["id"] if is_panoptic else our_maps[our_info["id"]]
        require(our_mask.sum() == our_info["area"], "another area in the list than in the map")
        whole = mask | our_mask if is_panoptic else mask
        ious.append(((mask & our_mask).sum() / whole.sum()).item())
    if not is_panoptic:
        ours_anywhere = our_maps.any(dim=0)
        ious.append((((maps >= 0) & ours_anywhere).sum() / ((maps >= 0) | ours_anywhere).sum()).item())
    require(min(ious) >= MIN_IOU[image], f"a segment overlaps with its counterpart by {min(ious):.4f} only")
    return {"num_segments": len(infos), "min_iou": round(min(ious), 4)}


def require(is_so: Any, difference: str) -> None:
    if not is_so:
        raise RuntimeError(f"The results are not the same segments: {difference}.")


def compare(theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int, device: torch.device) -> dict[str, Any]:
    """Median times in ms, taking turns, their ratio, and PyTorch's peak memory in MiB, if both use it."""
    calls = {"theirs": theirs, "ours": ours}
    times = taking_turns(calls, repeats, device)
    memory = {name: peak_memory(function, device) for name, function in calls.items()}
    figures: dict[str, Any] = {
        **{f"{name}_ms": round(1000 * statistics.median(values), 1) for name, values in times.items()},
        "times_faster": times_faster(**times),
    }
    if memory["theirs"] > MIB:  # PIL and NumPy are not PyTorch's
        figures.update({f"{name}_peak_mib": round(value / MIB, 1) for name, value in memory.items()})
        figures["memory_share"] = round(memory["ours"] / memory["theirs"], 3)
    return figures


def make_image(size: tuple[int, int]) -> Image.Image:
    """A smooth random image."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


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
    for size in PHOTO_SIZES:
        for task in TASKS:
            theirs, ours = processors(task)
            outputs = make_outputs(ours(make_image(size), return_tensors="pt"), size, device)
            settings: dict[str, Any] = {"threshold": 0.8} if task != "semantic" else {}
            if task == "panoptic":
                settings["stuff_classes"] = STUFF_CLASSES
            calls = [
                partial(getattr(processor, f"post_process_{task}_segmentation"), outputs, [size], **settings)
                for processor in (theirs, ours)
            ]
            whole = {"return_binary_maps": True} if task == "instance" else {}
            our_result = ours.post_process(outputs, [size], **settings, **whole)[0]
            alike = check_same(task, size, calls[0]()[0], our_result)
            case = {"task": task, "image": list(size), **alike}
            report(results["post_processing"], case, compare(calls[0], calls[1], arguments.repeats, device))
    for size in PHOTO_SIZES:
        image = make_image(size)
        for task in ("panoptic", "semantic"):
            for backend in ("torchvision", "pil"):
                calls = [
                    partial(processor, image, return_tensors="pt") for processor in processors(task, backend == "pil")
                ]
                their_pixels, our_pixels = (call()["pixel_values"] for call in calls)
                if task == "semantic":  # elsewhere sizes are rounded differently
                    require(torch.allclose(their_pixels, our_pixels, atol=2e-2), "other pixel values")
                case = {"task": task, "image": list(size), "backend": backend}
                report(
                    results["pre_processing"],
                    case,
                    compare(calls[0], calls[1], arguments.repeats, torch.device("cpu")),
                )
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def report(rows: list[dict[str, Any]], case: dict[str, Any], figures: dict[str, Any]) -> None:
    rows.append({**case, **figures})
    name = f"{case['task']} {case['image'][1]}x{case['image'][0]} {case.get('backend', '')}"
    print(
        f"{name:<32}{figures['theirs_ms']:>10}{figures['ours_ms']:>10}{figures['times_faster']:>8}"
        + "".join(
            f"{figures.get(column, ''):>{width}}"
            for column, width in (("theirs_peak_mib", 12), ("ours_peak_mib", 10), ("memory_share", 8))
        )
    )


if __name__ == "__main__":
    main()

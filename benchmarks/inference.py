"""Inference: this project's class and pipeline against Transformers' own, and against what the hardware allows.

    python benchmarks/inference.py --dtypes float32 bfloat16 --output benchmarks/results/inference.json  # ViT-S, CPU
    python benchmarks/inference.py --dtypes float32 bfloat16 --compile-mode default --masks 0 \\
        --output benchmarks/results/inference_compiled.json
    python benchmarks/inference.py --dtypes float32 bfloat16 --compile-mode default --quantization int8 --masks 0 \\
        --tasks --output benchmarks/results/inference_int8.json
    python benchmarks/inference.py --dtypes float32 bfloat16 --sizes base large --masks 0 --tasks --rounds 3    # (*)
    python benchmarks/inference.py --device cuda --sizes large small base giant --batch-sizes 1 8 32 \\
        --dtypes bfloat16 float16 --masks 0 --tasks --output benchmarks/results/gpu/inference.json

(*) `inference_sizes.json` has the rows of this run, and of those with `--batch-sizes 8`, with `--sizes giant` and with
`--sizes large --image-sizes 1280` (these two in bfloat16).

Three have the same weights, get the same input and take turns: Transformers' own class, this project's, and this
project's after `optimize_for_inference`; figures are medians. With `--compile-mode` all are compiled, with
`--quantization` the last is quantised, too. The limit of a forward pass is what its matrix products and convolutions,
counted from the shapes, take at the rate of a large product that takes turns with them, by the fastest of PyTorch's
libraries: a share of 100 % would be a model without anything else. Memory is what PyTorch's allocator hands out at
once during a pass, weights left out.

The whole pipeline goes from a 640x480 image to segments. Weights are random, so that a model would find nothing: its
forward pass runs, and then its logits are replaced by those of `post_processing.py`, with 20 segments.
"""

import argparse
import copy
import os
import statistics
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from transformers import ImageSegmentationPipeline
from transformers.models.eomt.modeling_eomt import EomtConfig as TheirConfig
from transformers.models.eomt.modeling_eomt import EomtForUniversalSegmentation as TheirModel


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import (
    MIB,
    SIZES,
    flash_attention,
    multiply_adds,
    peak_memory,
    set_masking,
    surroundings,
    taking_turns,
    times_faster,
    write_json,
)
from benchmarks.post_processing import NUM_CLASSES, NUM_QUERIES, STUFF_CLASSES, make_image, make_outputs, processors
from configuration_eomt import EomtConfig
from image_processing_eomt.pipeline_eomt import EomtImageSegmentationPipeline
from modeling_eomt import EomtForUniversalSegmentation


MODELS = ("transformers", "ours", "optimized")
LABELS = {
    "transformers": "Transformers' own",
    "ours": "this project",
    "optimized": "this project, optimize_for_inference()",
}
PHOTO_SIZE = (480, 640)  # height, width
WARM_UP = 2  # rounds
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}  # of the product whose rate is the limit


def models_of(
    size: str, image_size: int, dtype: torch.dtype, device: torch.device, num_queries: int = NUM_QUERIES
) -> dict[str, Any]:
    """Both classes with the same weights, in evaluation, without masks."""
    settings = {
        **SIZES[size],
        "image_size": image_size,
        "num_queries": num_queries,
        "num_labels": NUM_CLASSES,
        "patch_size": 16,
    }
    torch.manual_seed(0)
    with device:  # a GPU initialises large models at once
        theirs = TheirModel(TheirConfig(**settings))
        ours = EomtForUniversalSegmentation(EomtConfig(**settings))
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        set_masking(model, 0.0)
    return {
        name: model.to(device, dtype).eval()  # type: ignore[arg-type]
        for name, model in (("transformers", theirs), ("ours", ours))
    }


def contestants(size: str, image_size: int, dtype: torch.dtype, arguments: argparse.Namespace) -> dict[str, Any]:
    """Each of `MODELS`, compiled if that was asked for."""
    models = models_of(size, image_size, dtype, arguments.device)
    mode = arguments.compile_mode
    models["optimized"] = copy.deepcopy(models["ours"]).optimize_for_inference(
        quantization=arguments.quantization, compile_mode=mode
    )
    if mode is not None:
        models["transformers"].compile(mode=mode)
        models["ours"].compile(mode=mode)
    return models


def summary(seconds: list[float], batch_size: int = 1) -> dict[str, float]:
    """Median and 90th percentile in ms, and images per second."""
    median = statistics.median(seconds)
    return {
        "ms": round(1000 * median, 2),
        "p90_ms": round(1000 * statistics.quantiles(seconds, n=10)[-1], 2),
        "images_per_second": round(batch_size / median, 2),
    }


def large_products(dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], torch.Tensor]]:
    """What the hardware can do: a product of two square matrices of `MATRIX_SIZE`, from each library there is."""
    size = MATRIX_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    products: dict[str, Callable[[], torch.Tensor]] = {"product": lambda: a @ b}
    if device.type == "cpu":  # oneDNN's; that of float32 is MKL's
        products["convolution"] = lambda: F.conv2d(a.view(1, 1, size, size).permute(0, 3, 1, 2), b[:, :, None, None])
    return products


def comparison(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How often this project's class, as it is and, if it took part, optimised, fits into Transformers' own's time."""
    row = {"times_faster": times_faster(seconds["transformers"], seconds["ours"])}
    if "optimized" in seconds:
        row["times_faster_optimized"] = times_faster(seconds["transformers"], seconds["optimized"])
    return row


def measure_forward(
    models: dict[str, Any], batch_size: int, image_size: int, probability: float, arguments: Any
) -> dict[str, Any]:
    """A row of the results: the forward passes, and the share of the hardware's limit that each reaches."""
    device = arguments.device
    dtype = models["ours"].dtype
    pixels = torch.randn(batch_size, 3, image_size, image_size, device=device, dtype=dtype)
    products = large_products(dtype, device)
    calls: dict[str, Callable[[], Any]] = dict(products)
    for name, model in models.items():
        set_masking(model, probability)
        calls[name] = torch.no_grad()(lambda model=model: model(pixel_values=pixels))
    work = batch_size * multiply_adds(models["ours"], pixels[:1])
    seconds = taking_turns(calls, arguments.rounds, device, WARM_UP)
    rate = MATRIX_SIZE[device.type] ** 3 / min(statistics.median(seconds[name]) for name in products)
    row: dict[str, Any] = {
        "batch_size": batch_size,
        "image_size": image_size,
        "masks": probability,
        "billion_multiply_adds": round(work / 1e9, 2),
        "limit_ms": round(1000 * work / rate, 2),
    }
    for name in models:
        row[name] = summary(seconds[name], batch_size)
        row[name]["peak_mib"] = round(peak_memory(calls[name], device) / MIB, 1)
        row[name]["share_of_limit"] = round(work / rate / statistics.median(seconds[name]), 3)
    return row | comparison(seconds)


def measure_pipeline(models: dict[str, Any], task: str, arguments: Any) -> dict[str, Any]:
    """A row of the results: an image through the whole pipeline of each, and through two of its parts."""
    device, image = arguments.device, make_image(PHOTO_SIZE)
    calls: dict[str, Callable[[], Any]] = {}
    parts: dict[str, dict[str, Callable[[], Any]]] = {"preprocessing": {}, "post_processing": {}}
    their_processor, our_processor = processors(task)
    for name, model in models.items():
        is_theirs = name == "transformers"
        processor = their_processor if is_theirs else our_processor
        kind = ImageSegmentationPipeline if is_theirs else EomtImageSegmentationPipeline
        set_masking(model, 0.0)
        segmenter: Any = kind(model=model, image_processor=processor, device=device)
        found = make_outputs(processor(image, return_tensors="pt"), PHOTO_SIZE, device)

        def forward(inputs: Any, original: Any = segmenter._forward, found: Any = found) -> Any:
            outputs = original(inputs)
            for logits in ("masks_queries_logits", "class_queries_logits"):
                outputs[logits] = getattr(found, logits).to(outputs[logits].dtype)
            return outputs

        segmenter._forward = forward
        settings: dict[str, Any] = {"threshold": 0.8} if task != "semantic" else {}
        calls[name] = partial(segmenter, image, subtask=task, **settings)
        if name == "optimized":
            continue  # its processor is that of ours
        parts["preprocessing"][name] = partial(processor, image, return_tensors="pt")
        if task == "panoptic":
            settings = {**settings, "stuff_classes": STUFF_CLASSES}
        parts["post_processing"][name] = partial(
            getattr(processor, f"post_process_{task}_segmentation"), found, [PHOTO_SIZE], **settings
        )
    num_segments = {name: len(call()) for name, call in calls.items()}
    seconds = taking_turns(calls, arguments.rounds, device, WARM_UP)
    row: dict[str, Any] = {"task": task, "num_segments": num_segments}
    for name in models:
        row[name] = summary(seconds[name])
    row |= comparison(seconds)
    for part, part_calls in parts.items():
        part_seconds = taking_turns(part_calls, arguments.rounds, device, WARM_UP)
        row[part] = {f"{name}_ms": summary(values)["ms"] for name, values in part_seconds.items()}
    return row


def in_words(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {row[name]['ms']} ms" for name in MODELS)
    return f"{times}: {row['times_faster']}x, optimized {row['times_faster_optimized']}x"


def draw(results: dict[str, Any], path: Path) -> None:
    """Milliseconds of every row, and the hardware's limit where there is one."""
    rows = results["forward"] + results["pipeline"]
    figure = Figure(figsize=(8, 1 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(MODELS):
        places = [row + 0.27 * (index - 1) for row in range(len(rows))]
        axes.barh(places, [row[name]["ms"] for row in rows], height=0.25, label=LABELS[name])
    limits = [(place, row["limit_ms"]) for place, row in enumerate(rows) if "limit_ms" in row]
    for index, (place, limit) in enumerate(limits):
        label = "the hardware's limit" if index == 0 else ""
        axes.vlines(limit, place - 0.45, place + 0.45, colors="black", label=label)
    axes.set_yticks(range(len(rows)), [row_name(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=100)


def row_name(row: dict[str, Any]) -> str:
    """What was measured, for people."""
    if "task" in row:
        return f"{row['size']}, {row['dtype']}, {row['task']} pipeline"
    masks = "masks" if row["masks"] else "no masks"
    return f"{row['size']}, {row['image_size']} x {row['batch_size']}, {row['dtype']}, {masks}"


def measure_all(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Adds the rows of the results, and writes them as they come."""
    for dtype_name in arguments.dtypes:
        dtype = getattr(torch, dtype_name)
        for size in arguments.sizes:
            for image_size in arguments.image_sizes:
                models = contestants(size, image_size, dtype, arguments)
                known = {"size": size, "dtype": dtype_name}
                for batch_size in arguments.batch_sizes:
                    for probability in arguments.masks:
                        row = known | measure_forward(models, batch_size, image_size, probability, arguments)
                        results["forward"].append(row)
                        print(f"{row_name(row)}: {in_words(row)}, limit {row['limit_ms']} ms", flush=True)
                        write_json(results, arguments.output)
                for task in arguments.tasks if image_size == 640 else ():
                    row = known | measure_pipeline(models, task, arguments)
                    results["pipeline"].append(row)
                    print(f"{row_name(row)}: {in_words(row)}, segments {row['num_segments']}", flush=True)
                    write_json(results, arguments.output)
                torch.compiler.reset()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small"])
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[640], help="pixels")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32"])
    parser.add_argument("--masks", nargs="+", type=float, default=[0.0, 1.0], help="probabilities of masking")
    parser.add_argument("--compile-mode", help="of torch.compile; without, nothing is compiled")
    parser.add_argument("--quantization", help="see optimize_for_inference")
    parser.add_argument("--flash", action="store_true", help="on a GPU, FlashAttention whatever PyTorch would take")
    parser.add_argument("--tasks", nargs="*", default=["panoptic", "instance"], help="of the whole pipeline")
    parser.add_argument("--rounds", type=int, default=11, help="runs of each; the median counts")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say when it starts
    warnings.filterwarnings("ignore", message=".*pipelines sequentially on GPU.*")
    device = arguments.device

    results: dict[str, Any] = {
        **surroundings(device),
        "compile_mode": arguments.compile_mode,
        "quantization": arguments.quantization,
        "flash": arguments.flash,
        "forward": [],
        "pipeline": [],
    }
    attention = flash_attention(device) if arguments.flash else nullcontext()
    with attention:
        measure_all(results, arguments)
    if arguments.output is not None:
        draw(results, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()

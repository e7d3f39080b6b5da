"""Exported graphs beside eager: processor time and wall time of an image, ViT-S at 640 pixels.

    python -m benchmarks.deployment_speed --output benchmarks/results/deployment_speed.json
    python -m benchmarks.deployment_speed --size base --threads 2 --graphs "onnxruntime float32" "onnxruntime int8"

All take turns, in one process for each number of threads; the figures are medians over rounds, the ratios medians of
the ratios to eager in the same round. Where other programs run too, the processor time is the one to believe: wall
time then counts them as well. Weights are random, attention is not masked, and the graphs have fixed sizes and a batch
of 1, except where the name says "dynamic". Memory is the growth of the process while a graph is loaded and first run.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.inference import models_of
from benchmarks.measuring import MIB, in_own_process, surroundings
from deployment_eomt import export_model
from deployment_eomt.predict import load_graph
from deployment_eomt.report import draw_scenes
from image_processing_eomt import EomtImageProcessor


# What is exported, by the name in the table: the arguments of `export_model`.
GRAPHS: dict[str, dict[str, Any]] = {
    "onnxruntime float32": {"format": "onnx"},
    "onnxruntime float32, dynamic": {"format": "onnx", "dynamic": ("batch", "height", "width")},
    "onnxruntime float32, opset 23": {"format": "onnx", "opset": 23},
    "onnxruntime float16": {"format": "onnx", "precision": "float16"},
    "onnxruntime int8": {"format": "onnx", "precision": "int8"},
    "OpenVINO float32": {"format": "openvino"},
    "OpenVINO bfloat16": {"format": "openvino", "precision": "bfloat16"},
    "OpenVINO int8": {"format": "openvino", "precision": "int8"},
    "AOTInductor float32": {"format": "torch", "compile": True},
    "ExecuTorch float32": {"format": "executorch"},
}
EAGER = "eager"
WARM_UP = 2
CALIBRATION_IMAGES = 2  # enough for weights that are random


def export_graphs(size: str, image_size: int, names: list[str], folder: Path) -> None:
    """Saves a random model and its exports, each in a folder of its name."""
    model = models_of(size, image_size, torch.float32, torch.device("cpu"))["ours"]
    model.save_pretrained(folder / "model")
    image_processor = EomtImageProcessor(task="panoptic", size=image_size)
    image_processor.save_pretrained(folder / "model")
    for name in names:
        start = time.perf_counter()
        settings = {"dynamic": (), "report_images": 0, **GRAPHS[name]}
        if settings.get("precision") == "int8" and settings["format"] == "openvino":
            settings["calibration_data"] = folder / "images"
            settings["calibration_data"].mkdir()
            for index, scene in enumerate(draw_scenes(CALIBRATION_IMAGES, image_processor)):
                scene.save(settings["calibration_data"] / f"{index}.png")
        try:
            export_model(folder / "model", folder / name, **settings)
        except (ImportError, ValueError) as error:
            print(f"{name}: {error}", flush=True)
            continue
        print(f"{name}: exported in {time.perf_counter() - start:.0f} s", flush=True)


def measure(size: str, image_size: int, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Returns a row for each contestant, run with a number of threads, in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    pixels = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], Any]] = {}
    rows: dict[str, Any] = {}
    models = models_of(size, image_size, torch.float32, torch.device("cpu"))
    models[f"{EAGER}, bfloat16"] = models_of(size, image_size, torch.bfloat16, torch.device("cpu"))["ours"]
    models[EAGER], models["Transformers' own"] = models.pop("ours"), models.pop("transformers")
    for name, model in models.items():
        inputs = pixels.to(model.dtype)
        calls[name] = torch.inference_mode()(lambda model=model, inputs=inputs: model(pixel_values=inputs))
        rows[name] = {}
    process = psutil.Process()
    for name in [name for name in GRAPHS if (folder / name / "export.json").is_file()]:
        before = process.memory_info().rss
        graph = load_graph(folder / name, threads=threads)
        calls[name] = partial(graph, pixel_values=pixels.numpy())
        calls[name]()
        files = (path for path in (folder / name).glob("model*"))
        rows[name] = {
            "file_mib": round(sum(path.stat().st_size for path in files) / MIB, 1),
            "memory_mib": round((process.memory_info().rss - before) / MIB),
        }
    seconds = take_turns(calls, rounds)
    for name, row in rows.items():
        for clock, values in seconds[name].items():
            row[f"{clock}_ms"] = round(1000 * statistics.median(values), 1)
            row[f"{clock}_to_eager"] = round(float(np.median(np.divide(values, seconds[EAGER][clock]))), 3)
    return rows


def take_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns seconds of processor time and of wall time of each call in each round."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in calls}
    for turn in range(-WARM_UP, rounds):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn >= 0:
                seconds[name]["cpu"].append(time.process_time() - cpu)
                seconds[name]["wall"].append(time.perf_counter() - wall)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", help="a name of EOMT_SIZES (default: small)")
    parser.add_argument("--image_size", type=int, default=640)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--graphs", nargs="+", default=list(GRAPHS), choices=list(GRAPHS), metavar="NAME")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    results: dict[str, Any] = {**surroundings(torch.device("cpu")), "size": options.size}
    results |= {"image_size": options.image_size, "rounds": options.rounds}
    del results["threads"]
    with tempfile.TemporaryDirectory() as name:
        export_graphs(options.size, options.image_size, options.graphs, Path(name))
        for threads in options.threads:
            rows = in_own_process(measure, options.size, options.image_size, Path(name), threads, options.rounds)
            results[f"{threads} threads"] = rows
            print(f"\n{threads} threads{'':<24}{'CPU ms':>8}{'to eager':>10}{'wall ms':>9}{'to eager':>10}")
            for label, row in rows.items():
                print(f"{label:<33}{row['cpu_ms']:>8}{row['cpu_to_eager']:>10}", end="")
                print(f"{row['wall_ms']:>9}{row['wall_to_eager']:>10}", flush=True)
            if options.output:
                options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

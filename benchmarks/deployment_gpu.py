"""Exported graphs on an NVIDIA GPU, beside eager and compiled: milliseconds of an image, and how far logits differ.

    python -m benchmarks.deployment_gpu --sizes small large --output benchmarks/results/gpu/deployment.json

All take turns on inputs that are on the GPU already, from a synchronised device to a synchronised device; the figures
are medians over rounds. Weights are random, attention is not masked, the graphs have fixed sizes. `logits` is the
largest difference from eager in float32, as a share of the largest logit. All take float32 and convert it themselves.
onnxruntime needs its build for CUDA, `onnxruntime-gpu`.
"""

import argparse
import copy
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.inference import models_of, summary
from benchmarks.measuring import SIZES, surroundings, taking_turns, times_faster, write_json
from deployment_eomt import export_model
from deployment_eomt.predict import exact_convolutions
from image_processing_eomt import EomtImageProcessor


GPU = torch.device("cuda")
EXACT, COMPILED = "eager, float32", "compiled, float16"  # what logits are compared with, and times
# What is exported, by the name in the table: the arguments of `export_model`.
GRAPHS: dict[str, dict[str, Any]] = {
    "AOTInductor, float16": {"format": "torch", "compile": True, "device": "cuda", "precision": "float16"},
    "onnxruntime, float16": {"format": "onnx", "precision": "float16"},
    "onnxruntime, float32": {"format": "onnx"},
}
WARM_UP = 5
MASKS = "masks_queries_logits"

Call = Callable[[torch.Tensor], torch.Tensor]  # pixel values to logits of masks


def as_call(model: Any) -> Call:
    """A model as it is, or compiled."""
    return lambda pixels: model(pixel_values=pixels.to(model.dtype))[MASKS]


def load_compiled(file: Path) -> Call:
    """What AOTInductor has compiled."""
    graph = torch._inductor.aoti_load_package(str(file))
    return lambda pixels: graph(pixel_values=pixels)[MASKS]


def load_onnx(file: Path) -> Call:
    """
    An ONNX graph that reads its input from the GPU and leaves its outputs there.

    Raises:
        ImportError: onnxruntime's build for CUDA is not installed.
    """
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ImportError("onnxruntime is installed without CUDA: pip install onnxruntime-gpu")
    onnxruntime.preload_dlls()  # PyTorch's
    session = onnxruntime.InferenceSession(str(file), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise ImportError("onnxruntime cannot load its part for CUDA, and would compute on the CPU.")
    binding = session.io_binding()
    outputs = {output.name: torch.empty(output.shape, device=GPU) for output in session.get_outputs()}
    for name, output in outputs.items():
        binding.bind_output(name, "cuda", 0, "float32", list(output.shape), output.data_ptr())

    def run(pixels: torch.Tensor) -> torch.Tensor:
        binding.bind_input("pixel_values", "cuda", 0, "float32", list(pixels.shape), pixels.data_ptr())
        session.run_with_iobinding(binding)
        return outputs[MASKS]

    return run


def build_calls(size: str, image_size: int, names: list[str], folder: Path) -> tuple[dict[str, Call], dict[str, str]]:
    """Returns what is compared, by name, and the errors of what is not."""
    model = models_of(size, image_size, torch.float32, GPU)["ours"]
    compiled = copy.deepcopy(model).to(torch.float16)
    compiled.compile(mode="reduce-overhead")  # with CUDA graphs
    calls = {
        EXACT: as_call(model),
        "eager, bfloat16": as_call(copy.deepcopy(model).to(torch.bfloat16)),
        "eager, float16": as_call(copy.deepcopy(model).to(torch.float16)),
        COMPILED: as_call(compiled),
    }
    model.save_pretrained(folder / "model")
    EomtImageProcessor(task="panoptic", size=image_size).save_pretrained(folder / "model")
    errors: dict[str, str] = {}
    for name in names:
        start = time.perf_counter()
        try:
            target = export_model(folder / "model", folder / name, dynamic=(), report_images=0, **GRAPHS[name])
            is_onnx = GRAPHS[name]["format"] == "onnx"
            calls[name] = load_onnx(target / "model.onnx") if is_onnx else load_compiled(target / "model.pt2")
        except Exception as error:  # the others are measured nevertheless
            traceback.print_exc()
            errors[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {errors.get(name, 'exported')}, {time.perf_counter() - start:.0f} s", flush=True)
    return calls, errors


def measure(size: str, image_size: int, rounds: int, names: list[str]) -> dict[str, Any]:
    """A row of the results."""
    with tempfile.TemporaryDirectory() as folder:
        calls, errors = build_calls(size, image_size, names, Path(folder))
    with torch.inference_mode():
        pixels = torch.randn(1, 3, image_size, image_size, device=GPU)
        with exact_convolutions(torch, "cuda"):
            expected = calls[EXACT](pixels).clone()
        differences = {
            name: float((call(pixels).float() - expected).abs().max() / expected.abs().max())
            for name, call in calls.items()
        }
        turns: dict[str, Callable[[], Any]] = {name: partial(call, pixels) for name, call in calls.items()}
        seconds = taking_turns(turns, rounds, GPU, WARM_UP)
    figures = {
        name: {
            **summary(values),
            "logits": float(f"{differences[name]:.1e}"),
            "times_faster_than_compiled": times_faster(seconds[COMPILED], values),
        }
        for name, values in seconds.items()
    }
    return {"size": size, "image_size": image_size, "calls": figures, "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "large"])
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--graphs", nargs="+", default=list(GRAPHS), choices=list(GRAPHS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    results: dict[str, Any] = {**surroundings(GPU), "rows": []}
    for size in arguments.sizes:
        row = measure(size, arguments.image_size, arguments.rounds, arguments.graphs)
        results["rows"].append(row)
        write_json(results, arguments.output)
        for name, figures in row["calls"].items():
            print(f"{size:<8}{name:<24}{figures['ms']:>9} ms  {figures['times_faster_than_compiled']:>5}", flush=True)
        torch.compiler.reset()
    sys.exit(any(row["errors"] for row in results["rows"]))


if __name__ == "__main__":
    main()

"""The paper's comparison: from ViT-Adapter + Mask2Former to EoMT, step by step, beside the paper's figures.

    python -m benchmarks.stepwise --quick  # ViT-S, 320x320: two minutes on two CPU cores
    python -m benchmarks.stepwise --sizes small --output benchmarks/results/stepwise.json
    python -m benchmarks.stepwise --sizes small --dtypes float32 bfloat16 --steps 0 5  # stepwise_ends.json has
    python -m benchmarks.stepwise --sizes large --dtypes float32 bfloat16 --steps 0 5 --rounds 3 --warm-up 0  # both
    python -m benchmarks.stepwise --device cuda --sizes large small base giant --dtypes bfloat16 \\
        --output benchmarks/results/gpu/steps.json
    python -m benchmarks.stepwise --device cuda --sizes large --steps 5 0 --dtypes float16 \\
        --compile-modes reduce-overhead --output benchmarks/results/gpu/steps_compiled.json

The steps of a row take turns, so that all of them see the same clocks and the same temperature; figures are those of
single forward passes without gradients, of noise. All have the same ViT with the same weights, and weights and inputs
have the dtype that is named: there is no autocast (the paper's AMP computes more of the baseline in float32).

- Parameters, in millions, and multiply-adds, in billions: of matrix products and convolutions, attention included,
  counted by `torch.utils.flop_counter` on the meta device. Sampling of deformable attention, norms and activations are
  not counted.
- Latency in milliseconds: median, 10th, 90th and 99th percentile over the rounds, from a synchronised device to a
  synchronised device by the host's clock, hence the time to start the kernels is in it. Images per second are those of
  the median.
- Memory in MiB: what PyTorch's allocator hands out at once during a pass, weights left out, without compilation: what
  CUDA graphs need lies in a pool of their own.
- Before the rounds that count, each step runs once (`first_s`, compilation included), then `--warm-up` rounds. On a
  GPU the clock of its multiprocessors, its temperature and power are read right after the rounds; settings are left
  as they are. Attention is FlashAttention's wherever nothing is masked.
- Compile modes are those of `torch.compile`; "reduce-overhead" and "max-autotune" record CUDA graphs, unless PyTorch
  says that it cannot (`cudagraph_skips`, of whole graphs).

The file is written anew after every row; a row that failed has its error in it, and makes the exit status 1.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.baselines import STEPS, stepwise_model
from benchmarks.baselines.paper import PAPER
from benchmarks.measuring import (
    MIB,
    SIZES,
    flash_attention,
    multiply_adds,
    peak_memory,
    surroundings,
    synchronise,
    taking_turns,
    times_faster,
    write_json,
)


ROUNDS = {"cpu": 5, "cuda": 50}
WARM_UP = {"cpu": 1, "cuda": 10}  # rounds
QUICK = {"sizes": ["small"], "image_sizes": [320], "dtypes": ["float32"], "rounds": 3, "warm_up": 0}
CLOCKS = ("clocks.sm", "clocks.max.sm", "temperature.gpu", "power.draw")  # of nvidia-smi
COLUMNS = ("parameters", "multiply_adds", "ms", "p90_ms", "images_per_second", "peak_mib")


def count(step: int, size: str, image_size: int) -> dict[str, float]:
    """Parameters and multiply-adds of a step, without computing anything."""
    with torch.device("meta"):
        model = stepwise_model(step, size, image_size).to("meta")  # type: ignore[arg-type]
        work = multiply_adds(model, torch.empty(1, 3, image_size, image_size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": round(parameters / 1e6, 1), "multiply_adds": round(work / 1e9, 1)}


def build_steps(
    steps: Sequence[int], size: str, image_size: int, dtype: torch.dtype, device: torch.device
) -> dict[int, Any]:
    """The models of the steps, which share their ViT."""
    models: dict[int, Any] = {}
    for step in steps:
        torch.manual_seed(0)
        with device:
            model: Any = stepwise_model(step, size, image_size)
        for vit in list(models.values())[:1]:
            model.embeddings, model.layers, model.layernorm = vit.embeddings, vit.layers, vit.layernorm
        models[step] = model.to(device, dtype).requires_grad_(False)
    return models


def read_clocks(device: torch.device) -> dict[str, str]:
    """What nvidia-smi says of a GPU; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    query = [f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader", f"--id={torch.cuda.current_device()}"]
    try:
        output = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}  # without the tool
    return dict(zip(CLOCKS, output.strip().split(", "), strict=True))


def latency(seconds: Sequence[float], batch_size: int) -> dict[str, float]:
    """Percentiles in milliseconds, and images per second."""
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
    named = {"ms": 50, "p10_ms": 10, "p90_ms": 90, "p99_ms": 99}
    row = {name: round(1000 * percentiles[percent - 1], 2) for name, percent in named.items()}
    return {**row, "images_per_second": round(batch_size / statistics.median(seconds), 2)}


def first_pass(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the first pass, which compiles."""
    start = time.perf_counter()
    call()
    synchronise(device)
    return round(time.perf_counter() - start, 1)


def measure(
    case: dict[str, Any], counts: dict[int, dict[str, float]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """
    A row of the results: the steps side by side.

    Args:
        case: `size`, `image_size`, `batch_size`, `dtype` and `compile_mode`.
        counts: what [`count`] says of each step.
        arguments: of the command line.
    """
    device, dtype = arguments.device, getattr(torch, case["dtype"])
    size, image_size, batch_size = case["size"], case["image_size"], case["batch_size"]
    models = build_steps(arguments.steps, size, image_size, dtype, device)
    pixels = torch.randn(batch_size, 3, image_size, image_size, device=device, dtype=dtype)
    calls: dict[str, Callable[[], Any]] = {}
    for step, model in models.items():
        if case["compile_mode"] != "none":
            model.compile(mode=case["compile_mode"])
        calls[str(step)] = torch.no_grad()(lambda model=model: model(pixel_values=pixels))
    first, skips = {}, {}
    for name, call in calls.items():
        before = counters["inductor"]["cudagraph_skips"]
        first[name] = first_pass(call, device)
        skips[name] = counters["inductor"]["cudagraph_skips"] - before
    seconds = taking_turns(calls, arguments.rounds, device, arguments.warm_up)
    row: dict[str, Any] = {**case, "clocks": read_clocks(device), "steps": {}}
    for step in models:
        name = str(step)
        paper = PAPER.get((size, image_size), {}).get(step)
        row["steps"][name] = {
            **counts[step],
            **latency(seconds[name], batch_size),
            "first_s": first[name],
            "cudagraph_skips": skips[name],
            "peak_mib": (round(peak_memory(calls[name], device) / MIB, 1) if case["compile_mode"] == "none" else None),
            "paper": None if paper is None else paper._asdict(),
        }
    slowest = str(min(models))
    row["times_faster_than"] = int(slowest)
    row["times_faster"] = {name: times_faster(seconds[slowest], seconds[name]) for name in calls}
    return row


def in_words(row: dict[str, Any]) -> str:
    """A row as a table, each figure with the paper's behind it where there is one."""
    title = (
        f"{row['size']}, {row['image_size']} x {row['batch_size']}, {row['dtype']}, compiled: {row['compile_mode']}"
    )
    lines = [title, f"{'':<44}" + "".join(f"{column:>22}" for column in COLUMNS) + f"{'times faster':>15}"]
    for name, figures in row["steps"].items():
        line = f"{name} {STEPS[int(name)]:<42}"
        for column in COLUMNS:
            known = (figures["paper"] or {}).get(column)
            line += f"{figures[column]!s:>14}" + (f" ({known})" if known is not None else "").ljust(8)
        lines.append(line + f"{row['times_faster'][name]:>15}")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--steps", nargs="+", type=int, choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["large"])
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[640], help="pixels")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32"])
    parser.add_argument("--compile-modes", nargs="+", default=["none"], help="of torch.compile, none for none")
    parser.add_argument("--rounds", type=int, help=f"passes of each step, at least 2; by default {ROUNDS}")
    parser.add_argument("--warm-up", type=int, help=f"rounds before them; by default {WARM_UP}")
    parser.add_argument("--quick", action="store_true", help="ViT-S, 320x320, float32, three rounds")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    kind = arguments.device.type
    arguments.rounds = ROUNDS[kind] if arguments.rounds is None else arguments.rounds
    arguments.warm_up = WARM_UP[kind] if arguments.warm_up is None else arguments.warm_up
    arguments.steps = sorted(set(arguments.steps))
    return arguments


def main() -> None:
    arguments = parse_arguments()
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say when it starts
    results: dict[str, Any] = {
        **surroundings(arguments.device),
        "counted_by": "torch.utils.flop_counter",
        "rounds": arguments.rounds,
        "warm_up": arguments.warm_up,
        "rows": [],
    }
    cases = [
        {"size": size, "image_size": image_size, "batch_size": batch_size, "dtype": dtype, "compile_mode": mode}
        for mode in arguments.compile_modes
        for dtype in arguments.dtypes
        for size in arguments.sizes
        for image_size in arguments.image_sizes
        for batch_size in arguments.batch_sizes
    ]
    counts: dict[tuple[str, int], dict[int, dict[str, float]]] = {}
    for case in cases:
        known = case["size"], case["image_size"]
        try:
            if known not in counts:
                counts[known] = {step: count(step, *known) for step in arguments.steps}
            with flash_attention(arguments.device):
                row = measure(case, counts[known], arguments)
            print(in_words(row), flush=True)
        except Exception as error:
            traceback.print_exc()
            row = {**case, "error": f"{type(error).__name__}: {error}"}
        results["rows"].append(row)
        write_json(results, arguments.output)
        torch.compiler.reset()
    sys.exit(any("error" in row for row in results["rows"]))


if __name__ == "__main__":
    main()

"""What the benchmarks share: turns, peak memory, processes of their own, where something was measured."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from configuration_eomt import EOMT_SIZES


MIB = 2**20
PAPER_SIZES = ("small", "base", "large", "giant")
# Those, and one that is good for nothing but to see whether a benchmark runs to its end.
SIZES: dict[str, dict[str, Any]] = {
    **{name: EOMT_SIZES[name] for name in PAPER_SIZES},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_blocks": 1},
}


def surroundings(device: torch.device) -> dict[str, Any]:
    """What figures depend on besides the code, for the results' file."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """Name, generation and instructions of the CPU. Its name alone often says no more than the vendor's line."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
    instructions = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_tile") if capabilities.get(name)]
    info = Path("/proc/cpuinfo")
    lines = (line.partition(":") for line in (info.read_text().splitlines() if info.is_file() else ()))
    values = {name.strip(): value.strip() for name, _, value in lines}
    generation = [f"{name} {values[name]}" for name in ("cpu family", "model") if name in values]
    name = capabilities.get("cpu_name", platform.machine())
    return f"{' '.join([name, *generation])} ({', '.join(instructions)})"


def set_masking(model: Any, probability: float) -> None:
    """Sets how often the queries are masked, in all blocks, of this project's class or Transformers' own."""
    if hasattr(model, "set_mask_probabilities"):
        model.set_mask_probabilities([probability] * model.config.num_blocks)
    else:
        model.attn_mask_probs.fill_(probability)


def flash_attention(device: torch.device) -> AbstractContextManager:
    """Takes FlashAttention on a GPU wherever nothing is masked; by itself PyTorch may take cuDNN's attention."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def synchronise(device: torch.device) -> None:
    """Waits for the device, so that a clock shows what it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def taking_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, device: torch.device, warm_up: int = 0
) -> dict[str, list[float]]:
    """Seconds of each call in each round; `warm_up` rounds before them do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm_up, rounds):
        for name, call in calls.items():
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def timed(
    function: Callable[..., Any], seconds: dict[str, float], part: str, device: torch.device
) -> Callable[..., Any]:
    """The function, adding the time of every call to a part of `seconds`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        synchronise(device)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        synchronise(device)
        seconds[part] += time.perf_counter() - start
        return result

    return call


def times_faster(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How often ours fits into theirs, the median over the rounds."""
    ratios = [their_time / our_time for their_time, our_time in zip(theirs, ours, strict=True)]
    return round(statistics.median(ratios), 2)


def multiply_adds(model: Any, pixels: torch.Tensor) -> int:
    """Those of the matrix products and convolutions of a forward pass, compiled or not, by PyTorch's counter."""
    # With gradients: without, the model may take operations that are not counted.
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        model.forward(pixel_values=pixels)
    return counter.get_total_flops() // 2


def peak_memory(step: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that `step` holds at once, not counting what was allocated before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events), default=0)


def write_json(results: dict[str, Any], path: Path | None) -> None:
    """Writes what is known so far, whole or not at all: a run that is stopped leaves what it has measured."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(results, indent=2) + "\n")
        part.replace(path)


def check_measurement(device: torch.device) -> None:
    """
    Compares the measurement with a step whose peak is known.

    Raises:
        RuntimeError: the peak is not what it must be.
    """
    values = torch.zeros(MIB, device=device)
    # exp and sin of it live at once, then sin and its absolute value: twice its size.
    peak = peak_memory(lambda: values.exp().sin().abs(), device)
    if peak != 2 * values.nbytes:
        raise RuntimeError(f"Measured {peak} bytes where {2 * values.nbytes} are allocated.")


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """Result of a function that runs in a new process."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()

"""What the benchmarks share: peak memory, processes of their own, where something was measured."""

import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from multiprocessing import get_context
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile


MIB = 2**20


def surroundings(device: torch.device) -> dict[str, Any]:
    """What figures depend on besides the code, for the results' file."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


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

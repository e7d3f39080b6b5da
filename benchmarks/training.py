"""Time of a training step, and where it goes: this project's class against Transformers' own.

    python benchmarks/training.py --output benchmarks/results/training.json  # ViT-S, 320x320, batch 2
    python benchmarks/training.py --device cuda --size large --image-size 640 --batch-size 4 --dtype bfloat16

A step is forward with labels, backward, clipping and AdamW, as the Trainer does it. Both classes have the same weights
and get the same batch of rectangles; they take turns, and figures are medians. Memory is measured in a process of its
own per case, as in `training_memory.py`. On CUDA, host synchronisations of a step are counted too.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import (
    MIB,
    SIZES,
    in_own_process,
    peak_memory,
    set_masking,
    surroundings,
    synchronise,
    timed,
    times_faster,
    write_json,
)
from benchmarks.training_memory import NUM_QUERIES, NUM_TARGETS, model_and_batch


PARTS = ("forward", "matching", "loss", "backward", "optimizer")
MODELS = ("transformers", "ours")


class TrainingStep:
    """A model in training and its batch; `seconds` is where the time of the last step went.

    Args:
        name: one of `MODELS`.
        case: `size`, `dtype` and `device` in words, `image_size`, `batch_size`, `num_targets` and `num_queries`.
    """

    def __init__(self, name: str, case: dict[str, Any]) -> None:
        self.device, self.dtype = torch.device(case["device"]), getattr(torch, case["dtype"])
        self.is_ours = name == "ours"
        self.model, self.batch = model_and_batch(
            not self.is_ours,
            SIZES[case["size"]],
            case["image_size"],
            case["batch_size"],
            self.device,
            case["num_targets"],
            case["num_queries"],
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        criterion: Any = self.model.criterion
        if self.is_ours:
            criterion.match = timed(criterion.match, self.seconds, "matching", self.device)
            criterion.for_predictions = timed(criterion.for_predictions, self.seconds, "loss", self.device)
        else:
            criterion.matcher.forward = timed(criterion.matcher.forward, self.seconds, "matching", self.device)
            criterion.forward = timed(criterion.forward, self.seconds, "loss", self.device)

    def __call__(self) -> None:
        self.seconds.update(dict.fromkeys(PARTS, 0.0))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            start = self._now()
            loss = self.model(**self.batch).loss
        forward = self._now()
        loss.backward()
        backward = self._now()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds["forward"] = forward - start - self.seconds["loss"]
        self.seconds["loss"] -= self.seconds["matching"]  # which is a part of it
        self.seconds["backward"] = backward - forward
        self.seconds["optimizer"] = self._now() - backward

    def _now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()


def measure_memory(name: str, case: dict[str, Any], probability: float) -> int:
    """Bytes of a step beyond weights and AdamW's moments."""
    step = TrainingStep(name, case)
    set_masking(step.model, probability)
    step()
    return peak_memory(step, step.device)


def count_synchronisations(step: TrainingStep) -> int | None:
    """How often the host waits for the device in a forward and backward pass; None on a CPU."""
    if step.device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        with torch.autocast(step.device.type, step.dtype, enabled=step.dtype != torch.float32):
            step.model(**step.batch).loss.backward()
        torch.cuda.set_sync_debug_mode("default")
    step.optimizer.zero_grad()
    return sum("synchroniz" in str(warning.message) for warning in caught)


def steps_of(case: dict[str, Any], probability: float) -> dict[str, TrainingStep]:
    """The step of both classes, from the same weights, with that probability of masking."""
    steps = {name: TrainingStep(name, case) for name in MODELS}
    steps["ours"].model.load_state_dict(steps["transformers"].model.state_dict())
    for step in steps.values():
        set_masking(step.model, probability)
    return steps


def measure(case: dict[str, Any], probability: float, rounds: int) -> dict[str, Any]:
    """Median milliseconds of a step and its parts, the two taking turns, and how often ours fits into theirs."""
    steps = steps_of(case, probability)
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in MODELS}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            step()
            if turn > 0:  # the first one warms up
                parts[name].append(dict(step.seconds))
    totals = {name: [sum(seconds.values()) for seconds in parts[name]] for name in MODELS}
    result: dict[str, Any] = {"probability": probability}
    for name in MODELS:
        result[name] = {
            "step_ms": round(1000 * statistics.median(totals[name]), 1),
            **{f"{part}_ms": round(1000 * statistics.median(s[part] for s in parts[name]), 1) for part in PARTS},
            "synchronisations": count_synchronisations(steps[name]),
        }
    result["times_faster"] = times_faster(totals["transformers"], totals["ours"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--image-size", type=int, default=320, help="pixels")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--probabilities", type=float, nargs="+", default=[1.0, 0.5, 0.0], help="of masking")
    parser.add_argument("--rounds", type=int, default=9, help="steps of each; the median counts")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say when it starts

    case = {name: getattr(arguments, name) for name in ("size", "image_size", "batch_size", "dtype", "device")}
    case |= {"num_targets": NUM_TARGETS, "num_queries": NUM_QUERIES}
    results: dict[str, Any] = {**case, **surroundings(torch.device(arguments.device)), "steps": []}
    for probability in arguments.probabilities:
        row = measure(case, probability, arguments.rounds)
        for name in MODELS:
            row[name]["peak_mib"] = round(in_own_process(measure_memory, name, case, probability) / MIB, 1)
        row["memory_share"] = round(row["ours"]["peak_mib"] / row["transformers"]["peak_mib"], 3)
        results["steps"].append(row)
        print(f"masks at {probability}: {row['times_faster']}x as fast, {row['memory_share']:.0%} of the memory")
        for name in MODELS:
            print(f"  {name:<14}" + "  ".join(f"{part} {value}" for part, value in row[name].items()), flush=True)
        write_json(results, arguments.output)


if __name__ == "__main__":
    main()

"""Whether anything got slower: a few ratios to Transformers' own class, beside those of the committed results.

    python benchmarks/quick.py        # or: make bench-quick

On a CPU, under two minutes. Ratios, because machines differ and are noisy; three rounds of each, so that a few percent
mean nothing. What is below four fifths of the committed ratio is marked, and makes the exit status 1.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from inference import measure_forward, measure_pipeline, models_of
from training import measure as measure_training


RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 3
SLOWER = 0.8
PIPELINES = ("panoptic", "instance")
INFERENCE = {"size": "small", "dtype": "float32"}


def committed(file_name: str, part: str, **values: Any) -> float:
    """Ratio of the row with these values in a committed result."""
    rows = json.loads((RESULTS / file_name).read_text())[part]
    (row,) = [row for row in rows if all(row[name] == value for name, value in values.items())]
    return row["times_faster"]


def measure_inference() -> dict[str, tuple[float, float]]:
    """Ratios now and as committed, of forward passes and pipelines."""
    device = torch.device("cpu")
    arguments = argparse.Namespace(device=device, rounds=ROUNDS)
    models = models_of(INFERENCE["size"], 640, torch.float32, device)
    ratios = {}
    for masks in (0.0, 1.0):
        row = measure_forward(models, 1, 640, masks, arguments)
        known = committed("inference.json", "forward", batch_size=1, image_size=640, masks=masks, **INFERENCE)
        ratios[f"forward, masks at {masks:.0f}"] = row["times_faster"], known
    for task in PIPELINES:
        row = measure_pipeline(models, task, arguments)
        known = committed("inference.json", "pipeline", task=task, **INFERENCE)
        ratios[f"{task} pipeline"] = row["times_faster"], known
    return ratios


def measure_steps() -> dict[str, tuple[float, float]]:
    """Ratios now and as committed, of training steps."""
    results = json.loads((RESULTS / "training.json").read_text())
    ratios = {}
    for probability in (0.0, 1.0):
        row = measure_training(results, probability, ROUNDS)
        known = committed("training.json", "steps", probability=probability)
        ratios[f"training step, masks at {probability:.0f}"] = row["times_faster"], known
    return ratios


def main() -> None:
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say when it starts
    ratios = {**measure_inference(), **measure_steps()}
    heading = "times faster than Transformers' own"
    print(f"{heading:<36}{'now':>8}{'committed':>11}")
    for name, (now, known) in ratios.items():
        print(f"{name:<36}{now:>8.2f}{known:>11.2f}{'   slower!' if now < SLOWER * known else ''}")
    sys.exit(any(now < SLOWER * known for now, known in ratios.values()))


if __name__ == "__main__":
    main()

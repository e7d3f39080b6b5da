"""Whether anything got slower: a few ratios to Transformers' own class, beside the committed ones of this processor.

    python benchmarks/quick.py            # or: make bench-quick
    python benchmarks/quick.py --save     # commits to results/quick.json what was measured

On a CPU, a few minutes. Ratios, because machines differ and are noisy; three rounds of each, so that a few percent
mean nothing. What is below four fifths of the committed ratio is marked, and makes the exit status 1. How much faster
this project is depends on the processor: without committed ratios of the same one, all that are there are shown.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.inference import measure_forward, measure_pipeline, models_of
from benchmarks.measuring import processor
from benchmarks.training import measure as measure_training


RESULTS = Path(__file__).resolve().parent / "results"
QUICK = RESULTS / "quick.json"  # processor -> name of a ratio -> ratio
ROUNDS = 3
SLOWER = 0.8
PIPELINES = ("panoptic", "instance")


def measure_ratios() -> dict[str, float]:
    """Times that this project is faster than Transformers' own: forward passes, pipelines and training steps."""
    device = torch.device("cpu")
    arguments = argparse.Namespace(device=device, rounds=ROUNDS)
    models = models_of("small", 640, torch.float32, device)
    settings = json.loads((RESULTS / "training.json").read_text())
    ratios = {}
    for masks in (0.0, 1.0):
        row = measure_forward(models, 1, 640, masks, arguments)
        ratios[f"forward, masks at {masks:.0f}"] = row["times_faster"]
    for task in PIPELINES:
        ratios[f"{task} pipeline"] = measure_pipeline(models, task, arguments)["times_faster"]
    for masks in (0.0, 1.0):
        ratios[f"training step, masks at {masks:.0f}"] = measure_training(settings, masks, ROUNDS)["times_faster"]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write the ratios to results/quick.json")
    options = parser.parse_args()
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say when it starts
    here, ratios, committed = processor(), measure_ratios(), json.loads(QUICK.read_text())
    columns = [here] if here in committed else list(committed)
    print(f"Times faster than Transformers' own, on {here}")
    print(f"{'':<28}{'now':>8}" + "".join(f"  {name}" for name in columns))
    for name, ratio in ratios.items():
        known = "".join(f"  {committed[column][name]:>{len(column)}.2f}" for column in columns)
        is_slower = here in committed and ratio < SLOWER * committed[here][name]
        print(f"{name:<28}{ratio:>8.2f}{known}{'   slower!' if is_slower else ''}")
    if options.save:
        QUICK.write_text(json.dumps(committed | {here: ratios}, indent=2) + "\n")
    sys.exit(here in committed and any(ratio < SLOWER * committed[here][name] for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()

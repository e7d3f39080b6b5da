"""Memory of training as the recipes do it, and with recipes/low_memory.yaml on top.

    python benchmarks/recipe_memory.py --output benchmarks/results/recipe_memory.json

ViT-S, -B and -L of DINOv2 at 640x640 pixels: float32 weights, forward with labels under bf16 autocast, all mask
probabilities at 1, backward into gradients that are there already (as when batches are accumulated), AdamW. Every case
runs in a process of its own; bytes are counted as in `training_memory.py`. A batch that does not fit is extrapolated
from those of one and two images, which is checked where it does fit.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import check_measurement, in_own_process, peak_memory, surroundings
from benchmarks.training_memory import (
    NUM_LABELS,
    NUM_PREFIX_TOKENS,
    NUM_QUERIES,
    NUM_TARGETS,
    PATCH_SIZE,
    SEED,
    rectangles,
)
from configuration_eomt import EOMT_SIZES, EomtConfig
from modeling_eomt import EomtForUniversalSegmentation


IMAGE_SIZE = 640
RECIPE_BATCH = 4  # per_device_train_batch_size of the published recipes
PARTS = ("weights", "gradients", "optimizer_states", "activations")
GB = 10**9


@dataclass(frozen=True)
class Case:
    """A training step: a named size, its images, and whether blocks are computed again in the backward pass."""

    size: str
    batch_size: int
    gradient_checkpointing: bool


SIZES = ("small", "base", "large")


def measure(case: Case, device: torch.device) -> dict[str, int]:
    """Bytes of one step: `PARTS`, of which activations are the peak above everything else, and their `total`."""
    torch.manual_seed(SEED)
    config = EomtConfig(
        **EOMT_SIZES[case.size],
        num_queries=NUM_QUERIES,
        num_register_tokens=NUM_PREFIX_TOKENS - 1,
        id2label={index: str(index) for index in range(NUM_LABELS)},
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    model = EomtForUniversalSegmentation(config).to(device).train()  # type: ignore[arg-type]
    if case.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    pixel_values = torch.randn(case.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    masks = [image_masks.to(device) for image_masks in rectangles(case.batch_size, IMAGE_SIZE)]
    labels = list(torch.randint(NUM_LABELS, (case.batch_size, NUM_TARGETS), device=device))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(pixel_values=pixel_values, mask_labels=masks, class_labels=labels).loss
        loss.backward()

    activations = peak_memory(step, device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    optimizer.step()
    states = (value for state in optimizer.state.values() for value in state.values())
    figures = {
        "weights": sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
        "gradients": sum(parameter.grad.nbytes for parameter in model.parameters()),
        "optimizer_states": sum(tensor.nbytes for tensor in states),
        "activations": activations,
    }
    return {**figures, "total": sum(figures[name] for name in PARTS)}


def extrapolated(one: dict[str, int], two: dict[str, int], batch_size: int) -> dict[str, int]:
    """The figures of a batch, from those of one and of two images."""
    figures = {name: one[name] + (two[name] - one[name]) * (batch_size - 1) for name in PARTS}
    return {**figures, "total": sum(figures.values())}


def print_row(case: Case, how: str, figures: dict[str, int]) -> None:
    values = "".join(f"{figures[name] / GB:>{len(name) + 2}.2f}" for name in (*PARTS, "total"))
    print(f"{case.size:<7}{case.batch_size:<7}{how:<14}{values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--extrapolate", nargs="*", default=["large"], choices=SIZES, help="sizes too large for a batch"
    )
    arguments = parser.parse_args()
    device = arguments.device
    os.environ["KINETO_LOG_LEVEL"] = "99"

    in_own_process(check_measurement, device)
    rows: list[dict[str, Any]] = []
    print(f"GB (10^9 bytes) of a training step at {IMAGE_SIZE}x{IMAGE_SIZE} pixels")
    print(f"{'size':<7}{'batch':<7}{'':<14}" + "".join(f"  {name}" for name in (*PARTS, "total")))
    for size in SIZES:
        measured: dict[int, dict[str, int]] = {}
        for case in (Case(size, 1, True), *(Case(size, batch_size, False) for batch_size in (1, 2, RECIPE_BATCH))):
            how = "checkpointed" if case.gradient_checkpointing else ""
            if case.batch_size == RECIPE_BATCH:
                figures = extrapolated(measured[1], measured[2], RECIPE_BATCH)
                rows.append({**asdict(case), "extrapolated": True, **figures})
                print_row(case, "extrapolated", figures)
                if size in arguments.extrapolate:
                    continue
            figures = in_own_process(measure, case, device)
            if not case.gradient_checkpointing:
                measured[case.batch_size] = figures
            rows.append({**asdict(case), "extrapolated": False, **figures})
            print_row(case, how, figures)
    if arguments.output is not None:
        settings = {"image_size": IMAGE_SIZE, "autocast": "bfloat16", "optimizer": "AdamW, fused"}
        arguments.output.write_text(json.dumps({**surroundings(device), **settings, "steps": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

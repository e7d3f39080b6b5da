"""Memory of one training step: Transformers' own EoMT, ours, and ours with gradient checkpointing.

    python benchmarks/training_memory.py --output benchmarks/results/training_memory.json

A step is forward with labels and backward, in float32, all mask probabilities at 1, without an optimizer. Every case
runs in a process of its own. Bytes are those that PyTorch's allocator hands out, temporary ones inside of an operation
included: on a CPU from the profiler's record of allocations, on CUDA from the allocator's statistics. They depend on
shapes, not on timing. Peak RSS is the whole process's, libraries included.
"""

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import MIB, check_measurement, in_own_process, peak_memory, surroundings


SEED = 0
NUM_LABELS, NUM_QUERIES, NUM_TARGETS = 133, 200, 20
PATCH_SIZE, NUM_PREFIX_TOKENS = 16, 5
TRANSFORMERS, OURS, CHECKPOINTED = "Transformers", "ours", "ours, checkpointed"
COLUMNS = ("weights", "gradients", "activations", "total", "step_with_weights", "peak_rss")
RATIOS = ("activations", "total", "step", "step_with_weights", "peak_rss")


@dataclass(frozen=True)
class Case:
    """A model and its batch; `image_size` is the edge of a square in pixels."""

    model: str
    hidden_size: int
    num_attention_heads: int
    image_size: int
    batch_size: int

    @property
    def num_tokens(self) -> int:
        """Tokens of an image in a query block: queries, prefix tokens, patches."""
        return NUM_QUERIES + NUM_PREFIX_TOKENS + (self.image_size // PATCH_SIZE) ** 2


MASK_TENSOR_CASES = [Case(model, 384, 6, 320, 2) for model in (TRANSFORMERS, OURS)]  # ViT-S
PEAK_MEMORY_CASES = [  # ViT-B
    Case(model, 768, 12, image_size, batch_size)
    for image_size, batch_size in ((320, 2), (640, 1))
    for model in (TRANSFORMERS, OURS, CHECKPOINTED)
]


def model_and_batch(
    is_theirs: bool,
    size: Mapping[str, Any],
    image_size: int,
    batch_size: int,
    device: torch.device,
    num_targets: int = NUM_TARGETS,
    num_queries: int = NUM_QUERIES,
) -> tuple[Any, dict[str, Any]]:
    """
    A model in training mode and what it is trained on: noise, with rectangles as targets.

    Args:
        is_theirs: Transformers' own class instead of this project's.
        size: its width, depth, heads and query blocks, fields of the configuration.
        image_size: edge of a square in pixels.
        batch_size: images.
        device: where both are.
        num_targets: rectangles in each image.
        num_queries: of the model.
    """
    package = import_module("transformers" if is_theirs else "modeling_eomt")
    torch.manual_seed(SEED)
    config = package.EomtConfig(
        **size,
        num_queries=num_queries,
        num_register_tokens=NUM_PREFIX_TOKENS - 1,
        num_labels=NUM_LABELS,
        image_size=image_size,
        patch_size=PATCH_SIZE,
    )
    model = package.EomtForUniversalSegmentation(config).to(device).train()
    # What the image processors return: masks are float32 in Transformers, bool here.
    mask_dtype = torch.float32 if is_theirs else torch.bool
    pixel_values = torch.randn(batch_size, 3, image_size, image_size)
    masks = rectangles(batch_size, image_size, num_targets)
    labels = torch.randint(NUM_LABELS, (batch_size, num_targets))
    return model, {
        "pixel_values": pixel_values.to(device),
        "mask_labels": [image_masks.to(device, mask_dtype) for image_masks in masks],
        "class_labels": [image_labels.to(device) for image_labels in labels],
    }


def training_step(case: Case, device: torch.device) -> tuple[Any, Callable[[], None]]:
    """A model in training mode, and a function that runs forward and backward on a fixed batch."""
    size = {
        "hidden_size": case.hidden_size,
        "num_hidden_layers": 12,
        "num_attention_heads": case.num_attention_heads,
        "num_blocks": 3,
    }
    model, batch = model_and_batch(case.model == TRANSFORMERS, size, case.image_size, case.batch_size, device)
    if case.model == CHECKPOINTED:
        model.gradient_checkpointing_enable()

    def step() -> None:
        model(**batch).loss.backward()

    return model, step


def rectangles(batch_size: int, image_size: int, num_targets: int = NUM_TARGETS) -> Tensor:
    """Random rectangles as targets, `(batch, num_targets, image_size, image_size)` bool."""
    corners = torch.randint(1, image_size, (2, 2, batch_size, num_targets, 1, 1))  # (corner, axis, ...)
    (top, left), (bottom, right) = corners.amin(0), corners.amax(0)
    pixel = torch.arange(image_size)
    row, column = pixel[:, None], pixel
    return (top <= row) & (row <= bottom) & (left <= column) & (column <= right)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns with `rows` x `columns` in its last two dimensions.

    Columns may be up to 7 more: attention kernels pad masks to a multiple of 8. Larger matrices do not count, the
    MLP's are `tokens x 4 * hidden_size`.
    """

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.largest: dict[str, Any] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.ndim >= 2 and self._fits(*tensor.shape[-2:]):
                # An expanded tensor holds less than its shape says, a slice less than its storage.
                size = min(tensor.nbytes, tensor.untyped_storage().nbytes())
                if self.largest is None or size > self.largest["bytes"]:
                    dtype = str(tensor.dtype).removeprefix("torch.")
                    self.largest = {"op": str(func), "shape": list(tensor.shape), "dtype": dtype, "bytes": size}
        return output

    def _fits(self, rows: int, columns: int) -> bool:
        return rows == self.rows and self.columns <= columns < self.columns + 8


def measure_mask_tensors(case: Case, device: torch.device) -> dict[str, Any]:
    """The largest `tokens x tokens` and `queries x tokens` tensors of a step, None where there is none."""
    _, step = training_step(case, device)
    with (
        LargestTensor(case.num_tokens, case.num_tokens) as tokens,
        LargestTensor(NUM_QUERIES, case.num_tokens) as queries,
    ):
        step()
    return {"tokens_x_tokens": tokens.largest, "queries_x_tokens": queries.largest}


def measure_peak_memory(case: Case, device: torch.device) -> dict[str, int]:
    """Bytes of a training step.

    Returns:
        `weights` and `gradients`; `activations`, the peak of a step that adds to gradients, above what was there
        before it; `total`, the sum of these three; `step`, the peak above what was there of a step that starts
        without gradients, as after `optimizer.zero_grad()`; `step_with_weights`; `peak_rss` of the process.
    """
    model, step = training_step(case, device)
    step_peak = peak_memory(step, device)
    activations = peak_memory(step, device)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters())
    return {
        "weights": weights,
        "gradients": gradients,
        "activations": activations,
        "total": weights + gradients + activations,
        "step": step_peak,
        "step_with_weights": weights + step_peak,
        # KiB on Linux, bytes on macOS
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def ratios(peak_memory: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures of our cases over those of Transformers' own class at the same size."""
    transformers_figures = {case["image_size"]: case for case in peak_memory if case["model"] == TRANSFORMERS}
    return [
        {name: case[name] for name in ("model", "image_size", "batch_size")}
        | {name: round(case[name] / transformers_figures[case["image_size"]][name], 4) for name in RATIOS}
        for case in peak_memory
        if case["model"] != TRANSFORMERS
    ]


def print_mask_tensors(case: dict[str, Any]) -> None:
    for name in ("tokens_x_tokens", "queries_x_tokens"):
        found = case[name]
        what = "none" if found is None else "{bytes:,} bytes, {dtype} {shape}, {op}".format(**found)
        print(f"{case['model']:<20}{name:<18}{what}")


def print_row(model: str, pixels: str, figures: dict[str, str]) -> None:
    print(f"{model:<20}{pixels:<10}" + "".join(f"{figures.get(name, ''):>{len(name) + 2}}" for name in COLUMNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    device = arguments.device
    os.environ["KINETO_LOG_LEVEL"] = "99"  # in the processes of the cases: the profiler need not say when it starts

    in_own_process(check_measurement, device)
    results: dict[str, Any] = {**surroundings(device), "mask_tensors": [], "peak_memory": []}
    print("Largest tensors with a column per token, ViT-S, 2 x 320 pixels")
    for case in MASK_TENSOR_CASES:
        results["mask_tensors"].append(asdict(case) | in_own_process(measure_mask_tensors, case, device))
        print_mask_tensors(results["mask_tensors"][-1])

    print("\nPeak memory in MiB, ViT-B")
    print_row("model", "pixels", {name: name for name in COLUMNS})
    for case in PEAK_MEMORY_CASES:
        figures = in_own_process(measure_peak_memory, case, device)
        results["peak_memory"].append(asdict(case) | figures)
        mebibytes = {name: f"{size / MIB:.0f}" for name, size in figures.items()}
        print_row(case.model, f"{case.batch_size} x {case.image_size}", mebibytes)

    print("\nOver Transformers' own class")
    results["ratios"] = ratios(results["peak_memory"])
    for row in results["ratios"]:
        percentages = {name: f"{row[name]:.1%}" for name in RATIOS}
        print_row(row["model"], f"{row['batch_size']} x {row['image_size']}", percentages)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

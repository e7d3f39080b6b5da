"""What masks in training are for: the paper's ablation of mask annealing, on the generated shapes.

    python benchmarks/annealing.py --output benchmarks/results/annealing.json

The demo's model is trained with masks in every step, with masks in none, and with masks that fade out; each is
measured with masks (where it was trained with them) and without, on images of another seed than those it was trained
on and those that the demo's settings were chosen on. Panoptic and instance segmentation, the same images in the same
order.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

import run_segmentation
from benchmarks.measuring import surroundings
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt import EomtTrainer, EomtTrainingArguments
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.inputs import EvaluationInputs
from training_eomt.script.command_line import parse_arguments
from training_eomt.shapes import generate_shapes_dataset


RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "shapes_demo.yaml"
NUM_TRAIN, NUM_HELD_OUT, HELD_OUT_SEED = 1200, 300, 100
IMAGE_SIZE = 192  # the recipe's
# Arguments of the training, and the probabilities of masking with which the result is measured.
TRAININGS: dict[str, tuple[list[str], list[float]]] = {
    "always": (["--mask_annealing", "false"], [1.0, 0.0]),
    "never": (["--mask_annealing_starts", "0", "0", "--mask_annealing_ends", "0", "0"], [0.0]),
    "annealed": ([], [0.0]),
}
AT_INFERENCE = {1.0: "always", 0.0: "never"}
FIGURES = {"panoptic": ("pq", "pq_things", "pq_stuff", "sq", "rq"), "instance": ("ap", "ap50", "ap75")}


def train(task: str, masks: str, seed: int, data: Path, work: Path) -> tuple[Path, float]:
    """Trains a model; returns its folder and the minutes that took."""
    folder = work / f"{task}_{masks}_seed{seed}"
    words = ["--recipe", str(RECIPE), "--task", task, "--seed", str(seed), "--train_data", str(data / "train")]
    words += ["--output_dir", str(folder), "--overwrite_output_dir", "--disable_tqdm", "true", "--do_train"]
    start = time.perf_counter()
    run_segmentation.main(parse_arguments([*words, *TRAININGS[masks][0]]))
    return folder, (time.perf_counter() - start) / 60


def measure(task: str, folder: Path, probability: float, images: Path) -> dict[str, float]:
    """The held-out figures of a model with these masks."""
    model = EomtForUniversalSegmentation.from_pretrained(folder)
    model.set_mask_probabilities([probability] * model.config.num_blocks)
    processor = EomtImageProcessor.from_pretrained(folder)
    arguments = EomtTrainingArguments(
        output_dir=str(folder), per_device_eval_batch_size=20, report_to="none", disable_tqdm=True
    )
    inputs = EvaluationInputs(CocoPanopticDataset(images, model.config.id2label, task=task), processor)
    metrics = EomtTrainer(model=model, args=arguments, processing_class=processor, eval_dataset=inputs).evaluate()
    return {name: round(metrics[f"eval_{name}"], 4) for name in FIGURES[task]}


def print_table(rows: list[dict[str, Any]]) -> None:
    for task, names in FIGURES.items():
        found = [row for row in rows if row["task"] == task]
        if not found:
            continue
        print(
            f"\n{task}\n{'masks in training / at inference':34}{'seed':>5}" + "".join(f"{name:>11}" for name in names)
        )
        for row in found:
            title = f"{row['in_training']} / {row['at_inference']}"
            print(f"{title:34}{row['seed']:>5}" + "".join(f"{row[name]:>11.3f}" for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("outputs/annealing"), help="where data and models go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    data = generate_shapes_dataset(arguments.work / "data", NUM_TRAIN, 0, 0, IMAGE_SIZE)
    images = generate_shapes_dataset(arguments.work / "held_out", 0, NUM_HELD_OUT, 0, IMAGE_SIZE, HELD_OUT_SEED)
    results: dict[str, Any] = {
        **surroundings(torch.device("cpu")),
        "cores": len(os.sched_getaffinity(0)),
        "recipe": RECIPE.name,
        "held_out_images": NUM_HELD_OUT,
        "rows": [],
    }
    for seed in arguments.seeds:
        for task in FIGURES:
            for masks, (_, probabilities) in TRAININGS.items():
                folder, minutes = train(task, masks, seed, data, arguments.work)
                for probability in probabilities:
                    row = {"task": task, "in_training": masks, "at_inference": AT_INFERENCE[probability], "seed": seed}
                    row |= measure(task, folder, probability, images / "validation")
                    results["rows"].append({**row, "training_minutes": round(minutes, 2)})
                print_table(results["rows"])
                if arguments.output is not None:
                    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

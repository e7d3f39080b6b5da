"""The paper's comparison in accuracy: the steps from ViT-Adapter + Mask2Former to EoMT, trained alike, small enough
for a CPU.

    OMP_NUM_THREADS=1 python -m benchmarks.stepwise_training --camvid camvid \\
        --output benchmarks/results/stepwise_training.json

- Shapes: steps 0 to 5 at three widths, two seeds each, panoptic segmentation of the generated shapes.
- CamVid (where `--camvid` says where it is): the two ends, semantic segmentation.
- Pre-training: the two ends on the shapes again, from a ViT that first learned to tell which kinds of shapes are in an
  image (`benchmarks/pretraining.py`).

What is compared differs in its architecture and in nothing else: the same images in the same order, the same number of
steps, the same optimiser and learning rates, the same seeds. Steps 0 to 4 are masked in training and in evaluation;
step 5's masks fade out in training, and it is evaluated without. As in the paper the head of steps 0 to 3 is the same
whatever the ViT's size; head and ViT are smaller than the paper's by about the same factors.

Training goes through `EomtTrainer`. Every run is written to the file when it is done, and a run that is in the file is
not done again: a set that was stopped goes on with the same command. The table is printed, the curves are drawn beside
the file, after each run.

- `parameters` in millions, `multiply_adds` in millions of a forward pass of one image, by `torch.utils.flop_counter`.
- `step_seconds`: processor time of a training step (forward, loss, backward, clipping, AdamW), the median.
- `images_per_second`: forward passes of one image, by processor time, the median of those in which the steps of a
  width take turns. Processor time does not grow while other programs have the processor.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import TrainerCallback


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.baselines import STEPS, stepwise_model
from benchmarks.camvid import CLASSES, VOID
from benchmarks.measuring import multiply_adds, surroundings, write_json
from benchmarks.pretraining import copy_vit, pretrain
from image_processing_eomt import EomtImageProcessor
from training_eomt import EomtTrainer, EomtTrainingArguments
from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.data.base import SegmentationDataset
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.data.label_maps import LabelMapDataset
from training_eomt.data.samples import LabelSpace, Sample
from training_eomt.inputs import EvaluationInputs, TrainingInputs
from training_eomt.shapes import GENERATOR_VERSION, NAMES, generate_shapes_dataset


WIDTHS, SEEDS, ENDS = (64, 96, 160), (0, 1), (0, 5)
MIDDLE = 96  # width of the runs on CamVid and of those with pre-training
VIT: dict[str, Any] = {
    "num_hidden_layers": 8,
    "num_blocks": 2,
    "num_register_tokens": 0,
    "patch_size": 8,
    "initializer_range": 0.08,
}
HEAD_WIDTH = 32  # of attention
# Mask2Former with a quarter of the paper's widths and a third of its layers.
MASK2FORMER: dict[str, Any] = {
    "hidden_dim": 64,
    "feature_size": 64,
    "mask_feature_size": 64,
    "encoder_feedforward_dim": 256,
    "dim_feedforward": 512,
    "encoder_layers": 2,
}
DECODER_LAYERS = 3
OTHERS = {"num_queries": 16, "train_num_points": 256}
UPSCALE_BLOCKS = 1  # of EoMT: masks at a quarter of the image's resolution, as those of Mask2Former

SHAPES: dict[str, Any] = {"image_size": 64, "num_train": 2000, "num_validation": 150, "seed": 0}
TRAINING: dict[str, dict[str, Any]] = {
    "shapes": {"max_steps": 120, "scale_range": (0.9, 1.1), "image_size": 64, "task": "panoptic"},
    "camvid": {"max_steps": 150, "scale_range": (1.0, 1.5), "image_size": 128, "task": "semantic"},
}
OPTIMISER: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "learning_rate": 2e-3,
    "layer_decay": 1.0,
    "max_grad_norm": 0.1,
    "new_parameters_warmup_steps": 0,
    "backbone_warmup_steps": 25,
}
HEADLINE = {"shapes": "pq", "camvid": "miou"}
CURVE_POINTS, LOSS_POINTS = 3, 15
ROUNDS = 30  # of forward passes
SETTINGS: dict[str, Any] = {
    "vit": VIT,
    "mask2former": {**MASK2FORMER, "decoder_layers": DECODER_LAYERS},
    "both": OTHERS,
    "shapes": {**SHAPES, "generator_version": GENERATOR_VERSION},
    "training": TRAINING,
    "optimiser": OPTIMISER,
}

Run = dict[str, Any]  # `data`, `width`, `step`, `seed` and `pretrained`
KEYS = ("data", "width", "step", "seed", "pretrained")


def list_runs(with_camvid: bool) -> Iterator[Run]:
    """All runs: of the first seed, then of the second; the two ends at all widths first."""
    for seed in SEEDS:
        for is_end in (True, False):
            for width in WIDTHS:
                for step in (step for step in STEPS if (step in ENDS) == is_end):
                    yield {"data": "shapes", "width": width, "step": step, "seed": seed, "pretrained": False}
        for step in ENDS:
            yield {"data": "shapes", "width": MIDDLE, "step": step, "seed": seed, "pretrained": True}
        for step in ENDS if with_camvid else ():
            yield {"data": "camvid", "width": MIDDLE, "step": step, "seed": seed, "pretrained": False}


def build_model(data: str, width: int, step: int, id2label: dict[int, str]) -> Any:
    """The model of a step, with new weights."""
    settings: dict[str, Any] = {**VIT, **OTHERS, "id2label": id2label}
    del settings["num_blocks"]
    if step <= 3:
        settings |= {"num_blocks": DECODER_LAYERS, "mask2former_settings": MASK2FORMER}
    else:
        settings |= {"num_blocks": VIT["num_blocks"], "num_upscale_blocks": UPSCALE_BLOCKS}
    size = {"hidden_size": width, "num_attention_heads": width // HEAD_WIDTH}
    return stepwise_model(step, size, TRAINING[data]["image_size"], **settings)


@cache
def load_samples(data: str, work: Path, camvid: Path | None) -> tuple[list[Sample], list[Sample], LabelSpace]:
    """Images to train on, images to measure on, and their classes."""
    train: SegmentationDataset
    validation: SegmentationDataset
    if data == "camvid":
        assert camvid is not None
        train, validation = (
            LabelMapDataset(camvid / split, class_names=CLASSES, ignore_index=[VOID]) for split in ("train", "val")
        )
    else:
        numbers = SHAPES["num_train"], SHAPES["num_validation"], 0
        folder = generate_shapes_dataset(work / "shapes", *numbers, SHAPES["image_size"], SHAPES["seed"])
        train, validation = CocoPanopticDataset(folder / "train"), CocoPanopticDataset(folder / "validation")
    train_samples, validation_samples = (
        [dataset[index] for index in range(len(dataset))] for dataset in (train, validation)
    )
    return train_samples, validation_samples, train.label_space


class StepTimes(TrainerCallback):
    """Processor time of each training step, in seconds; loading the images is not in it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self._start)


def train(run: Run, model: Any, samples: tuple[list[Sample], list[Sample], LabelSpace], work: Path) -> Run:
    """
    Trains a model and measures it.

    Returns:
        The headline figure, its parts, `step_seconds`, and the curves: `evaluations` with `step` and the headline
        figure; `losses` with `step`, `loss` and `last_loss`, that of the last prediction alone, of which all have one.
    """
    settings, headline = TRAINING[run["data"]], HEADLINE[run["data"]]
    size, max_steps = settings["image_size"], settings["max_steps"]
    train_samples, validation_samples, labels = samples
    has_stuff = {"stuff_classes": labels.stuff_classes} if settings["task"] == "panoptic" else {}
    processor = EomtImageProcessor(size=size, task=settings["task"], **has_stuff)
    augmentation = SegmentationAugmentation((size, size), settings["scale_range"])
    times = StepTimes()
    trainer = EomtTrainer(
        model=model,
        args=EomtTrainingArguments(
            output_dir=str(work / "_".join(str(run[key]) for key in KEYS)),
            max_steps=max_steps,
            per_device_eval_batch_size=20,
            mask_annealing=run["step"] == 5,
            eval_strategy="steps",
            eval_steps=max_steps // CURVE_POINTS,
            logging_steps=max_steps // LOSS_POINTS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=run["seed"],
            **OPTIMISER,
        ),
        processing_class=processor,
        train_dataset=TrainingInputs(train_samples, processor, augmentation, run["seed"]),
        eval_dataset=EvaluationInputs(validation_samples, processor),
        callbacks=[times],
    )
    trainer.train()
    weights = {
        "loss_mask": model.config.mask_weight,
        "loss_dice": model.config.dice_weight,
        "loss_cross_entropy": model.config.class_weight,
    }
    history = trainer.state.log_history
    evaluations = [entry for entry in history if f"eval_{headline}" in entry]
    return {
        **{name.removeprefix("eval_"): value for name, value in evaluations[-1].items() if is_accuracy(name)},
        "step_seconds": round(statistics.median(times.seconds), 4),
        "evaluations": [{"step": entry["step"], headline: entry[f"eval_{headline}"]} for entry in evaluations],
        "losses": [
            {
                "step": entry["step"],
                "loss": round(entry["loss"], 3),
                "last_loss": round(sum(weight * entry[name] for name, weight in weights.items()), 3),
            }
            for entry in history
            if "loss" in entry
        ],
    }


def is_accuracy(name: str) -> bool:
    """Whether a metric of the evaluation says how good the model is, not how long that took."""
    return name.startswith("eval_") and not name.endswith(("loss", "runtime", "per_second"))


def measure_inference(data: str, width: int, steps: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Parameters, multiply-adds and images per second of the steps at a width, which take turns."""
    size = TRAINING[data]["image_size"]
    id2label = {label: str(label) for label in range(len(CLASSES if data == "camvid" else NAMES))}
    models = {step: build_model(data, width, step, id2label) for step in steps}
    pixels = torch.randn(1, 3, size, size)
    seconds: dict[int, list[float]] = {step: [] for step in steps}
    with torch.no_grad():
        for turn in range(-2, ROUNDS):
            for step, model in models.items():
                start = time.process_time()
                model(pixel_values=pixels)
                if turn >= 0:  # those before warm up
                    seconds[step].append(time.process_time() - start)
    return {
        str(step): {
            "parameters": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3),
            "multiply_adds": round(multiply_adds(model, pixels) / 1e6, 1),
            "images_per_second": round(1 / statistics.median(seconds[step]), 1),
        }
        for step, model in models.items()
    }


def do_run(run: Run, results: dict[str, Any], work: Path, camvid: Path | None) -> Run:
    """Builds, trains and measures what a run says; what goes before it goes into the results, too."""
    place = f"{run['data']} {run['width']}"
    if place not in results["inference"]:
        steps = tuple(STEPS) if run["data"] == "shapes" else ENDS
        results["inference"][place] = measure_inference(run["data"], run["width"], steps)
    samples = load_samples(run["data"], work, camvid)
    torch.manual_seed(run["seed"])
    model = build_model(run["data"], run["width"], run["step"], samples[2].id2label)
    if run["pretrained"]:
        name = f"{run['width']} seed {run['seed']}"
        vit = build_model(run["data"], run["width"], 5, {0: "unused"})
        file = work / f"vit_{run['width']}_seed{run['seed']}.pt"
        if name not in results["pretraining"] or not file.is_file():
            results["pretraining"][name] = pretrain(vit, work, SHAPES["image_size"], run["seed"])
            torch.save(vit.state_dict(), file)
        vit.load_state_dict(torch.load(file))
        copy_vit(vit, model)
    return {**run, **train(run, model, samples, work)}


def is_same(run: Run, other: Run) -> bool:
    return all(run[key] == other[key] for key in KEYS)


def figures(results: dict[str, Any], name: str, **wanted: Any) -> list[float]:
    """A figure of all runs of a kind, one for each seed."""
    return [run[name] for run in results["runs"] if all(run[key] == value for key, value in wanted.items())]


def with_spread(values: list[float], digits: int = 3) -> str:
    """The mean and, in parentheses, what it is the mean of."""
    if not values:
        return ""
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.mean(values):.{digits}f}" + (f" ({each})" if len(values) > 1 else "")


def write_table(results: dict[str, Any]) -> str:
    """What is known, as a Markdown table: a block of rows for each kind of data, width and start."""
    lines = [
        "| data, width | step | PQ or mIoU (seeds) | parameters, M | multiply-adds, M | training step, s | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = [{key: run[key] for key in ("data", "width", "pretrained", "step")} for run in results["runs"]]
    order = {name: index for index, name in enumerate(TRAINING)}
    unique = {tuple(kind.values()): kind for kind in kinds}
    for kind in sorted(unique.values(), key=lambda each: (order[each["data"]], *list(each.values())[1:])):
        costs = results["inference"][f"{kind['data']} {kind['width']}"][str(kind["step"])]
        seconds = statistics.mean(figures(results, "step_seconds", **kind))
        accuracy = with_spread(figures(results, HEADLINE[kind["data"]], **kind))
        lines.append(
            f"| {kind['data']}, {kind['width']}{', pre-trained' if kind['pretrained'] else ''} "
            f"| {kind['step']} {STEPS[kind['step']]} | {accuracy} | {costs['parameters']:.2f} "
            f"| {costs['multiply_adds']:.0f} | {seconds:.2f} | {costs['images_per_second']:.0f} |"
        )
    return "\n".join(lines)


def draw_curves(results: dict[str, Any], path: Path) -> None:
    """PQ or mIoU above, the loss of the last prediction below, over the steps of training; a line is the seeds' mean,
    the area around it goes from the worst to the best."""
    panels = {(run["data"], run["width"], run["pretrained"]): None for run in results["runs"]}
    figure = Figure(figsize=(2.6 * len(panels), 5), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, sharex="col", sharey="row")
    for column, (data, width, pretrained) in enumerate(panels):
        for step in STEPS:
            wanted = {"data": data, "width": width, "pretrained": pretrained, "step": step}
            rows = ("evaluations", HEADLINE[data]), ("losses", "last_loss")
            for axis, (curve, name) in zip(axes[:, column], rows, strict=True):
                curves = figures(results, curve, **wanted)
                if not curves:
                    continue
                points: Any = list(zip(*curves, strict=True))  # those of all seeds at a step
                steps = [each[0]["step"] for each in points]
                values = [[entry[name] for entry in each] for each in points]
                axis.plot(steps, [statistics.mean(each) for each in values], color=f"C{step}", label=str(step))
                axis.fill_between(
                    steps, list(map(min, values)), list(map(max, values)), color=f"C{step}", alpha=0.15, linewidth=0
                )
        title = f"{data}, {width} wide" + (", pre-trained" if pretrained else "")
        axes[0, column].set(title=title, ylabel={"pq": "PQ", "miou": "mIoU"}[HEADLINE[data]])
        axes[1, column].set(xlabel="training step", ylabel="loss, last prediction")
    axes[0, 0].set_ylim(bottom=0)  # of the whole row
    axes[0, 0].legend(title="step", frameon=False, fontsize=7)
    figure.savefig(path, dpi=70)


def load_results(path: Path | None) -> dict[str, Any]:
    """
    What the file holds already, or the frame of new results.

    Raises:
        ValueError: the file holds runs with other settings.
    """
    settings = json.loads(json.dumps(SETTINGS))  # as they are read
    if path is not None and path.is_file():
        results: dict[str, Any] = json.loads(path.read_text())
        if results["settings"] != settings:
            raise ValueError(f"{path} holds runs with other settings than now: choose another file, or delete it.")
        return results
    place = surroundings(torch.device("cpu"))
    return {**place, "settings": settings, "inference": {}, "pretraining": {}, "runs": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("outputs/stepwise_training"), help="where data go")
    parser.add_argument("--camvid", type=Path, help="CamVid: train/ and val/ with images/ and masks/")
    parser.add_argument("--output", type=Path, help="JSON file to write and to go on with")
    arguments = parser.parse_args()

    results = load_results(arguments.output)
    for run in list_runs(arguments.camvid is not None):
        if any(is_same(run, done) for done in results["runs"]):
            continue
        results["runs"].append(do_run(run, results, arguments.work, arguments.camvid))
        write_json(results, arguments.output)
        print(write_table(results), flush=True)
        if arguments.output is not None:
            draw_curves(results, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()

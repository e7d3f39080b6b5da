"""CamVid from scratch in a given time: this project's class and Trainer against Transformers' own class.

    python benchmarks/camvid.py --data camvid --minutes 40 --output benchmarks/results/camvid.json

Both train the same small ViT (192 wide, 8 blocks) on the same 256x256 crops in the same order, from the same seed, for
the same time, in bfloat16 (autocast); both are measured in the same way, on the validation images at their own size,
without masks.

- ours: `EomtTrainer`: averaged weights, and the published annealing or (`--masks never`) no masks in training.
- transformers: a training loop as one writes it by hand: AdamW, warm-up, polynomial decay, and one linear annealing
  of all blocks over the middle of training, written into the buffer.

How many steps fit into the time is measured first, both taking turns. Time spent on evaluation does not count.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import transformers
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import DataLoader


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import surroundings
from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt import EomtTrainer, EomtTrainingArguments
from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.data.label_maps import LabelMapDataset
from training_eomt.data.samples import Sample
from training_eomt.figures import as_segments, side_by_side
from training_eomt.inputs import DrawSampler, EvaluationInputs, TrainingInputs, collate
from training_eomt.optimization import two_stage_warmup_poly
from training_eomt.tasks import build_panoptic_reference


CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
VOID = 11
CROP, BATCH_SIZE, SEED = 256, 8, 0
MODEL: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 8,
    "num_attention_heads": 3,
    "num_blocks": 3,
    "num_queries": 16,
    "num_register_tokens": 0,
    "patch_size": 16,
    "num_upscale_blocks": 2,
    "image_size": CROP,
    "train_num_points": 2048,
    "importance_sample_ratio": 0.5,
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: index for index, name in enumerate(CLASSES)},
}
LEARNING_RATE, BETA2, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-3, 0.98, 0.05, 1.0
CURVE_POINTS = 5
TIMING_TURNS = 2
NUM_DRAWN = 3  # images
SETTINGS = ("learning_rate", "ema_decay", "masks", "evaluation_size", "scale_range")  # that figures depend on


def data(folder: Path, size: int, scale_range: tuple[float, float]) -> tuple[TrainingInputs, EvaluationInputs]:
    train, validation = (
        LabelMapDataset(folder / split, class_names=CLASSES, ignore_index=[VOID]) for split in ("train", "val")
    )
    processor = EomtImageProcessor(size=size, task="semantic")
    augmentation = SegmentationAugmentation((CROP, CROP), scale_range, color_jitter=False)
    return TrainingInputs(train, processor, augmentation, SEED), EvaluationInputs(validation, processor)


def annealed(progress: float) -> float:
    """Probability of masking in the hand-made schedule: 1, then linearly down to 0 from a sixth to five sixths."""
    return min(1.0, max(0.0, 1.0 - (progress - 1 / 6) / (4 / 6)))


def batches(inputs: TrainingInputs) -> Iterator[dict[str, Any]]:
    """The batches that `EomtTrainer` trains on, one after the other, for ever."""
    sampler = DrawSampler(len(inputs), BATCH_SIZE, SEED)
    loader = DataLoader(inputs, BATCH_SIZE, sampler=sampler, collate_fn=collate)
    for epoch in count():
        sampler.epoch = epoch
        yield from loader


class TheirTraining:
    """Transformers' own class in a training loop written by hand."""

    def __init__(self, inputs: TrainingInputs, arguments: argparse.Namespace) -> None:
        torch.manual_seed(SEED)
        self.arguments = arguments
        self.model = transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**MODEL)).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=arguments.learning_rate, betas=(0.9, BETA2), weight_decay=WEIGHT_DECAY
        )
        self.batches = batches(inputs)

    def step(self, step: int, total_steps: int, probability: float | None = None) -> float:
        """One step; the probability of masking follows from the step unless it is given. Returns the loss."""
        warmup = min(100, total_steps // 10)
        rate = two_stage_warmup_poly(step + 1, total_steps, (warmup, 0), 0.9, is_backbone=False)
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate * rate
        self.model.attn_mask_probs.fill_(annealed(step / total_steps) if probability is None else probability)
        batch = next(self.batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model(
                pixel_values=batch["pixel_values"],
                mask_labels=[masks.float() for masks in batch["mask_labels"]],
                class_labels=batch["class_labels"],
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def train(self, total_steps: int, evaluate: Any) -> float:
        """Trains, evaluates now and then, and returns the seconds of training."""
        seconds = 0.0
        points = {round(total_steps * point / CURVE_POINTS) for point in range(1, CURVE_POINTS + 1)}
        for step in range(total_steps):
            start = time.perf_counter()
            loss = self.step(step, total_steps)
            seconds += time.perf_counter() - start
            if step + 1 in points:
                print(f"step {step + 1}/{total_steps}  loss {loss:.3f}", flush=True)
                evaluate(step + 1, self.as_ours())
        return seconds

    def as_ours(self) -> EomtForUniversalSegmentation:
        """The same weights in this project's class, without masks, to be measured."""
        model = EomtForUniversalSegmentation(EomtConfig(**MODEL))
        model.load_state_dict(self.model.state_dict())
        model.set_mask_probabilities([0.0] * MODEL["num_blocks"])
        return model


class Stopwatch(transformers.TrainerCallback):
    """Seconds spent in training steps, evaluations left out."""

    def __init__(self) -> None:
        self.seconds, self.started = 0.0, 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.seconds, self.started = self.seconds + now - self.started, now

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()


def our_trainer(
    folder: Path, inputs: tuple[TrainingInputs, EvaluationInputs], total_steps: int, arguments: argparse.Namespace
) -> EomtTrainer:
    torch.manual_seed(SEED)
    model = EomtForUniversalSegmentation(EomtConfig(**MODEL))
    never = [0.0] * MODEL["num_blocks"]
    return EomtTrainer(
        model=model,
        args=EomtTrainingArguments(
            output_dir=str(folder),
            max_steps=total_steps,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=4,
            learning_rate=arguments.learning_rate,
            weight_decay=WEIGHT_DECAY,
            adam_beta2=BETA2,
            max_grad_norm=MAX_GRAD_NORM,
            layer_decay=1.0,
            mask_annealing_starts=never if arguments.masks == "never" else None,
            mask_annealing_ends=never if arguments.masks == "never" else None,
            new_parameters_warmup_steps=0,
            backbone_warmup_steps=min(100, total_steps // 10),
            ema_decay=arguments.ema_decay or None,
            eval_strategy="steps",
            eval_steps=max(1, total_steps // CURVE_POINTS),
            save_strategy="no",
            logging_steps=max(1, total_steps // 40),
            report_to="none",
            seed=SEED,
            use_cpu=True,
            bf16=True,
        ),
        processing_class=inputs[0].image_processor,
        train_dataset=inputs[0],
        eval_dataset=inputs[1],
    )


def seconds_per_step(
    inputs: tuple[TrainingInputs, EvaluationInputs], arguments: argparse.Namespace
) -> dict[str, float]:
    """Median seconds of a step of each, masks at 1 and at 0 in equal parts, taking turns of several steps."""
    theirs = TheirTraining(inputs[0], arguments)
    ours = our_trainer(arguments.work, inputs, 1000, arguments)
    ours.create_optimizer_and_scheduler(1000)
    model: Any = ours.model
    ours.accelerator.prepare_model(model)  # as `train` does: the forward pass in bfloat16
    our_batches = batches(inputs[0])

    optimizer: Any = ours.optimizer

    def our_step(probability: float) -> None:
        model.set_mask_probabilities([probability] * MODEL["num_blocks"])
        batch, num_items = ours.get_batch_samples(our_batches, 1, torch.device("cpu"))
        ours.training_step(model, batch[0], num_items)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        model.zero_grad()

    steps: dict[str, Callable[[float], object]] = {"transformers": partial(theirs.step, 500, 1000), "ours": our_step}
    times: dict[tuple[str, float], list[float]] = {}
    for turn in range(TIMING_TURNS + 1):
        for name, step in steps.items():
            for probability in (1.0, 0.0):
                for _ in range(arguments.timing_steps):
                    start = time.perf_counter()
                    step(probability)
                    if turn > 0:  # the first turn warms up
                        times.setdefault((name, probability), []).append(time.perf_counter() - start)
    return {name: statistics.mean(statistics.median(times[name, masks]) for masks in (1.0, 0.0)) for name in steps}


def draw_curves(trainings: dict[str, Any], minutes: float, path: Path) -> None:
    """Mean IoU over the time of training, at the speed that was measured before it."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, result in trainings.items():
        times = [point["step"] / result["steps"] * minutes for point in result["curve"]]
        axes.plot(times, [point["miou"] for point in result["curve"]], marker="o", label=name)
    axes.set(xlabel="minutes of training", ylabel="mean IoU on the validation images", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


def draw_overlays(work: Path, validation: Sequence[Sample], path: Path) -> None:
    """Some validation images, what is to be found in them, and what both models find, one below the other."""
    loaded = {
        name: (
            EomtImageProcessor.from_pretrained(work / name),
            EomtForUniversalSegmentation.from_pretrained(work / name).eval(),
        )
        for name in ("ours", "transformers")
    }
    rows = []
    for index in range(0, len(validation), -(-len(validation) // NUM_DRAWN)):
        sample = validation[index]
        segmentations: dict[str, Any] = {"target": build_panoptic_reference(sample)}
        for name, (processor, model) in loaded.items():
            inputs = processor(images=[sample.image], return_tensors="pt")
            with torch.no_grad():
                outputs = model(**inputs)
            segmentations[name] = as_segments(processor.post_process(outputs, [sample.size])[0])
        rows.append(side_by_side(sample.image, segmentations, MODEL["id2label"]))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid: train/ and val/ with images/ and masks/")
    parser.add_argument("--work", type=Path, default=Path("outputs/camvid"), help="where models and images go")
    parser.add_argument("--minutes", type=float, default=40, help="time of each training")
    parser.add_argument("--only", choices=["ours", "transformers"], help="run one of the two")
    parser.add_argument("--steps", type=int, help="steps of a training, instead of what fits in the time")
    parser.add_argument("--timing-steps", type=int, default=8, help="of each in a turn")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--ema-decay", type=float, default=0.995, help="of ours; 0 for none")
    parser.add_argument("--masks", choices=["annealed", "never"], default="annealed", help="in our training")
    parser.add_argument("--evaluation-size", type=int, default=288, help="side of the windows in evaluation, pixels")
    parser.add_argument("--scale-range", type=float, nargs=2, default=(1.2, 1.8))
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    inputs = data(arguments.data, arguments.evaluation_size, tuple(arguments.scale_range))
    results: dict[str, Any] = {
        **surroundings(torch.device("cpu")),
        "minutes": arguments.minutes,
        "settings": {name: getattr(arguments, name) for name in SETTINGS},
        "trainings": {},
    }
    if arguments.steps is None:
        results["seconds_per_step"] = seconds_per_step(inputs, arguments)
        print(results["seconds_per_step"])
    for name in [arguments.only] if arguments.only else ["ours", "transformers"]:
        steps = arguments.steps or int(60 * arguments.minutes / results["seconds_per_step"][name])
        folder = arguments.work / name
        curve: list[dict[str, float]] = []
        trainer = our_trainer(folder, inputs, steps, arguments)
        if name == "ours":
            stopwatch = Stopwatch()
            trainer.add_callback(stopwatch)
            trainer.train()
            trainer.save_model()
            seconds = stopwatch.seconds
            curve = [
                {"step": entry["step"], "miou": entry["eval_miou"]}
                for entry in trainer.state.log_history
                if "eval_miou" in entry
            ]
        else:

            def evaluate(step: int, model: EomtForUniversalSegmentation) -> None:
                trainer.model = trainer.model_wrapped = model  # noqa: B023
                curve.append({"step": step, "miou": trainer.evaluate()["eval_miou"]})  # noqa: B023

            seconds = TheirTraining(inputs[0], arguments).train(steps, evaluate)
            trainer.save_model()
        metrics = trainer.evaluate()
        results["trainings"][name] = {
            "steps": steps,
            "minutes": round(seconds / 60, 2),
            "miou": metrics["eval_miou"],
            "pixel_accuracy": metrics["eval_pixel_accuracy"],
            "per_class": {CLASSES[label_id]: values["iou"] for label_id, values in trainer.per_class.items()},
            "curve": curve,
        }
        print(json.dumps(results["trainings"][name], indent=1))
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.output is not None and arguments.only is None:
        draw_curves(
            results["trainings"], arguments.minutes, arguments.output.with_name(f"{arguments.output.stem}_curves.png")
        )
        validation: Any = inputs[1].samples
        draw_overlays(
            arguments.work,
            validation,
            arguments.output.with_name(f"{arguments.output.stem}_overlays.jpg"),
        )


if __name__ == "__main__":
    main()

"""Training samples per second: how many workers a training step needs, and where the time of a sample goes.

    python benchmarks/data_loading.py --output benchmarks/results/data_loading.json
    python benchmarks/data_loading.py --data coco --workers 1 2 4 8 --device cuda --step-seconds 0.4

Batches come from the loader that `EomtTrainer` trains with, augmented as in the published recipes for panoptic
segmentation at 640 pixels: flip, scale jitter from 0.1 to 2, pad, crop. Whoever takes them does nothing else. In every
round each number of workers loads the same samples with the same random numbers, and figures are medians over the
rounds; the start of the workers does not count. Without `--data`, images of 640x480 with 20 segments are generated:
noise that is weaker the finer it is, as in photographs, in JPEG files about as large as those of COCO.

Parts of a sample's time are measured in this process with one thread, as workers have it. `annotation` is reading it
and encoding it as run lengths, `masks` decoding these, `other` mostly making the random numbers repeatable.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.measuring import surroundings, synchronise, timed
from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.data import Sample, SegmentationDataset, open_dataset
from training_eomt.data.subsets import Subset
from training_eomt.inputs import DrawSampler, TrainingInputs, collate
from training_eomt.trainer import EomtTrainer
from training_eomt.training_arguments import EomtTrainingArguments


SEED = 0
IMAGE_SIZE = 640  # pixels
PREFETCHED = 2  # batches per worker, the DataLoader's own number
NUM_IMAGES, PHOTO_SIZE, NUM_SEGMENTS = 64, (480, 640), 20  # generated; height, width
CELLS = (160, 32, 8, 2, 1)  # pixels: how coarse the noise of generated images is
PARTS = ("image", "annotation", "masks", "augmentation", "image_processor", "collate")


def smooth_noise(channels: int, cell: int) -> torch.Tensor:
    """Normal noise on a grid of that many pixels, interpolated to `(channels, height, width)` of an image."""
    grid = torch.randn(1, channels, PHOTO_SIZE[0] // cell, PHOTO_SIZE[1] // cell)
    return F.interpolate(grid, PHOTO_SIZE, mode="bicubic")[0]


def generate(folder: Path) -> None:
    """Writes a dataset in COCO panoptic format."""
    torch.manual_seed(SEED)
    categories = [{"id": number, "name": f"class {number}", "isthing": 1} for number in range(1, NUM_SEGMENTS + 1)]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    row, column = torch.arange(PHOTO_SIZE[0])[:, None], torch.arange(PHOTO_SIZE[1])
    for name in ("images", "panoptic"):
        (folder / name).mkdir()
    for index in range(NUM_IMAGES):
        pixels = 128 + sum(4 * cell**0.5 * smooth_noise(3, cell) for cell in CELLS)
        image = pixels.clamp(0, 255).byte().permute(1, 2, 0)  # (height, width, 3)
        Image.fromarray(image.numpy()).save(folder / "images" / f"{index}.jpg", quality=95)
        # A pixel belongs to the nearest of some points; noise bends the borders between them.
        y, x = (length * torch.rand(NUM_SEGMENTS, 1, 1) for length in PHOTO_SIZE)
        distances = torch.hypot(row - y, column - x) + 10 * smooth_noise(NUM_SEGMENTS, 32)
        ids = 1 + distances.argmin(0)
        colours = F.pad(ids[..., None], (0, 2)).byte()  # (height, width, 3), the id in red
        Image.fromarray(colours.numpy()).save(folder / "panoptic" / f"{index}.png")
        segments = [{"id": number, "category_id": number} for number in ids.unique().tolist()]
        content["images"].append(
            {"id": index, "file_name": f"{index}.jpg", "height": PHOTO_SIZE[0], "width": PHOTO_SIZE[1]}
        )
        content["annotations"].append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    (folder / "panoptic.json").write_text(json.dumps(content))


def trainer_of(inputs: TrainingInputs, batch_size: int, device: torch.device, folder: str) -> EomtTrainer:
    """A trainer for its loader; its model is as small as can be."""
    config = EomtConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_blocks=1, num_queries=1)
    arguments = EomtTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        mask_annealing=False,
        report_to="none",
        seed=SEED,
        use_cpu=device.type == "cpu",
    )
    return EomtTrainer(EomtForUniversalSegmentation(config), arguments, inputs.image_processor, train_dataset=inputs)


def samples_per_second(trainer: EomtTrainer, workers: int, num_batches: int) -> float:
    """How fast the training loader delivers, once its workers are under way."""
    trainer.args.dataloader_num_workers = workers
    batches = iter(trainer.get_train_dataloader())
    for _ in range(PREFETCHED * workers + 1):
        next(batches)
    synchronise(trainer.args.device)
    start = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    synchronise(trainer.args.device)
    return num_batches * trainer.args.train_batch_size / (time.perf_counter() - start)


def note_times(reader: type[SegmentationDataset]) -> dict[str, float]:
    """From now on, what reads and prepares samples in this process adds its time to the seconds that it returns."""
    seconds: dict[str, float] = defaultdict(float)
    for owner, name, part in (
        (reader, "__getitem__", "reading"),
        (SegmentationDataset, "read_image", "image"),
        (Sample, "masks", "masks"),
        (SegmentationAugmentation, "__call__", "augmenting"),
        (EomtImageProcessor, "preprocess", "image_processor"),
        (sys.modules[__name__], "collate", "collate"),
    ):
        setattr(owner, name, timed(getattr(owner, name), seconds, part, torch.device("cpu")))
    return seconds


def parts_of_sample(
    inputs: TrainingInputs, batch_size: int, num_batches: int, seconds: dict[str, float]
) -> dict[str, float]:
    """Milliseconds per part, means over the first batches; `seconds` is what `note_times` returned."""
    draws = list(DrawSampler(len(inputs), batch_size, SEED))[: num_batches * batch_size]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds.clear()
    start = time.perf_counter()
    for first in range(0, len(draws), batch_size):
        collate([inputs[draw] for draw in draws[first : first + batch_size]])
    total = time.perf_counter() - start
    torch.set_num_threads(threads)
    seconds["annotation"] = seconds["reading"] - seconds["image"]
    seconds["augmentation"] = seconds["augmenting"] - seconds["masks"]
    parts = {part: seconds[part] for part in PARTS}
    parts |= {"other": total - sum(parts.values()), "sample": total}
    return {part: 1000 * value / len(draws) for part, value in parts.items()}


def measure(dataset: SegmentationDataset, folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is loaded, samples per second for each number of workers, and milliseconds per part of a sample."""
    batch_size = arguments.batch_size
    # Samples chosen at random, for an epoch at whose measured part no worker has run out of work.
    num_batches = arguments.batches + 2 * PREFETCHED * max(arguments.workers) + 2
    chosen = np.resize(np.random.default_rng(SEED).permutation(len(dataset)), num_batches * batch_size)
    processor = EomtImageProcessor(size=IMAGE_SIZE, task=dataset.task)
    augmentation = SegmentationAugmentation((IMAGE_SIZE, IMAGE_SIZE))
    inputs = TrainingInputs(Subset(dataset, chosen.tolist()), processor, augmentation, SEED)
    trainer = trainer_of(inputs, batch_size, arguments.device, folder)
    read = [inputs.samples[index] for index in range(min(len(chosen), NUM_IMAGES))]
    seconds = note_times(type(dataset))
    rates: dict[int, list[float]] = {workers: [] for workers in arguments.workers}
    parts = []
    for _ in range(arguments.rounds):
        for workers in arguments.workers:
            rates[workers].append(samples_per_second(trainer, workers, arguments.batches))
        parts.append(parts_of_sample(inputs, batch_size, arguments.batches, seconds))
    loading = []
    for workers, values in rates.items():
        rate = statistics.median(values)
        per_worker = round(rate / max(workers, 1), 2)
        loading.append({"workers": workers, "samples_per_second": round(rate, 2), "per_worker": per_worker})
    return {
        "images": len(dataset),
        "median_size": [statistics.median(sample.size[axis] for sample in read) for axis in (0, 1)],
        "mean_targets": round(statistics.mean(len(sample.targets) for sample in read), 1),
        "image_size": IMAGE_SIZE,
        "batch_size": batch_size,
        "loading": loading,
        "parts_ms": {part: round(statistics.median(turn[part] for turn in parts), 2) for part in parts[0]},
    }


def workers_for(step_seconds: float, results: dict[str, Any]) -> dict[str, Any]:
    """How many workers a step of that time needs, if each is as fast as one of the most that were measured."""
    per_worker = max(results["loading"], key=lambda row: row["workers"])["per_worker"]
    needed = results["batch_size"] / step_seconds
    workers = math.ceil(needed / per_worker)
    return {"step_seconds": step_seconds, "samples_per_second": round(needed, 2), "workers": workers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--data", help="a dataset that the project reads; default: generated images")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of processes that load")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--batches", type=int, default=16, help="measured in each round")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts")
    parser.add_argument("--step-seconds", type=float, help="time of a training step: say how many workers it needs")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    results: dict[str, Any] = {
        **surroundings(arguments.device),
        "data": "generated" if arguments.data is None else Path(arguments.data).name,
    }
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            generate(Path(folder))
        results |= measure(open_dataset(arguments.data or folder), folder, arguments)
    for row in results["loading"]:
        print("{workers} workers: {samples_per_second} samples per second".format(**row))
    print("ms of a sample: " + "  ".join(f"{part} {value}" for part, value in results["parts_ms"].items()))
    if arguments.step_seconds is not None:
        results["workers_for"] = workers_for(arguments.step_seconds, results)
        print("{workers} workers keep up with steps of {step_seconds} s".format(**results["workers_for"]))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

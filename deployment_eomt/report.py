"""How an export differs from the model in float32: on images, and in what is measured on a dataset.

An export is right if it finds the segments that the model finds. So results are compared, of the exported folder's own
`predict.py` with those of PyTorch and the image processor, for all kinds of graphs alike; and, where a graph returns
logits, these too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from image_processing_eomt import TASKS, VOID
from image_processing_eomt.geometry_eomt import parse_size

from . import predict


LOGITS = ("masks_queries_logits", "class_queries_logits")
NUM_SCENES = 100  # where no images are given, and in float32, where logits tell, fewer
NUM_FLOAT32_SCENES = 8


@dataclass(frozen=True)
class Bar:
    """
    What an export has to reach.

    Args:
        same_segments: share of the images with the same list of segments.
        same_pixels: share of the pixels in the same segments.
        logits: largest difference of logits, as a share of the largest one; None if it does not matter.
    """

    same_segments: float
    same_pixels: float
    logits: float | None = None


FLOAT32 = Bar(same_segments=0.99, same_pixels=0.999, logits=1e-5)
HALF = Bar(same_segments=0.98, same_pixels=0.995)
LOW = Bar(same_segments=0.97, same_pixels=0.995)
BARS = {"float32": FLOAT32, "float16": HALF, "bfloat16": HALF}  # `LOW` for all others

Segments = list[tuple[int, np.ndarray]]  # class and mask, `(height, width)` bool


@dataclass(frozen=True)
class Report:
    """
    Args:
        precision: the export's.
        num_images: on how many images it was compared.
        num_bytes: size of the graph's files.
        same_segments: share of the images with the same list of segments: as many of each class.
        same_pixels: share of the pixels in the same segments, those in none included.
        logits: largest difference of logits, as a share of the largest one of the image; None of graphs without.
        mask_iou: mean IoU of the queries' masks at the model's resolution, of queries with a mask; None likewise.
        class_agreement: share of the queries with the same class; None likewise.
        metrics: of a dataset, by name: the model's value and the export's.
    """

    precision: str
    num_images: int
    num_bytes: int
    same_segments: float
    same_pixels: float
    logits: float | None = None
    mask_iou: float | None = None
    class_agreement: float | None = None
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def bar(self) -> Bar:
        """What an export of this precision has to reach."""
        return BARS.get(self.precision, LOW)

    def find_failures(self) -> list[str]:
        """Returns a line for each value that is below the bar."""
        bar, failures = self.bar, []
        for name, title in (("same_segments", "images with the same segments"), ("same_pixels", "equal pixels")):
            value, least = getattr(self, name), getattr(bar, name)
            if not value >= least:
                failures.append(f"{title}: {value:.2%}, at least {least:.2%} expected in {self.precision}")
        if bar.logits is not None and self.logits is not None and not self.logits <= bar.logits:
            failures.append(f"logits differ by {self.logits:.1e} of the largest, at most {bar.logits:.0e} expected")
        return failures

    def as_dict(self) -> dict[str, Any]:
        """Returns what `export.json` says of it."""
        return {**asdict(self), "failures": self.find_failures()}

    def __str__(self) -> str:
        lines = [
            f"Compared with the model in float32 on {self.num_images} images ({self.precision}, "
            f"{self.num_bytes / 2**20:.1f} MiB):",
            f"  images with the same segments  {self.same_segments:.2%}",
            f"  equal pixels                   {self.same_pixels:.3%}",
        ]
        if self.logits is not None:
            lines += [
                f"  largest difference of logits   {self.logits:.1e} of the largest",
                f"  IoU of masks                   {self.mask_iou:.4f}",
                f"  queries of the same class      {self.class_agreement:.2%}",
            ]
        lines += [f"  {name:<30} {new:.4f}, the model {old:.4f}" for name, (old, new) in self.metrics.items()]
        return "\n".join([*lines, *(f"  BELOW THE BAR: {failure}" for failure in self.find_failures())])


class InaccurateExportError(ValueError):
    """An export that is below the bar of its precision."""


def compare(
    folder: str | PathLike,
    model: Any,
    image_processor: Any,
    images: Sequence[Any] | int | None = None,
    dataset: str | PathLike | None = None,
) -> Report:
    """
    Compares an exported folder with its model.

    Args:
        folder: the exported folder.
        model: the model, in float32 and in evaluation mode.
        image_processor: its image processor.
        images: PIL images or the names of files, or a number of generated scenes.
        dataset: a dataset's path, on whose validation split the task's metrics are computed with both.

    Returns:
        The report. It is up to the caller to look at its `find_failures()`.

    Raises:
        ImportError: a dataset or no images are given, and `training_eomt` is not installed.
        ValueError: there are no images, or what the dataset's reader raises.
    """
    exported = predict.Segmenter(folder)
    description = exported.graph.description
    if images is None:
        images = NUM_FLOAT32_SCENES if description["precision"] == "float32" else NUM_SCENES
    if isinstance(images, int):
        images = draw_scenes(images, image_processor)
    if not images:
        raise ValueError("An export is compared on images, and there are none.")
    differences = [compare_on_image(exported, model, image_processor, image) for image in images]
    values: dict[str, Any] = {}
    for name in differences[0]:
        all_values = [each[name] for each in differences]
        values[name] = float(max(all_values) if name == "logits" else np.mean(all_values))
    metrics = {} if dataset is None else measure(exported, model, image_processor, dataset)
    num_bytes = sum(path.stat().st_size for path in Path(folder).glob("model*"))
    return Report(description["precision"], len(images), num_bytes, metrics=metrics, **values)


def draw_scenes(number: int, image_processor: Any) -> Sequence[Image.Image]:
    """Draws scenes of `training_eomt.scenes`, the same ones every time, of the size that a model is made for."""
    from training_eomt.scenes import draw_scene

    height, width = parse_size(image_processor.size)
    return [Image.fromarray(draw_scene(np.random.default_rng([0, i]), height, width)[0]) for i in range(number)]


def compare_on_image(exported: predict.Segmenter, model: Any, image_processor: Any, image: Any) -> dict[str, float]:
    """Returns the values of a [`Report`] of one image."""
    pixels = image if isinstance(image, np.ndarray) else predict.read_image(image)
    inputs = image_processor(images=Image.fromarray(pixels), return_tensors="pt")
    size = pixels.shape[:2]
    outputs = run_eager(model, inputs)
    reference = find_segments(image_processor, outputs, size)
    if exported.graph.description["kind"] == "raw":
        logits = run_exported(exported, inputs["pixel_values"])
        values = compare_logits({name: outputs[name].numpy() for name in LOGITS}, logits)
        segments = predict.decoder.segment(logits[LOGITS[0]], logits[LOGITS[1]], size, exported.settings)
    else:
        values = {}
        segments = exported(pixels)
    found = [(each["label_id"], predict.decoder.decode_mask(each["segmentation"])) for each in segments]
    same_segments = sorted(label for label, _ in reference) == sorted(label for label, _ in found)
    same_pixels = count_same_pixels(reference, found, size)
    return {"same_segments": float(same_segments), "same_pixels": same_pixels, **values}


def run_eager(model: Any, inputs: Any) -> Any:
    """Runs a model on one image, or on its windows one by one."""
    with torch.inference_mode():
        outputs = [model(pixel_values=each) for each in inputs["pixel_values"].split(1)]
    return collect(outputs[0], outputs, inputs)


def run_exported(exported: predict.Segmenter, pixel_values: torch.Tensor) -> dict[str, np.ndarray]:
    """Runs a raw graph on one image, or on its windows one by one, as its batch may be fixed."""
    outputs = [exported.graph(pixel_values=each.numpy()) for each in pixel_values.split(1)]
    return {name: np.concatenate([output[name] for output in outputs]) for name in LOGITS}


def collect(example: Any, outputs: Sequence[Any], inputs: Any) -> Any:
    """Puts outputs of windows together, in the class of a model's outputs."""
    logits = {name: torch.cat([torch.as_tensor(each[name]) for each in outputs]) for name in LOGITS}
    return type(example)(**logits, patch_offsets=inputs.get("patch_offsets"))


def find_segments(image_processor: Any, outputs: Any, size: tuple[int, ...]) -> Segments:
    """Post-processes a model's outputs for one image: the class and the mask of each segment."""
    task = TASKS[image_processor.task]
    options = {"return_binary_maps": True} if task.segments_overlap else {}
    result = image_processor.post_process(outputs, [size], **options)[0]
    if not task.has_segments:
        classes = result.numpy()
        return [(int(label), classes == label) for label in np.unique(classes) if label != VOID]
    maps, segments = np.asarray(result["segmentation"]), result["segments_info"]
    if task.segments_overlap:
        return [(each["label_id"], maps[index].astype(bool)) for index, each in enumerate(segments)]
    return [(each["label_id"], maps == each["id"]) for each in segments]


def count_same_pixels(first: Segments, second: Segments, size: tuple[int, ...]) -> float:
    """Returns the share of the pixels that are in the same segments, of the same classes, in both of two results.

    Segments of a class are taken for the same in the order of their overlap."""
    different = np.zeros(size, dtype=bool)
    left = list(range(len(second)))
    overlaps = [
        (int((mask & other).sum()), i, j)
        for i, (label, mask) in enumerate(first)
        for j, (other_label, other) in enumerate(second)
        if label == other_label
    ]
    partners: dict[int, int] = {}
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap and i not in partners and j in left:
            partners[i] = j
            left.remove(j)
    for i, (_, mask) in enumerate(first):
        different |= mask ^ second[partners[i]][1] if i in partners else mask
    for j in left:
        different |= second[j][1]
    return 1.0 - float(different.mean())


def compare_logits(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the values of a [`Report`] that logits have. NaN in the logits is an infinite difference."""
    ratios = [np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max() for name in LOGITS]
    masks, other_masks = (each[LOGITS[0]] > 0 for each in (expected, found))
    unions = (masks | other_masks).sum(axis=(2, 3))
    ious = (masks & other_masks).sum(axis=(2, 3))[unions > 0] / unions[unions > 0]
    classes, other_classes = (each[LOGITS[1]].argmax(axis=-1) for each in (expected, found))
    return {
        "logits": float(np.nan_to_num(ratios, nan=np.inf).max()),
        "mask_iou": float(ious.mean()) if ious.size else 1.0,
        "class_agreement": float((classes == other_classes).mean()),
    }


def measure(
    exported: predict.Segmenter, model: Any, image_processor: Any, dataset: str | PathLike
) -> dict[str, tuple[float, float]]:
    """Returns the task's metrics of the model and of its raw graph, on the validation split of a dataset."""
    from training_eomt.data import open_dataset
    from training_eomt.evaluation import RunningEvaluation
    from training_eomt.tasks import TASKS as MEASURED

    if exported.graph.description["kind"] != "raw":
        raise ValueError("Metrics are computed of raw graphs: a segmenter has thresholds of its own.")
    task, config = MEASURED[image_processor.task], model.config
    samples = open_dataset(str(dataset), split="validation", task=task.name, id2label=config.id2label)
    evaluations = [
        RunningEvaluation(task.name, config.num_labels, image_processor.stuff_classes or []) for _ in range(2)
    ]
    for inputs, sample in _prepare(samples, image_processor):
        eager = run_eager(model, inputs)
        lower = collect(eager, [run_exported(exported, inputs["pixel_values"])], inputs)
        for evaluation, outputs in zip(evaluations, (eager, lower)):
            predictions = task.predict(image_processor, outputs, [sample.size])
            evaluation.add_batch(predictions, [task.build_reference(sample)], [])
    values = [evaluation.compute()[0] for evaluation in evaluations]
    return {name: (float(values[0][name]), float(values[1][name])) for name in (task.headline, *task.details)}


def _prepare(samples: Any, image_processor: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the model's inputs of each sample, and the sample."""
    for index in range(len(samples)):
        sample = samples[index]
        yield image_processor(images=sample.image, return_tensors="pt"), sample

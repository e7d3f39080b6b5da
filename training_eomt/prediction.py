"""Segmenting pictures with a finished model, as many as there are: batched, on several machines, and resumed."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .inputs import ImageProcessor, collate
from .prediction_outputs import OUTPUTS, Picture, PredictionFiles
from .prediction_records import FinishedPictures, RecordFile, check_fingerprint, weights_hash
from .prediction_sources import AnnotatedPictures, PictureFolder, PictureSource


__all__ = ["AnnotatedPictures", "PictureFolder", "PictureSource", "PredictionSummary", "UnreadablePicture", "predict"]

SUMMARY_FILE = "summary.json"
NUM_WRITERS = 4  # threads that draw and compress
MAX_UNWRITTEN = 4 * NUM_WRITERS  # pictures in memory that the model is done with
MAX_NAMED = 5  # unreadable pictures that a summary names

# Settings of a configuration that say where it comes from.
PROVENANCE = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


class UnreadablePicture(NamedTuple):
    """A picture that cannot be segmented."""

    name: str
    error: str


@dataclass(frozen=True)
class PredictionSummary:
    """What is done in a folder of predictions.

    Args:
        directory: the folder.
        num_pictures: in the source.
        num_segmented: pictures whose files are written, by whatever process and whenever.
        num_new: those of them that this call segmented.
        unreadable: pictures that could not be read, in order. A later call tries them again.
    """

    directory: Path
    num_pictures: int
    num_segmented: int
    num_new: int
    unreadable: tuple[UnreadablePicture, ...]

    @property
    def is_complete(self) -> bool:
        """Whether no picture is left to other processes, so that the files about all of them are written."""
        return self.num_segmented + len(self.unreadable) == self.num_pictures

    def __str__(self) -> str:
        text = f"{self.num_segmented} of {self.num_pictures} pictures are segmented in {self.directory}"
        text += f", {self.num_new} of them now." if self.num_new < self.num_segmented else "."
        if not self.is_complete:
            left = self.num_pictures - self.num_segmented - len(self.unreadable)
            text += f" {left} are left to other processes; the last one writes the files about all pictures."
        if self.unreadable:
            text += f"\n{len(self.unreadable)} cannot be read, and are tried again by the next run:"
            text += "".join(f"\n  {name}: {error}" for name, error in self.unreadable[:MAX_NAMED])
            text += "\n  ..." if len(self.unreadable) > MAX_NAMED else ""
        return text


def predict(
    model: Any,
    image_processor: ImageProcessor,
    source: PictureSource,
    directory: str | Path,
    *,
    outputs: Collection[str] = OUTPUTS,
    batch_size: int = 1,
    num_workers: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    device: torch.device | str | None = None,
    category_ids: Mapping[int, int] | None = None,
    show_progress: bool = True,
) -> PredictionSummary:
    """
    Segments pictures for the processor's own task, with its own thresholds, and writes what was found.

    Under `directory` there will be, `NAME` being a picture's path in the source, with its suffix:

    - "overlays": `overlays/NAME.png`, the picture, its target where there is one, and the prediction, with a legend;
    - "maps": `panoptic/NAME.png`, whose colours are COCO's (id = R + 256 G + 65536 B, 0 for what is no segment), or
      `label_maps/NAME.png`, one channel of 8 or 16 bits that holds numbers of classes. Instances, which overlap, have
      no maps;
    - "json": `panoptic.json` in COCO panoptic format, each segment with its `score`; or `instances.json`, a list of
      COCO results without boxes (pycocotools would take their areas for those of the masks), and `classes.json`, the
      name of every number; or `classes.json` alone for label maps;
    - `run.json`: what the predictions depend on. `records/`: what each process has done. `summary.json`: how many
      pictures there are, once the last one is done; the JSON files are written just before it.

    Process p of n takes the pictures p, p + n, ... that are not done yet, whatever the number of processes was
    before; processes that share `directory` need not run at the same time, and do not talk to each other. Whichever
    finds that nothing is left writes the files about all pictures. A folder that is complete is left as it is.
    A picture that cannot be read is noted and ends nothing.

    Scores are rounded to six digits. They, and pixels where two segments are equally likely, may differ in the last
    digit between batch sizes, as the sums of a matrix product do.

    Args:
        model: the model; it is set to evaluation. Its dtype, or that of the autocast around the call, is used.
        image_processor: prepares pictures and reads the model's outputs.
        source: [`PictureFolder`] or [`AnnotatedPictures`].
        directory: where to write; made if it does not exist.
        outputs: what to write, of "overlays", "maps" and "json". Pictures are drawn at their own size, which takes
            longer than to segment them: leave "overlays" out where there are many.
        batch_size: pictures at a time; a picture that is split brings several windows.
        num_workers: processes that read and prepare pictures, on this machine for this process.
        process_index, num_processes: which part of the pictures to take.
        device: where the model runs, by default where it is.
        category_ids: label id -> number under which the class is written; by default the number that it has in the
            source's data, or the label id. Classes without a number get those after the largest.
        show_progress: whether to show a progress bar.

    Raises:
        ValueError: `directory` holds predictions of another model, task or source, or lies in the folder of pictures.
        OSError: a file cannot be written.
    """
    directory = Path(directory)
    if isinstance(source, PictureFolder):
        source.check_not_written_into(directory)
    if device is not None:
        model.to(device)
    model.eval()
    files = PredictionFiles(
        directory,
        str(image_processor.task),
        outputs,
        model.config.id2label,
        image_processor.stuff_classes or (),
        source.category_ids if category_ids is None else category_ids,
        source.has_targets,
        f"{process_index}-of-{num_processes}",
    )
    check_fingerprint(directory, _fingerprint(model, image_processor, source, files))

    names = [source.name(index) for index in range(len(source))]
    is_finished = FinishedPictures(directory, names).is_finished
    indices = np.arange(process_index, len(names), num_processes)
    num_before = int(is_finished[indices].sum())
    todo = indices[~is_finished[indices]]
    num_new = 0
    if len(todo):
        with (
            RecordFile(directory, process_index, num_processes) as records,
            tqdm(
                desc="Segmenting", unit="picture", total=len(indices), initial=num_before, disable=not show_progress
            ) as progress,
        ):
            batches = _batches(source, todo, image_processor, batch_size, num_workers, "overlays" in files.outputs)
            num_new = _segment(model, image_processor, batches, files, records, progress)

    # The records are closed: the last process to come here sees those of all others, on a network's disk too.
    finished = FinishedPictures(directory, names)
    summary = PredictionSummary(
        directory,
        len(names),
        int(finished.is_finished.sum()),
        num_new,
        tuple(UnreadablePicture(names[index], error) for index, error in finished.errors.items()),
    )
    if summary.is_complete:
        _finish(files, finished, summary, names)
    return summary


class _PreparedPictures(Dataset):
    """Pictures as model inputs; one that cannot be read is what is wrong with it."""

    def __init__(
        self, source: PictureSource, indices: np.ndarray, image_processor: ImageProcessor, keeps_samples: bool
    ) -> None:
        self.source = source
        self.indices = indices
        self.image_processor = image_processor
        self.keeps_samples = keeps_samples

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any] | UnreadablePicture:
        index = int(self.indices[position])
        name = self.source.name(index)
        try:
            sample = self.source[index]
            features = self.image_processor.preprocess(images=[sample.image], return_tensors="pt")
        except (ValueError, OSError) as error:
            return UnreadablePicture(name, str(error))
        picture = Picture(name, sample.image_id, sample.size, sample if self.keeps_samples else None)
        return {**features, "pictures": [picture]}


class _Batch(NamedTuple):
    """`inputs` as `collate` makes them of the pictures that could be read, or None if there are none."""

    inputs: dict[str, Any] | None
    unreadable: list[UnreadablePicture]


def _collate(examples: Sequence[dict[str, Any] | UnreadablePicture]) -> _Batch:
    readable = [example for example in examples if isinstance(example, dict)]
    unreadable = [example for example in examples if isinstance(example, UnreadablePicture)]
    return _Batch(collate(readable) if readable else None, unreadable)


def _batches(
    source: PictureSource,
    indices: np.ndarray,
    image_processor: ImageProcessor,
    batch_size: int,
    num_workers: int,
    keeps_samples: bool,
) -> Iterator[_Batch]:
    return iter(
        DataLoader(
            _PreparedPictures(source, indices, image_processor, keeps_samples),
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=_collate,
        )
    )


def _segment(
    model: Any,
    image_processor: ImageProcessor,
    batches: Iterator[_Batch],
    files: PredictionFiles,
    records: RecordFile,
    progress: tqdm,
) -> int:
    """Segments batches of pictures while threads write earlier results, and returns the number of pictures."""
    settings: dict[str, Any] = {"return_coco_annotation": True} if files.task == "instance" else {}
    unwritten: deque[Future[None]] = deque()
    num_segmented = 0

    def write(picture: Picture, result: Any) -> None:
        records.add(picture.name, files.write(picture, result))

    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for inputs, unreadable in batches:
            for picture, error in unreadable:
                records.add_error(picture, error)
            progress.update(len(unreadable))
            if inputs is None:
                continue
            pictures = inputs.pop("pictures")
            with torch.inference_mode():
                pixel_values = inputs.pop("pixel_values").to(model.device, model.dtype)
                model_outputs = model(pixel_values=pixel_values, **inputs)
                results = image_processor.post_process(
                    model_outputs, [picture.size for picture in pictures], **settings
                )
            for picture, result in zip(pictures, results, strict=True):
                while len(unwritten) >= MAX_UNWRITTEN:
                    unwritten.popleft().result()  # waits, and raises what went wrong
                unwritten.append(writers.submit(partial(write, picture, _on_cpu(result))))
            num_segmented += len(pictures)
            progress.update(len(pictures))
        while unwritten:
            unwritten.popleft().result()
    return num_segmented


def _on_cpu(result: Any) -> Any:
    """A result without tensors on the device; classes take two bytes a pixel on their way, as they fit in them."""
    if isinstance(result, torch.Tensor):
        return result.to(torch.int16).cpu()
    if isinstance(result["segmentation"], torch.Tensor):
        return {**result, "segmentation": result["segmentation"].cpu()}
    return result


def _finish(
    files: PredictionFiles, finished: FinishedPictures, summary: PredictionSummary, names: Sequence[str]
) -> None:
    """Writes the files about all pictures, unless they are there and about the same ones."""
    digest = hashlib.sha256()
    for name, is_finished in zip(names, finished.is_finished.tolist(), strict=True):
        digest.update(json.dumps([name, is_finished]).encode())
    content = {
        "num_pictures": summary.num_pictures,
        "num_segmented": summary.num_segmented,
        "unreadable": [picture._asdict() for picture in summary.unreadable],
        "pictures_sha256": digest.hexdigest(),
    }
    path = files.directory / SUMMARY_FILE
    if path.exists() and json.loads(path.read_text(encoding="ascii")) == content:
        return
    files.finish(finished.records)
    files.write_text(SUMMARY_FILE, lambda file: json.dump(content, file, indent=2))


def _fingerprint(
    model: Any, image_processor: ImageProcessor, source: PictureSource, files: PredictionFiles
) -> dict[str, Any]:
    """What predictions depend on."""
    device_type = torch.device(model.device).type
    autocast = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    config = json.loads(model.config.to_json_string(use_diff=False))
    settings = json.loads(image_processor.to_json_string())
    return {
        "pictures": source.where,
        "exif": source.exif,
        "outputs": sorted(files.outputs),
        "category_ids": files.category_ids,
        "weights_sha256": weights_hash(model),
        "autocast": str(autocast) if autocast else None,
        "image_processor": {name: value for name, value in settings.items() if name not in PROVENANCE},
        "model": {name: value for name, value in config.items() if name not in PROVENANCE},
    }

"""Segmenting pictures with a finished model, as many as there are: batched, on several machines, and resumed."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configuration_eomt.text_eomt import terminal_text

from .disk import check_room
from .evaluation import not_finite, outputs_of
from .inputs import ImageProcessor, collate
from .json_files import read_json
from .prediction_names import safe_paths
from .prediction_outputs import DEFAULT_OUTPUTS, ENDINGS, Picture, PredictionFiles
from .prediction_records import (
    FinishedPictures,
    Record,
    RecordFile,
    check_fingerprint,
    only_run,
    record_path,
    weights_hash,
)
from .prediction_sources import AnnotatedPictures, PictureFolder, PictureSource


__all__ = ["AnnotatedPictures", "FailedPicture", "PictureFolder", "PictureSource", "PredictionSummary", "predict"]

SUMMARY_FILE = "summary.json"
NUM_WRITERS = 4  # threads that draw and compress
MAX_UNWRITTEN = 4 * NUM_WRITERS  # pictures in memory that the model is done with
MAX_NAMED = 5  # failed pictures that a summary names
NOT_FINITE = "the model's outputs are not finite (nan or inf)"

# What ends everything when a file cannot be written: it is not about one picture.
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}

# Settings of a configuration that say where it comes from.
PROVENANCE = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


class FailedPicture(NamedTuple):
    """A picture of which there are no files, and why."""

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
        num_empty: those of them in which no segment was found.
        unreadable: pictures that could not be read, in order. A later call tries them again.
        failed: pictures that could be read, but for which the model gave no numbers or whose files could not be
            written, in order. A later call tries them again.
    """

    directory: Path
    num_pictures: int
    num_segmented: int
    num_new: int
    num_empty: int
    unreadable: tuple[FailedPicture, ...]
    failed: tuple[FailedPicture, ...]

    @property
    def num_left(self) -> int:
        """Pictures that no process has come to yet."""
        return self.num_pictures - self.num_segmented - len(self.unreadable) - len(self.failed)

    @property
    def is_complete(self) -> bool:
        """Whether no picture is left to other processes, so that the files about all of them are written."""
        return not self.num_left

    def __str__(self) -> str:
        text = f"{self.num_segmented} of {self.num_pictures} pictures are segmented in {terminal_text(self.directory)}"
        text += f", {self.num_new} of them now." if self.num_new < self.num_segmented else "."
        if self.num_empty:
            text += f"\n{self.num_empty} of them have no segments."
        if self.num_empty and self.num_empty == self.num_segmented:
            text += (
                " Warning: that are all. Are these pictures what the model was trained for? A lower threshold "
                "(--threshold) finds more."
            )
        if self.num_left:
            text += f"\n{self.num_left} are left to other processes; the last one writes the files about all pictures."
        for what, pictures in (("read", self.unreadable), ("segmented or written", self.failed)):
            if pictures:
                text += f"\n{len(pictures)} cannot be {what}, and are tried again by the next run:"
                listed = (f"\n  {name}: {error}" for name, error in pictures[:MAX_NAMED])
                text += "".join("\n  " + terminal_text(line.strip()) for line in listed)
                text += "\n  ..." if len(pictures) > MAX_NAMED else ""
        return text


def predict(
    model: Any,
    image_processor: ImageProcessor,
    source: PictureSource,
    directory: str | Path,
    *,
    outputs: Collection[str] = DEFAULT_OUTPUTS,
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

    - "overlays": `overlays/NAME.overlay.png`, the picture with its segments, at its own size;
    - "figures": `figures/NAME.figure.png`, the picture, its target where there is one, and the prediction side by
      side, with a legend; several times as large as the picture, so only on request;
    - "maps": `panoptic/NAME.png`, whose colours are COCO's (id = R + 256 G + 65536 B, 0 for what is no segment), or
      `label_maps/NAME.png`, one channel of 8 or 16 bits that holds numbers of classes. Instances, which overlap, have
      no maps;
    - "json": `panoptic.json` in COCO panoptic format, each segment with its `score`; or `instances.json`, a list of
      COCO results without boxes (pycocotools would take their areas for those of the masks), and `classes.json`, the
      name of every number; or `classes.json` alone for label maps;
    - `run.json`: what the predictions depend on. `records/`: what each process has done. `summary.json`: how many
      pictures there are, once the last one is done; the JSON files are written just before it.

    A `NAME` that some file system does not take is replaced, see [`safe_paths`]; `file_name` in the JSON files leads
    from pictures to maps.

    Process p of n takes the pictures p, p + n, ... that are not done yet, whatever the number of processes was
    before; processes that share `directory` need not run at the same time, and do not talk to each other. Whichever
    finds that nothing is left writes the files about all pictures. A folder that is complete is left as it is.
    A picture that cannot be read, segmented or written is noted and ends nothing. One whose files are gone or damaged,
    or that was replaced by another of its name, is segmented again.

    Scores are rounded to six digits. They, and pixels where two segments are equally likely, may differ in the last
    digit between batch sizes, as the sums of a matrix product do.

    Args:
        model: the model; it is set to evaluation. Its dtype, or that of the autocast around the call, is used.
        image_processor: prepares pictures and reads the model's outputs.
        source: [`PictureFolder`] or [`AnnotatedPictures`].
        directory: where to write; made if it does not exist.
        outputs: what to write, of "overlays", "maps", "json" and "figures". Pictures are drawn at their own size,
            which takes longer than to segment them: leave "overlays" out where there are many.
        batch_size: pictures at a time; a picture that is split brings several windows.
        num_workers: processes that read and prepare pictures, on this machine for this process.
        process_index, num_processes: which part of the pictures to take.
        device: where the model runs, by default where it is.
        category_ids: label id -> number under which the class is written; by default the number that it has in the
            source's data, or the label id. Classes without a number get those after the largest.
        show_progress: whether to show a progress bar.

    Raises:
        ValueError: `directory` holds predictions of another model, task or source, or lies in the folder of pictures.
        OSError: nothing can be written, such as on a full disk; what is done stays. Or another run is at it.
    """
    directory = Path(directory)
    if isinstance(source, PictureFolder):
        source.check_not_written_into(directory)
    if device is not None:
        model.to(device)
    model.eval()
    process = f"{process_index}-of-{num_processes}"
    files = PredictionFiles(
        directory,
        str(image_processor.task),
        outputs,
        model.config.id2label,
        image_processor.stuff_classes or (),
        source.category_ids if category_ids is None else category_ids,
        source.has_targets,
        process,
    )
    check_fingerprint(directory, _fingerprint(model, image_processor, source, files))

    names = [source.name(index) for index in range(len(source))]
    paths = safe_paths(names, list(ENDINGS.values()))

    def is_current(index: int, record: Record) -> bool:
        return record.stamp == source.stamp(index) and files.holds(record, paths[index])

    finished = FinishedPictures(directory, names, is_current)
    indices = np.arange(process_index, len(names), num_processes)
    todo = indices[~finished.is_finished[indices]]
    if not len(todo) and _is_up_to_date(files, names, finished):
        return _summary(directory, names, finished, 0)
    check_room(directory)
    num_done = len(indices) - len(todo)
    with only_run(directory, process):
        files.remove_old_drafts()
        try:
            if len(todo):
                with (
                    RecordFile(record_path(directory, process)) as records,
                    tqdm(
                        desc="Segmenting",
                        unit="picture",
                        total=len(indices),
                        initial=num_done,
                        disable=not show_progress,
                    ) as progress,
                ):
                    prepared = _PreparedPictures(source, paths, todo, image_processor, files.draws)
                    batches = _batches(prepared, batch_size, num_workers)
                    try:
                        _segment(model, image_processor, batches, files, records, progress)
                    finally:
                        num_done += records.num_added
                # The records are closed: the last process to come here sees those of all others, on a network's disk
                # too.
                finished = FinishedPictures(directory, names, is_current)
            summary = _summary(directory, names, finished, num_done - len(indices) + len(todo))
            if summary.is_complete and not _is_up_to_date(files, names, finished):
                _finish(files, names, finished)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror or error}. Of {len(indices)} pictures, {num_done} are done and stay in {directory}; "
                "the same call goes on with the others",
            ) from error
    return summary


class _PreparedPictures(Dataset):
    """Pictures as model inputs; one that cannot be read is what is wrong with it."""

    def __init__(
        self,
        source: PictureSource,
        paths: Sequence[str],
        indices: np.ndarray,
        image_processor: ImageProcessor,
        keeps_samples: bool,
    ) -> None:
        self.source = source
        self.paths = [paths[index] for index in indices]
        self.indices = indices
        self.image_processor = image_processor
        self.keeps_samples = keeps_samples

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any] | FailedPicture:
        index = int(self.indices[position])
        name = self.source.name(index)
        stamp = self.source.stamp(index)  # before it is read: one that replaces it later is another
        try:
            sample = self.source[index]
            features = self.image_processor.preprocess(images=[sample.image], return_tensors="pt")
        except (ValueError, OSError) as error:
            return FailedPicture(name, str(error))
        kept = sample if self.keeps_samples else None
        picture = Picture(name, self.paths[position], sample.image_id, sample.size, stamp, kept)
        return {**features, "pictures": [picture]}


class _Batch(NamedTuple):
    """`inputs` as `collate` makes them of the pictures that could be read, or None if there are none."""

    inputs: dict[str, Any] | None
    unreadable: list[FailedPicture]


def _collate(examples: Sequence[dict[str, Any] | FailedPicture]) -> _Batch:
    readable = [example for example in examples if isinstance(example, dict)]
    unreadable = [example for example in examples if isinstance(example, FailedPicture)]
    return _Batch(collate(readable) if readable else None, unreadable)


def _batches(pictures: _PreparedPictures, batch_size: int, num_workers: int) -> Iterator[_Batch]:
    return iter(DataLoader(pictures, batch_size=batch_size, num_workers=num_workers, collate_fn=_collate))


def _segment(
    model: Any,
    image_processor: ImageProcessor,
    batches: Iterator[_Batch],
    files: PredictionFiles,
    records: RecordFile,
    progress: tqdm,
) -> None:
    """Segments batches of pictures while threads write earlier results."""
    settings: dict[str, Any] = {"return_coco_annotation": True} if files.task == "instance" else {}
    unwritten: deque[Future[None]] = deque()

    def write(picture: Picture, result: Any) -> None:
        try:
            content = files.write(picture, result)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in FATAL:
                raise
            records.add_failure(picture.name, f"its files cannot be written: {error}")
        else:
            records.add(picture.name, content)

    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for inputs, unreadable in batches:
            for name, error in unreadable:
                records.add_error(name, error)
            progress.update(len(unreadable))
            if inputs is None:
                continue
            pictures = inputs.pop("pictures")
            with torch.inference_mode():
                pixel_values = inputs.pop("pixel_values").to(model.device, model.dtype)
                model_outputs = outputs_of(model, pixel_values, len(pictures), **inputs)
                failed = not_finite(model_outputs)
                for logits in (
                    (model_outputs.masks_queries_logits, model_outputs.class_queries_logits) if failed else ()
                ):
                    logits.nan_to_num_(0.0, 0.0, 0.0)  # or the others of the batch could not be had
                results = image_processor.post_process(
                    model_outputs, [picture.size for picture in pictures], **settings
                )
            for index, (picture, result) in enumerate(zip(pictures, results, strict=True)):
                if index in failed:
                    records.add_failure(picture.name, NOT_FINITE)
                    continue
                while len(unwritten) >= MAX_UNWRITTEN:
                    unwritten.popleft().result()  # waits, and raises what went wrong
                unwritten.append(writers.submit(partial(write, picture, _on_cpu(result))))
            progress.update(len(pictures))
        while unwritten:
            unwritten.popleft().result()


def _on_cpu(result: Any) -> Any:
    """A result without tensors on the device; classes take two bytes a pixel on their way, as they fit in them."""
    if isinstance(result, torch.Tensor):
        return result.to(torch.int16).cpu()
    if isinstance(result["segmentation"], torch.Tensor):
        return {**result, "segmentation": result["segmentation"].cpu()}
    return result


def _summary(directory: Path, names: Sequence[str], finished: FinishedPictures, num_new: int) -> PredictionSummary:
    return PredictionSummary(
        directory,
        num_pictures=len(names),
        num_segmented=int(finished.is_finished.sum()),
        num_new=num_new,
        num_empty=int((finished.is_finished & finished.is_empty).sum()),
        unreadable=tuple(FailedPicture(names[index], error) for index, error in finished.errors.items()),
        failed=tuple(FailedPicture(names[index], reason) for index, reason in finished.failures.items()),
    )


class _WrittenSummary(msgspec.Struct, frozen=True):
    """What `summary.json` says. `files` are those about all pictures, and their sizes in bytes."""

    num_pictures: int
    num_segmented: int
    num_without_segments: int
    unreadable: list[dict[str, str]]
    failed: list[dict[str, str]]
    pictures_sha256: str
    files: dict[str, int]


def _content(names: Sequence[str], finished: FinishedPictures, sizes: Mapping[str, int]) -> _WrittenSummary:
    summary = _summary(Path(), names, finished, 0)
    digest = hashlib.sha256()
    for name, is_finished in zip(names, finished.is_finished.tolist(), strict=True):
        digest.update(json.dumps([name, is_finished]).encode())
    return _WrittenSummary(
        summary.num_pictures,
        summary.num_segmented,
        summary.num_empty,
        [picture._asdict() for picture in summary.unreadable],
        [picture._asdict() for picture in summary.failed],
        digest.hexdigest(),
        dict(sizes),
    )


def _is_up_to_date(files: PredictionFiles, names: Sequence[str], finished: FinishedPictures) -> bool:
    """Whether the files about all pictures are there and about the same ones."""
    try:
        path = files.directory / SUMMARY_FILE
        written = read_json(path.read_bytes(), _WrittenSummary, str(path))
    except (OSError, ValueError):
        return False
    is_whole = sorted(written.files) == sorted(files.final_names) and files.are_whole(written.files)
    return is_whole and written == _content(names, finished, written.files)


def _finish(files: PredictionFiles, names: Sequence[str], finished: FinishedPictures) -> None:
    """Writes the files about all pictures."""
    content = msgspec.to_builtins(_content(names, finished, files.finish(finished.records)))
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

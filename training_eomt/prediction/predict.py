"""Segmenting pictures with a finished model, as many as there are: batched, on several machines, and resumed."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..comparison import model_settings, processor_settings
from ..disk import check_writable
from ..evaluation import run_model
from ..finiteness import find_not_finite
from ..inputs import ImageProcessor, collate
from .names import safe_paths
from .outputs import DEFAULT_OUTPUTS, ENDINGS, Picture, PredictionFiles
from .records import (
    FinishedPictures,
    Record,
    RecordFile,
    check_fingerprint,
    only_run,
    record_path,
    weights_hash,
)
from .sources import AnnotatedPictures, PictureFolder, PictureSource
from .summary import FailedPicture, PredictionSummary, finish, is_up_to_date, summary_of


__all__ = ["AnnotatedPictures", "FailedPicture", "PictureFolder", "PictureSource", "PredictionSummary", "predict"]

NUM_WRITERS = 4  # threads that draw and compress
MAX_UNWRITTEN = 4 * NUM_WRITERS  # pictures in memory that the model is done with
NOT_FINITE = "the model's outputs are not finite (nan or inf)"

# What ends everything when a file cannot be written: it is not about one picture.
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


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
    if not len(todo) and is_up_to_date(files, names, finished):
        return summary_of(directory, names, finished, 0)
    check_writable(directory)
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
            summary = summary_of(directory, names, finished, num_done - len(indices) + len(todo))
            if summary.is_complete and not is_up_to_date(files, names, finished):
                finish(files, names, finished)
        except OSError as error:
            where = f": {error.filename2 or error.filename}" if error.strerror and error.filename else ""
            raise OSError(
                error.errno,
                f"{error.strerror or error}{where}. Of {len(indices)} pictures, {num_done} are done and stay in "
                f"{directory}; the same call goes on with the others",
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
                model_outputs = run_model(model, pixel_values, len(pictures), **inputs)
                failed = find_not_finite(model_outputs)
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


def _fingerprint(
    model: Any, image_processor: ImageProcessor, source: PictureSource, files: PredictionFiles
) -> dict[str, Any]:
    """What predictions depend on."""
    device_type = torch.device(model.device).type
    autocast = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    return {
        "pictures": source.where,
        "exif": source.image_reading.exif,
        "outputs": sorted(files.outputs),
        "category_ids": files.category_ids,
        "weights_sha256": weights_hash(model),
        "autocast": str(autocast) if autocast else None,
        "image_processor": processor_settings(image_processor),
        "model": model_settings(model.config),
    }

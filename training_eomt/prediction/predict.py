"""Segmenting any number of images with a finished model: in batches, on several machines, and resumed."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..disk import check_writable
from ..evaluation import run_model
from ..finiteness import find_not_finite
from ..inputs import ImageProcessor, collate
from .names import make_safe_paths
from .outputs import DEFAULT_OUTPUTS, ENDINGS, PREDICTION_FILES, PredictionFiles, ReadImage
from .records import Record, Records
from .run_settings import check_settings, describe_settings
from .shared_folder import SharedFolder
from .sources import AnnotatedImages, ImageFolder, ImageSource
from .summary import FailedImage, PredictionSummary


__all__ = ["AnnotatedImages", "FailedImage", "ImageFolder", "ImageSource", "PredictionSummary", "predict"]

NUM_WRITERS = 4  # threads that draw and compress
MAX_UNWRITTEN = 4 * NUM_WRITERS  # images in memory that the model is done with
NOT_FINITE = "the model's outputs are not finite (nan or inf)"

# Errors of writing that are not about one image: they end the run.
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def predict(
    model: Any,
    image_processor: ImageProcessor,
    source: ImageSource,
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
    Segments images for the processor's own task, with its own thresholds, and writes the results.

    Under `directory` there will be, `NAME` being an image's path in the source, without its suffix:

    - "overlays": `overlays/NAME.overlay.png`, the image with its segments, at its own size;
    - "figures": `figures/NAME.figure.png`, the image, the prediction and, where there is a target, that and the
      mistakes side by side, with a legend; several times as large as the image, so only on request;
    - "maps": `panoptic/NAME.png`, whose colours are COCO's (id = R + 256 G + 65536 B, 0 for what is no segment), or
      `label_maps/NAME.png`, one channel of 8 or 16 bits that holds numbers of classes. Instances, which overlap, have
      no maps;
    - "json": `panoptic.json` in COCO panoptic format, each segment with its `score`; or `instances.json`, a list of
      COCO results without boxes (pycocotools would take their areas for those of the masks), and `classes.json`, the
      name of every number; or `classes.json` alone for label maps;
    - `run.json`: what the predictions depend on. `records/NAME.json`: what was done about an image, written once its
      files are complete. `summary.json`: how many images there are, once the last one is done; the JSON files are
      written just before it.

    Images of a folder that differ in their suffixes alone keep them, and a `NAME` that some file system does not take
    is replaced, see [`make_safe_paths`]; `file_name` in the JSON files leads from images to maps.

    Process p of n takes the images p, p + n, ... that are not done yet, whatever the number of processes was
    before; processes that share `directory` need not run at the same time, and do not talk to each other. Whichever
    finds that nothing is left writes the files about all images. A folder that is complete is left as it is.
    An image that cannot be read, segmented or written is noted and ends nothing. One whose files are missing or
    damaged, or that was replaced by another of its name, is segmented again.

    Scores are rounded to six digits. They, and pixels where two segments are equally likely, may differ in the last
    digit between batch sizes, as the sums of a matrix product do.

    Args:
        model: the model; it is set to evaluation. Its dtype, or that of the autocast around the call, is used.
        image_processor: prepares images and reads the model's outputs.
        source: [`ImageFolder`] or [`AnnotatedImages`].
        directory: where to write; made if it does not exist.
        outputs: what to write, of "overlays", "maps", "json" and "figures". Images are drawn at their own size,
            which takes longer than to segment them: leave "overlays" out where there are many.
        batch_size: images at a time; an image that is split brings several windows.
        num_workers: processes that read and prepare images, on this machine for this process.
        process_index, num_processes: which part of the images to take.
        device: where the model runs, by default where it is.
        category_ids: label id -> number under which the class is written; by default the number that it has in the
            source's data, or the label id. Classes without a number get those after the largest.
        show_progress: whether to show a progress bar.

    Raises:
        ValueError: `directory` holds predictions of another model, task or source, or lies in the folder of images.
        OSError: nothing can be written, such as on a full disk, and what is done stays; or another run writes there.
    """
    directory = Path(directory)
    if isinstance(source, ImageFolder):
        source.check_not_written_into(directory)
    if device is not None:
        model.to(device)
    model.eval()
    folder = SharedFolder(directory, f"{process_index}-of-{num_processes}")
    files = PREDICTION_FILES[str(image_processor.task)](
        folder,
        outputs,
        model.config.id2label,
        image_processor.stuff_classes or (),
        source.category_ids if category_ids is None else category_ids,
        source.has_targets,
    )
    check_settings(folder, describe_settings(model, image_processor, source, files))

    paths = make_safe_paths(source.names, list(ENDINGS.values()))

    def is_current(index: int, record: Record) -> bool:
        return record.stamp == source.stamp(index) and files.are_whole(record.files)

    records = Records(folder, source.names, paths, is_current)
    summary = records.summarize()
    share = np.arange(process_index, len(source), num_processes)
    todo = share[~summary.is_segmented[share]]
    if not len(todo) and files.is_up_to_date(summary) and not folder.list_drafts():
        return summary
    check_writable(directory)
    with folder.hold():
        try:
            if len(todo):
                prepared = _PreparedImages(source, paths, todo, image_processor, files.draws)
                batches = DataLoader(prepared, batch_size, num_workers=num_workers, collate_fn=_collate)
                with tqdm(
                    desc="Segmenting",
                    unit="image",
                    total=len(share),
                    initial=len(share) - len(todo),
                    disable=not show_progress,
                ) as bar:
                    _segment(model, image_processor, batches, files, records, bar)
                summary = records.summarize()  # with what other processes have done meanwhile
            if summary.is_complete and not files.is_up_to_date(summary):
                files.write_files_about_all(summary, partial(records.read_segmented, summary))
        except OSError as error:
            where = f": {error.filename2 or error.filename}" if error.strerror and error.filename else ""
            num_done = records.summarize().is_segmented[share].sum()
            raise OSError(
                error.errno,
                f"{error.strerror or error}{where}. Of {len(share)} images, {num_done} are done and stay in "
                f"{directory}; the same call goes on with the others",
            ) from error
    return replace(summary, num_new=int(summary.is_segmented[todo].sum()))


@dataclass(eq=False)
class _PreparedImages(Dataset):
    """Images as model inputs; of one that cannot be read, the record with the reason."""

    source: ImageSource
    paths: Sequence[str]
    indices: np.ndarray
    image_processor: ImageProcessor
    keeps_samples: bool

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = int(self.indices[position])
        # The stamp before the image is read: one that replaces it later is another.
        image = ReadImage(self.paths[index], Record(self.source.names[index], stamp=self.source.stamp(index)))
        try:
            sample = self.source[index]
            features = self.image_processor.preprocess(images=[sample.image], return_tensors="pt")
        except (ValueError, OSError) as error:
            image.record.error = str(error)
            return {"unreadable": image}
        image.record.id, (image.record.height, image.record.width) = sample.image_id, sample.size
        return {**features, "images": [image._replace(sample=sample if self.keeps_samples else None)]}


def _collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collates a batch of the images that could be read, and puts the others beside it."""
    readable = [example for example in examples if "unreadable" not in example]
    unreadable = [example["unreadable"] for example in examples if "unreadable" in example]
    return {**(collate(readable) if readable else {}), "unreadable": unreadable}


def _segment(
    model: Any,
    image_processor: ImageProcessor,
    batches: Iterable[dict[str, Any]],
    files: PredictionFiles,
    records: Records,
    bar: tqdm,
) -> None:
    """Segments batches of images while threads write earlier results."""

    def write(image: ReadImage, result: Any) -> None:
        try:
            files.write(image, result)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in FATAL:
                raise
            image.record.error = f"its files cannot be written: {error}"
        records.write(image.path, image.record)

    unwritten: deque[Future[None]] = deque()
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for inputs in batches:
            unreadable = inputs.pop("unreadable")
            for image in unreadable:
                records.write(image.path, image.record)
            bar.update(len(unreadable))
            if not inputs:
                continue
            images = inputs.pop("images")
            with torch.inference_mode():
                pixel_values = inputs.pop("pixel_values").to(model.device, model.dtype)
                model_outputs = run_model(model, pixel_values, len(images), **inputs)
                failed = find_not_finite(model_outputs)
                if failed:  # or there would be no results for the others of the batch
                    model_outputs.masks_queries_logits.nan_to_num_(0.0, 0.0, 0.0)
                    model_outputs.class_queries_logits.nan_to_num_(0.0, 0.0, 0.0)
                sizes = [image.size for image in images]
                results = image_processor.post_process(model_outputs, sizes, **files.post_processing)
            for index, (image, result) in enumerate(zip(images, results, strict=True)):
                if index in failed:
                    image.record.error = NOT_FINITE
                    records.write(image.path, image.record)
                    continue
                while len(unwritten) >= MAX_UNWRITTEN:
                    unwritten.popleft().result()  # waits, and raises what went wrong
                unwritten.append(writers.submit(write, image, _move_to_cpu(result)))
            bar.update(len(images))
        while unwritten:
            unwritten.popleft().result()


def _move_to_cpu(result: Any) -> Any:
    """Returns a result without tensors on the device; classes take two bytes a pixel on their way, as they fit."""
    if isinstance(result, torch.Tensor):
        return result.to(torch.int16).cpu()
    if isinstance(result["segmentation"], torch.Tensor):
        return {**result, "segmentation": result["segmentation"].cpu()}
    return result

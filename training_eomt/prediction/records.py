"""What was done about each image: a file for each, written after all others about the image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from .shared_folder import SharedFolder
from .summary import FailedImage, PredictionSummary


RECORDS, RECORD_ENDING = "records", ".json"


class Record(msgspec.Struct, omit_defaults=True):
    """What was done about an image.

    Args:
        image: its name.
        error: why it could not be read, segmented or written.
        stamp: tells the file that was read from one that replaces it.
        files: the files that were written, by their paths in the folder of predictions, and their sizes in bytes.
        num_segments: how many segments were found; None where every pixel has a class.
        id: the dataset's number for the image, or its name.
        height, width: in pixels.
        segments: what the files about all images say of them.
    """

    image: str
    error: str | None = None
    stamp: str | None = None
    files: dict[str, int] = {}
    num_segments: int | None = None
    id: int | str = ""
    height: int = 0
    width: int = 0
    segments: list[dict[str, Any]] | None = None


_decoder = msgspec.json.Decoder(Record)


@dataclass
class Records:
    """The records in a folder of predictions.

    Args:
        folder: the folder.
        names: the names of all images, in order.
        paths: where their files are, without endings.
        is_current: whether the record of a segmented image, given with its index, still holds.
    """

    folder: SharedFolder
    names: Sequence[str]
    paths: Sequence[str]
    is_current: Callable[[int, Record], bool]

    def write(self, path: str, record: Record) -> None:
        """Replaces the record of the image with files at `path`. Threads may do this for several images at a time."""
        # Bytes of file names that are no text, which messages may hold, are no JSON for most readers.
        content = json.dumps(msgspec.to_builtins(record), ensure_ascii=False).encode("utf-8", "replace")
        self.folder.write(f"{RECORDS}/{path}{RECORD_ENDING}", lambda draft: draft.write_bytes(content))

    def summarize(self) -> PredictionSummary:
        """Reads all records. An image whose record is damaged or no longer holds counts as one without a record."""
        is_segmented = np.zeros(len(self.names), dtype=bool)
        num_empty, failed, digest = 0, [], hashlib.sha256()
        for index, name in enumerate(self.names):
            try:
                content = self._read(index)
                record = _decoder.decode(content)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
                continue
            if record.image != name:  # an image that had the same path is no longer there
                continue
            if record.error is not None:
                failed.append(FailedImage(name, record.error))
            elif self.is_current(index, record):
                is_segmented[index] = True
                num_empty += record.num_segments == 0
            else:
                continue
            digest.update(content)
        return PredictionSummary(self.folder.directory, is_segmented, num_empty, tuple(failed), digest.hexdigest())

    def read_segmented(self, summary: PredictionSummary) -> Iterator[Record]:
        """Yields the records of segmented images in the order of the images, one at a time."""
        for index in np.flatnonzero(summary.is_segmented).tolist():
            yield _decoder.decode(self._read(index))

    def _read(self, index: int) -> bytes:
        with open(f"{self.folder.directory}/{RECORDS}/{self.paths[index]}{RECORD_ENDING}", "rb") as file:
            return file.read()

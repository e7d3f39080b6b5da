"""What is done in a folder of predictions: said, written down, and compared with what was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..json_files import read_json
from ..text import terminal_text
from .outputs import PredictionFiles
from .records import FinishedPictures


SUMMARY_FILE = "summary.json"
MAX_NAMED = 5  # failed pictures that a summary names


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


def summary_of(directory: Path, names: Sequence[str], finished: FinishedPictures, num_new: int) -> PredictionSummary:
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
    summary = summary_of(Path(), names, finished, 0)
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


def is_up_to_date(files: PredictionFiles, names: Sequence[str], finished: FinishedPictures) -> bool:
    """Whether the files about all pictures are there and about the same ones."""
    try:
        path = files.directory / SUMMARY_FILE
        written = read_json(path.read_bytes(), _WrittenSummary, str(path))
    except (OSError, ValueError):
        return False
    is_whole = sorted(written.files) == sorted(files.final_names) and files.are_whole(written.files)
    return is_whole and written == _content(names, finished, written.files)


def finish(files: PredictionFiles, names: Sequence[str], finished: FinishedPictures) -> None:
    """Writes the files about all pictures."""
    content = msgspec.to_builtins(_content(names, finished, files.finish(finished.records)))
    files.write_text(SUMMARY_FILE, lambda file: json.dump(content, file, indent=2))

"""What is done in a folder of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..text import terminal_text


MAX_NAMED = 5  # failed images that a summary names


class FailedImage(NamedTuple):
    """An image without files, and why."""

    name: str
    error: str


@dataclass(frozen=True)
class PredictionSummary:
    """What is done in a folder of predictions, by all processes together and in all calls.

    Args:
        directory: the folder.
        is_segmented: `(num_images,)` bool, whether the image's files are written.
        num_empty: segmented images in which no segment was found.
        failed: images that could not be read, segmented or written, in order. The next call tries them again.
        records_sha256: differs where anything about an image differs.
        num_new: images that this call segmented.
    """

    directory: Path
    is_segmented: np.ndarray
    num_empty: int
    failed: tuple[FailedImage, ...]
    records_sha256: str
    num_new: int = 0

    @property
    def num_images(self) -> int:
        return len(self.is_segmented)

    @property
    def num_segmented(self) -> int:
        return int(self.is_segmented.sum())

    @property
    def num_left(self) -> int:
        """Images that no process has come to yet."""
        return self.num_images - self.num_segmented - len(self.failed)

    @property
    def is_complete(self) -> bool:
        """Whether no image is left to other processes, so that the files about all of them are written."""
        return not self.num_left

    def __str__(self) -> str:
        text = f"{self.num_segmented} of {self.num_images} images are segmented in {terminal_text(self.directory)}"
        text += f", {self.num_new} of them now." if self.num_new < self.num_segmented else "."
        if self.num_empty:
            text += f"\n{self.num_empty} of them have no segments."
        if self.num_empty and self.num_empty == self.num_segmented:
            text += (
                " Warning: that is all of them. Is the model trained for such images? A lower threshold (--threshold) "
                "finds more."
            )
        if self.num_left:
            text += f"\n{self.num_left} are left to other processes; the last one writes the files about all images."
        if self.failed:
            text += f"\n{len(self.failed)} could not be segmented; the next run tries them again:"
            text += "".join(f"\n  {terminal_text(f'{name}: {error}')}" for name, error in self.failed[:MAX_NAMED])
            text += "\n  ..." if len(self.failed) > MAX_NAMED else ""
        return text

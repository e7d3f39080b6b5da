"""Images of a folder, for calibration and for the report."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .predict import read_image


def list_images(folder: str | PathLike, limit: int) -> list[Path]:
    """
    Returns at most `limit` image files below a folder, spread over all of them.

    Raises:
        OSError: there is no such folder.
        ValueError: there is no image in it.
    """
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is no folder of images.")
    Image.init()
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in Image.EXTENSION)
    if not paths:
        raise ValueError(f"{folder} holds no images.")
    return [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, limit).round().astype(int))]


def read_calibration(folder: str | PathLike, image_processor: Any, limit: int = 64) -> list[dict[str, Tensor]]:
    """Returns inputs of a raw graph: of each image in a folder, or of each of its windows."""
    inputs = []
    for path in list_images(folder, limit):
        pixel_values = image_processor(images=Image.fromarray(read_image(path)), return_tensors="pt")["pixel_values"]
        inputs += [{"pixel_values": each} for each in pixel_values.split(1)]
    return inputs

"""What predictions depend on, noted beside them so that no other predictions are added."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..comparison import differences, model_settings, processor_settings
from ..json_files import read_object
from .outputs import PredictionFiles
from .records import RECORDS
from .shared_folder import SharedFolder
from .sources import ImageSource


RUN_FILE = "run.json"


def describe_settings(model: Any, image_processor: Any, source: ImageSource, files: PredictionFiles) -> dict[str, Any]:
    """Returns everything that the predictions for an image depend on, besides the image itself."""
    device_type = torch.device(model.device).type
    autocast = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    return {
        "images": source.where,
        "exif": source.image_reading.exif,
        "outputs": sorted(files.outputs),
        "category_ids": files.category_ids,
        "weights_sha256": hash_weights(model),
        "autocast": str(autocast) if autocast else None,
        "image_processor": processor_settings(image_processor),
        "model": model_settings(model.config),
    }


def hash_weights(model: nn.Module) -> str:
    """Returns the SHA-256 of all parameters and buffers that are saved with a model; takes about a second per GB."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_settings(folder: SharedFolder, settings: Mapping[str, Any]) -> None:
    """
    Compares settings with those noted in a folder; in a folder without predictions they are noted.

    Args:
        folder: the folder of predictions.
        settings: what the predictions depend on, by name; JSON.

    Raises:
        ValueError: the folder holds predictions that were made differently, or nobody knows how.
    """
    path = folder.directory / RUN_FILE
    try:
        noted = read_object(path)
    except (FileNotFoundError, ValueError) as error:
        if any((folder.directory / RECORDS).rglob("*.json")):
            state = "missing" if isinstance(error, FileNotFoundError) else "damaged"
            raise ValueError(
                f"{path} is {state}, so that nobody knows how the predictions beside it were made. Choose another "
                f"folder, or remove {path.parent}."
            ) from None
        # All processes of a run write the same.
        folder.write_text(RUN_FILE, [json.dumps(settings, indent=2), "\n"])
        return
    if differing := differences(noted, settings):
        raise ValueError(
            f"{folder.directory} holds predictions that were made differently:\n"
            + "\n".join(differing)
            + "\nChoose another folder, or remove this one."
        )

"""Maps of ids in which -1 is void."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


VOID = -1


def as_array(label_map: Any) -> np.ndarray:
    """An array, tensor (on any device) or nested list as an array."""
    return label_map.cpu().numpy() if isinstance(label_map, torch.Tensor) else np.asarray(label_map)


def count_pairs(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often each pair of numbers occurs at the same place of two flat int64 arrays: `shape` int64."""
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)

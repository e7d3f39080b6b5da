"""Data sets: whatever their format on disk, one kind of sample in memory."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .base import BadSample, SegmentationDataset
    from .opening import FORMATS, NoDatasetError, open_dataset
    from .samples import Sample, Target
    from .subsets import leave_out, split_dataset

__all__ = [
    "FORMATS",
    "BadSample",
    "NoDatasetError",
    "Sample",
    "SegmentationDataset",
    "Target",
    "leave_out",
    "open_dataset",
    "split_dataset",
]

_MODULES = {
    "BadSample": ".base",
    "SegmentationDataset": ".base",
    "FORMATS": ".opening",
    "NoDatasetError": ".opening",
    "open_dataset": ".opening",
    "Sample": ".samples",
    "Target": ".samples",
    "split_dataset": ".subsets",
    "leave_out": ".subsets",
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for: whoever draws shapes does not wait for all readers and their libraries."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)

"""Data sets: whatever their format on disk, one kind of sample in memory."""

from typing import TYPE_CHECKING

from loading_eomt.lazy import lazy_attributes


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


# Drawing shapes does not wait for all readers and their libraries.
__getattr__ = lazy_attributes(__name__, _MODULES)

"""Data sets: whatever their format on disk, one kind of sample in memory."""

from .base import BadSample, SegmentationDataset
from .opening import FORMATS, open_dataset
from .report import DataReport, check_samples, report
from .samples import Sample, Target
from .subsets import split_dataset, without


__all__ = [
    "FORMATS",
    "BadSample",
    "DataReport",
    "Sample",
    "SegmentationDataset",
    "Target",
    "check_samples",
    "open_dataset",
    "report",
    "split_dataset",
    "without",
]

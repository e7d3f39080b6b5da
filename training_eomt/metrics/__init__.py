"""Segmentation metrics that keep statistics, never predictions."""

from .mask_average_precision import MaskAveragePrecision
from .mean_iou import MeanIoU
from .panoptic_quality import PanopticQuality
from .streaming import StreamingMetric


__all__ = ["MaskAveragePrecision", "MeanIoU", "PanopticQuality", "StreamingMetric"]

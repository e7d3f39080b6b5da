"""Segmentation metrics that keep statistics, never predictions."""

from .mean_iou import MeanIoU
from .panoptic_quality import PanopticQuality


__all__ = ["MeanIoU", "PanopticQuality"]

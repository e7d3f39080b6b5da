"""Segmentation metrics that keep statistics, never predictions."""

from .panoptic_quality import PanopticQuality


__all__ = ["PanopticQuality"]

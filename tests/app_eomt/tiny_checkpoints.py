"""Checkpoints for the page that are small enough to run anywhere, and photographs for them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_models import TINY

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation


CLASSES = {0: "cat", 1: "dog", 2: "<i>sky</i> ${1 + 1}"}  # which a page must not run
OWN_THRESHOLDS = {"threshold": 0.5, "mask_threshold": 0.45, "overlap_mask_area_threshold": 0.0}


def save_checkpoint(folder: Path, seed: int, task: str = "panoptic", **thresholds: float) -> Path:
    """Saves a random model that finds many segments."""
    torch.manual_seed(seed)
    config = EomtConfig(**{**TINY, "num_queries": 9, "id2label": CLASSES})
    model = EomtForUniversalSegmentation(config).eval()
    torch.nn.init.normal_(model.class_predictor.weight, std=0.9)
    model.save_pretrained(folder)
    thresholds = OWN_THRESHOLDS | thresholds
    EomtImageProcessor(size=64, task=task, stuff_classes=[2], **thresholds).save_pretrained(folder)
    return folder


def save_photograph(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """Saves coloured blots."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path

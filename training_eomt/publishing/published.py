"""The checkpoints that EoMT's authors publish: what they are, and how their original files become folders to use.

The figures are the authors', https://github.com/tue-mps/eomt (model zoo), and were not measured here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from configuration_eomt import EOMT_SIZES
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation, convert_official_checkpoint
from modeling_eomt.checkpoints_eomt import read_weight_file
from modeling_eomt.official_checkpoints import infer_config


AUTHORS = ("EoMT's authors", "https://github.com/tue-mps/eomt")


@dataclass(frozen=True)
class PublishedCheckpoint:
    """
    One published checkpoint.

    Args:
        name: its name on the Hub, without the owner.
        data_set: "coco", "ade20k" or "cityscapes".
        task: "panoptic", "instance" or "semantic".
        backbone: what it was trained from, for people.
        size: key of `EOMT_SIZES`.
        image_size: height and width of the training images in pixels; for semantic segmentation, of the windows.
        num_queries: number of queries.
        metric, value: the authors' result on the validation set, in per cent.
        speed: the authors' measurement, pictures per second.
        licence: the Hub's `license`, for "other" with `license_name` and `license_link`.
        base_backbone: the backbone on the Hub to which the weights are a difference; None: they are complete.
        pretrained_on_coco: whether training started from a model for COCO panoptic segmentation.
        labels: names of the classes.
        stuff_classes: which of them are stuff, for panoptic segmentation.
    """

    name: str
    data_set: str
    task: str
    backbone: str
    size: str
    image_size: int
    num_queries: int
    metric: str
    value: float
    speed: str
    licence: Mapping[str, str]
    base_backbone: str | None
    pretrained_on_coco: bool
    labels: tuple[str, ...]
    stuff_classes: tuple[int, ...]

    @property
    def repository(self) -> str:
        """Its repository on the Hub."""
        return f"tue-mps/{self.name}"

    @property
    def num_blocks(self) -> int:
        """Number of query blocks."""
        return EOMT_SIZES[self.size]["num_blocks"]

    @property
    def facts(self) -> dict[str, Any]:
        """What a model card says about it, see `card_metadata`."""
        return {
            **self.licence,
            "datasets": [self.data_set],
            "base_model": self.repository,
            "results": {self.metric: self.value},
            "results_source": AUTHORS,
        }

    @property
    def processor_settings(self) -> dict[str, Any]:
        """What its image processor has to know."""
        return {
            "size": self.image_size,
            "stuff_classes": list(self.stuff_classes) or None,
            "task": self.task,
        }

    def convert(
        self, checkpoint: str | PathLike, base_backbone: str | PathLike | None = None
    ) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
        """
        The model and the image processor of the authors' file.

        Args:
            checkpoint: the file, `pytorch_model.bin`.
            base_backbone: folder of the backbone, instead of the Hub's, for weights that are a difference to it.

        Raises:
            ValueError: the file holds another model.
        """
        weights = read_weight_file(checkpoint)
        labels = dict(enumerate(self.labels))
        config = infer_config(
            weights, self.image_size, id2label=labels, label2id={name: index for index, name in labels.items()}
        )
        expected = {**EOMT_SIZES[self.size], "num_queries": self.num_queries}
        found = {field: getattr(config, field, None) for field in expected}
        expected["number of classes"] = len(self.labels)
        found["number of classes"] = len(weights["network.class_head.bias"]) - 1
        if differing := [field for field in expected if expected[field] != found[field]]:
            raise ValueError(
                f"{checkpoint} is not {self.name}: "
                + ", ".join(f"{field} is {found[field]}, not {expected[field]}" for field in differing)
                + "."
            )
        base = (base_backbone or self.base_backbone) if self.base_backbone else None
        return convert_official_checkpoint(weights, config, base), EomtImageProcessor(**self.processor_settings)


@cache
def published_checkpoints() -> dict[str, PublishedCheckpoint]:
    """All published checkpoints by name, from `published_checkpoints.json` beside this file."""
    table = json.loads(Path(__file__).with_name("published_checkpoints.json").read_text(encoding="utf-8"))
    checkpoints = {}
    for entry in table["checkpoints"]:
        data_set = table["data_sets"][entry["data_set"]]
        labels, stuff = data_set["labels"], data_set["stuff_classes"]
        if entry["task"] == "instance":
            labels = [name for index, name in enumerate(labels) if index not in stuff]
        checkpoints[entry["name"]] = PublishedCheckpoint(
            **{**entry, "licence": table["licences"][entry["licence"]]},
            labels=tuple(labels),
            stuff_classes=tuple(stuff) if entry["task"] == "panoptic" else (),
        )
    return checkpoints

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

from configuration_eomt import EOMT_SIZES, EomtConfig, EomtDinov3Config
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
        dataset: "coco", "ade20k" or "cityscapes".
        dataset_title: the dataset's name in texts.
        task: "panoptic", "instance" or "semantic".
        backbone: what it was trained from, for people.
        size: key of `EOMT_SIZES`.
        image_size: height and width of the training images in pixels; for semantic segmentation, of the windows.
        num_queries: number of queries.
        metric, value: the authors' result on the validation set, in per cent.
        speed: the authors' measurement, images per second.
        licence: the Hub's `license`, for "other" with `license_name` and `license_link`.
        base_backbone: the backbone on the Hub to which the weights are a difference; None: they are complete.
        pretrained_on_coco: whether training started from a model for COCO panoptic segmentation.
        labels: names of the classes.
        stuff_classes: which of them are stuff, for panoptic segmentation.
    """

    name: str
    dataset: str
    dataset_title: str
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
    def config(self) -> EomtConfig:
        """The configuration of the converted model."""
        return (EomtDinov3Config if self.base_backbone else EomtConfig)(
            **EOMT_SIZES[self.size],
            image_size=self.image_size,
            num_queries=self.num_queries,
            id2label=dict(enumerate(self.labels)),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a model card says about it, see [`model_card`]."""
        return {
            **self.licence,
            "datasets": [self.dataset],
            "base_model": self.repository,
            "results": {self.metric: self.value},
            "results_source": AUTHORS,
        }

    @property
    def processor_settings(self) -> dict[str, Any]:
        """The settings of its image processor that are not defaults."""
        return {
            "size": self.image_size,
            "stuff_classes": list(self.stuff_classes) or None,
            "task": self.task,
        }

    def convert(
        self, checkpoint: str | PathLike, base_backbone: str | PathLike | None = None
    ) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
        """
        Converts the authors' file to a model and its image processor.

        Args:
            checkpoint: the file, `pytorch_model.bin`.
            base_backbone: folder of the backbone, instead of the Hub's, for weights that are a difference to it.

        Raises:
            ValueError: the file holds another model.
        """
        weights = read_weight_file(checkpoint)
        config = infer_config(weights, self.image_size, id2label=dict(enumerate(self.labels)))
        expected = {**EOMT_SIZES[self.size], "num_queries": self.num_queries, "number of classes": len(self.labels)}
        found = {field: getattr(config, field, None) for field in expected}
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
    """Reads all published checkpoints, by name, from `published_checkpoints.json` beside this file."""
    table = json.loads(Path(__file__).with_name("published_checkpoints.json").read_text(encoding="utf-8"))
    checkpoints = {}
    for entry in table["checkpoints"]:
        dataset = table["datasets"][entry["dataset"]]
        labels, stuff = dataset["labels"], dataset["stuff_classes"]
        if entry["task"] == "instance":
            labels = [name for index, name in enumerate(labels) if index not in stuff]
        checkpoints[entry["name"]] = PublishedCheckpoint(
            **{**entry, "licence": table["licences"][entry["licence"]]},
            dataset_title=dataset["title"],
            labels=tuple(labels),
            stuff_classes=tuple(stuff) if entry["task"] == "panoptic" else (),
        )
    return checkpoints

"""The checkpoints that EoMT's authors publish: what they are, and how their original files become folders to use.

The figures are the authors', https://github.com/tue-mps/eomt (model zoo), and were not measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from os import PathLike
from typing import Any

from torch import Tensor
from transformers.utils import logging

from configuration_eomt import EOMT_SIZES, EomtConfig, EomtDinov3Config
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation, convert_official_checkpoint
from modeling_eomt.checkpoints_eomt import OFFICIAL_BACKBONE, read_weight_file
from modeling_eomt.official_checkpoints import infer_config

from .published_datasets import published_datasets, read_table


logger = logging.get_logger(__name__)

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
        metric: what the authors measured on the validation set.
        value: their result, in per cent.
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

    def build(
        self, weights: Mapping[str, Tensor], base_backbone: str | PathLike | None = None, **overrides: Any
    ) -> EomtForUniversalSegmentation:
        """
        Builds the model of the authors' weights. Its sizes are read off them, its classes are known.

        Args:
            weights: what `pytorch_model.bin` holds.
            base_backbone: folder of the backbone, instead of the Hub's, for weights that are a difference to it.
            overrides: fields of the configuration.

        Raises:
            OSError: the backbone cannot be read.
            ValueError: the weights are not those of one model.
        """
        base = (base_backbone or self.base_backbone) if self.base_backbone else None
        has_positions = f"{OFFICIAL_BACKBONE}pos_embed" in weights  # which tell the size
        size = None if has_positions else self.image_size
        num_classes = len(weights.get("network.class_head.bias", ())) - 1
        fields = {"id2label": dict(enumerate(self.labels))} if num_classes == len(self.labels) else {}
        if not fields:
            logger.warning(
                "%s has %d classes, not these %d: their names are unknown.", self.name, len(self.labels), num_classes
            )
        config = infer_config(weights, size, base_backbone=base, **{**fields, **overrides})
        return convert_official_checkpoint(weights, config, base)

    def convert(
        self, checkpoint: str | PathLike, base_backbone: str | PathLike | None = None
    ) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
        """
        Converts the authors' file to a model and its image processor.

        Args:
            checkpoint: the file, `pytorch_model.bin`.
            base_backbone: as for [`build`].

        Raises:
            ValueError: the file holds another model.
        """
        weights = read_weight_file(checkpoint)
        model = self.build(weights, base_backbone)
        expected = {
            **EOMT_SIZES[self.size],
            "num_queries": self.num_queries,
            "number of classes": len(self.labels),
            "image_size": self.image_size,
        }
        found = {field: getattr(model.config, field, None) for field in expected}
        found["number of classes"] = model.config.num_labels
        if differing := [field for field in expected if expected[field] != found[field]]:
            raise ValueError(
                f"{checkpoint} is not {self.name}: "
                + ", ".join(f"{field} is {found[field]}, not {expected[field]}" for field in differing)
                + "."
            )
        return model, EomtImageProcessor(**self.processor_settings)


@cache
def published_checkpoints() -> dict[str, PublishedCheckpoint]:
    """Reads all published checkpoints, by name, from `published_checkpoints.json` beside this file."""
    checkpoints = {}
    for entry in read_table()["checkpoints"]:
        dataset = published_datasets()[entry["dataset"]]
        labels, stuff = dataset.labels, dataset.stuff_classes
        if entry["task"] == "instance":
            labels = tuple(name for index, name in enumerate(labels) if index not in stuff)
        checkpoints[entry["name"]] = PublishedCheckpoint(
            **{**entry, "licence": read_table()["licences"][entry["licence"]]},
            dataset_title=dataset.title,
            labels=labels,
            stuff_classes=stuff if entry["task"] == "panoptic" else (),
        )
    return checkpoints

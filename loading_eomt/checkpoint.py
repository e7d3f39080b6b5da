"""What is in a checkpoint, and loading it: this project's, Transformers' own, or an original file that is published.

What files leave unsaid, the task and which classes are stuff, is known of published checkpoints, and follows from the
classes' names for others on their datasets.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import GatedRepoError
from transformers.utils import logging

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation
from modeling_eomt.checkpoints_eomt import find_file, find_weights, read_weight_file

from .published import PublishedCheckpoint, published_checkpoints
from .published_datasets import plain_name, published_datasets


logger = logging.get_logger(__name__)

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_ORIGINAL = "network.q.weight"  # a parameter of every original checkpoint
_UNNAMED = re.compile(r"LABEL_\d+")  # what Transformers calls classes without names
_HUB_FOLDER = re.compile(r"models--tue-mps--([^/\\]+)")  # of a published checkpoint in the Hub's cache


@dataclass(frozen=True)
class Checkpoint:
    """
    What is known of a checkpoint before its weights are read.

    Args:
        name: a folder, or a name on the Hub.
        settings: its `config.json`; empty for an original checkpoint, which has none of an EoMT model.
        published: the published checkpoint that it is; None for any other.
        hub_kwargs: how to reach the Hub, as for `from_pretrained`.
    """

    name: str
    settings: Mapping[str, Any]
    published: PublishedCheckpoint | None = None
    hub_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        """A key of `MODEL_CLASSES`."""
        if self.settings:
            return str(self.settings["model_type"])
        assert self.published is not None
        return self.published.config.model_type

    @property
    def id2label(self) -> dict[int, str]:
        """The names of its classes; those of the published checkpoint where its own file has none."""
        if not self.settings:
            assert self.published is not None
            return dict(enumerate(self.published.labels))
        config = MODEL_CLASSES[self.model_type].config_class.from_pretrained(self.name, **self.hub_kwargs)
        return self._name_classes(config.id2label or {})

    def load_model(self, base_backbone: str | PathLike | None = None, **kwargs: Any) -> EomtForUniversalSegmentation:
        """
        Loads the model in evaluation mode, with the names of its classes.

        Args:
            base_backbone: a folder of the backbone to which a published checkpoint is a difference; by default it is
                read from the Hub.
            kwargs: what `from_pretrained` takes: `dtype`, `attn_implementation`, fields of the configuration...

        Raises:
            OSError: files are missing or cannot be read, or the Hub gives no access to the backbone.
            ValueError: the weights do not fit.
        """
        weights = self._read_original()
        if weights is None:
            model = MODEL_CLASSES[self.model_type].from_pretrained(self.name, **self.hub_kwargs, **kwargs)
            labels = model.config.id2label or {}
            named = self._name_classes(labels)
            if named != labels and "id2label" not in kwargs:
                model.config.id2label = named
            return model.eval()
        assert self.published is not None
        base = base_backbone or self.published.base_backbone
        if base_backbone is None and base is not None:
            logger.warning("%s is a difference to the backbone %s, which is read as well.", self.name, base)
        dtype, overrides = kwargs.pop("dtype", None), kwargs
        try:
            model = self.published.build(weights, base_backbone, **overrides)
        except OSError as error:
            raise _describe_access(error, self.name, str(base)) from error
        return (model if dtype in (None, "auto") else model.to(dtype)).eval()

    def load_image_processor(self, **settings: Any) -> EomtImageProcessor:
        """
        Loads the image processor: with the stored task and stuff classes, or else what they must be.

        Args:
            settings: of the image processor, over the stored ones.

        Raises:
            ValueError: there is none, and nothing tells the task; or a setting that cannot be.
        """
        stored = self._read_processor()
        if stored is not None and "task" in stored:
            return EomtImageProcessor.from_pretrained(self.name, **self.hub_kwargs, **settings)
        known, source = self._find_task(bool((stored or {}).get("do_split_image")))
        if "task" in settings and settings["task"] != known.get("task"):
            known = {}
        if known and settings.keys() < known.keys():
            stuff = known.get("stuff_classes")
            logger.warning(
                "%s does not say what it is for. %s segmentation%s: %s.",
                self.name, known["task"].capitalize(), f" with {len(stuff)} stuff classes" if stuff else "", source,
            )  # fmt: skip
        if stored is not None:
            if not known and "task" not in settings:
                logger.warning(
                    "%s does not say what it is for, and neither its name nor its classes tell: a `task` says so, and "
                    "`stuff_classes` which classes are stuff.",
                    self.name,
                )
            return EomtImageProcessor.from_pretrained(self.name, **self.hub_kwargs, **{**known, **settings})
        if "task" not in {**known, **settings}:
            raise ValueError(f"{self.name} has no image processor: say with task (--task) what the model is for.")
        size = self.settings.get("image_size") or (self.published and self.published.image_size)
        size = size or MODEL_CLASSES[self.model_type].config_class().image_size
        return EomtImageProcessor(**{"size": size, **known, **settings})

    def _name_classes(self, labels: Mapping[int, str]) -> dict[int, str]:
        published = self.published.labels if self.published else ()
        is_unnamed = all(_UNNAMED.fullmatch(name) for name in labels.values())
        return dict(enumerate(published)) if is_unnamed and len(labels) == len(published) else dict(labels)

    def _read_processor(self) -> dict[str, Any] | None:
        if not any(find_file(self.name, file, **self.hub_kwargs) for file in PROCESSOR_FILES):
            return None
        return EomtImageProcessor.get_image_processor_dict(self.name, **self.hub_kwargs)[0]

    def _find_task(self, splits_images: bool) -> tuple[dict[str, Any], str]:
        """Returns the task and the stuff classes that no file says, and how they are known; nothing if not."""
        labels = {label_id: plain_name(name) for label_id, name in self.id2label.items()}
        names = set(labels.values())
        for dataset in published_datasets().values():
            things, stuff = dataset.split_classes()
            of_this = self.published.dataset == dataset.name if self.published else names <= things | stuff
            if not of_this:
                continue
            if self.published:
                task, source = self.published.task, "it is published so"
            else:
                task = "semantic" if splits_images else "instance" if names == things else "panoptic"
                source = f"its classes are those of {dataset.title}"
            stuff_classes = [label_id for label_id, name in labels.items() if name in stuff]
            return {"task": task, "stuff_classes": (task == "panoptic" and stuff_classes) or None}, source
        return {}, ""

    def _read_original(self) -> dict[str, Any] | None:
        """Reads the weights of an original checkpoint; None if they are those of a folder for `from_pretrained`."""
        if self.settings and self.published is None:
            return None
        paths = find_weights(self.name, **self.hub_kwargs)
        if self.settings and not any(path.suffix == ".bin" for path in paths):
            return None
        weights = {name: weight for path in paths for name, weight in read_weight_file(path).items()}
        if _ORIGINAL in weights:
            return weights
        if self.settings:
            return None
        raise OSError(
            f"{self.name} has no original checkpoint: no {_ORIGINAL} in model.safetensors, pytorch_model.bin."
        )


def find_checkpoint(name_or_path: str | PathLike, **hub_kwargs: Any) -> Checkpoint:
    """
    Finds what a folder or a name on the Hub holds; no weights are read.

    Args:
        name_or_path: a folder or a name on the Hub.
        hub_kwargs: how to reach the Hub, as for `from_pretrained`: `token`, `revision`, `cache_dir`...

    Raises:
        OSError: there is no such folder or model.
        ValueError: it holds no EoMT model.
    """
    name = str(name_or_path)
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: name the folder of a model, or convert it with `eomt convert`.")
    published = _find_published(name)
    settings = _read_settings(name, published, hub_kwargs)
    kind = settings.get("model_type")
    if settings and (not isinstance(kind, str) or kind not in MODEL_CLASSES):
        raise ValueError(f"{name} holds no EoMT model, but model_type={kind!r}.")
    return Checkpoint(name, settings, published, hub_kwargs)


def find_original(name: str, **hub_kwargs: Any) -> Checkpoint | None:
    """Finds a published checkpoint in its original form, without the configuration of a model; None if it is none."""
    published = _find_published(name)
    if published is None or _read_settings(name, published, hub_kwargs):
        return None
    return Checkpoint(name, {}, published, hub_kwargs)


def _read_settings(name: str, published: PublishedCheckpoint | None, hub_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Reads `config.json`; a published checkpoint may have none, or one that is not a model's: nothing then."""
    if published and not find_file(name, "config.json", **hub_kwargs):
        return {}
    settings: dict[str, Any] = EomtConfig.get_config_dict(name, **hub_kwargs)[0]
    return {} if published and "model_type" not in settings else settings


def _find_published(name: str) -> PublishedCheckpoint | None:
    """Finds a published checkpoint by its name on the Hub, its folder in the Hub's cache, or a folder of its name."""
    in_cache = _HUB_FOLDER.search(name)
    owner, _, repository = name.rpartition("/")
    if in_cache:
        repository = in_cache[1]
    elif Path(name).is_dir():
        repository = Path(name).resolve().name
    elif owner != "tue-mps":
        return None
    return published_checkpoints().get(repository)


def _describe_access(error: OSError, name: str, base: str) -> OSError:
    """Says what has to be asked for where the Hub does not give a backbone."""
    if Path(base).is_dir():
        return error
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, GatedRepoError):
        cause = cause.__cause__ or cause.__context__
    page = f"https://huggingface.co/{base}"
    reason = f"its owners give access to it on request: ask for it at {page}, then log in with `hf auth login`"
    return OSError(
        f"{name} is published as a difference to the backbone {base}, which cannot be read. "
        + (reason[0].upper() + reason[1:] if cause else f"If that is because {reason}")
        + f". A folder that has it can be given as base_backbone. ({error})"
    )

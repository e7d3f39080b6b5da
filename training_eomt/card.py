"""Model cards: all that training and publishing write come from one template, `model_card.md` beside this file.

The first line below a card's metadata says who wrote it, and a hash of what it then said. A card without that line,
or that says something else by now, belongs to a person and is left alone.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers import CONFIG_MAPPING
from yaml import YAMLError

from configuration_eomt import EomtConfig
from configuration_eomt.configuration_eomt import as_pair
from image_processing_eomt import TASKS
from modeling_eomt.checkpoints_eomt import FAMILIES

from .text import markdown_text, terminal_text


logger = logging.getLogger(__name__)

CARD = "README.md"
TRAINING, PUBLISHING = "training", "publishing"  # who writes cards

_TEMPLATE = Path(__file__).with_name("model_card.md")
_MARKER = re.compile(r"<!-- Written by (?P<author>\S+) \((?P<hash>\w*)\)\. .*? -->")
# What the Hub's library raises for metadata that are no YAML, or not of a card.
_METADATA_ERRORS = (YAMLError, TypeError, ValueError)
_MANY_CLASSES = 20  # are folded away
_METRIC_TITLES = {  # of the authors' figures
    "PQ": "panoptic quality (PQ), validation data",
    "mIoU": "mean intersection over union (mIoU), validation data",
    "mAP": "mask AP (pycocotools), validation data",
}


def model_card(
    config: EomtConfig,
    processor: Mapping[str, Any] | None,
    name: str,
    *,
    author: str = TRAINING,
    datasets: Iterable[str] = (),
    results: Mapping[str, float] | None = None,
    results_source: tuple[str, str] | None = None,
    tags: Iterable[str] = (),
    run: Mapping[str, Any] | None = None,
    checkpoint: Any = None,
    **metadata: Any,
) -> ModelCard:
    """
    Builds the card of a model. Its metadata, https://huggingface.co/docs/hub/model-cards, hold only what is given.

    Args:
        config: the model's configuration.
        processor: its image processor's settings, as `preprocessor_config.json` has them; None: not known yet.
        name: the folder or the name on the Hub that the card tells to load.
        author: who writes the card.
        datasets: what the model was trained on, named as on the Hub.
        results: metric -> value, measured on the first of `datasets`.
        results_source: name and URL of who measured them, if it was not done here.
        tags: further tags.
        run: what a training has recorded, see [`write_run_card`].
        checkpoint: the [`PublishedCheckpoint`] that the card is about.
        metadata: `license`, `license_name`, `license_link` and `base_model`, see `huggingface_hub.ModelCardData`.
    """
    settings, datasets = processor or {}, list(datasets)
    task = settings["task"] if settings.get("task") in TASKS else None
    title = terminal_text(Path(name).name or Path(name).resolve().name)
    source_name, source_url = results_source or (None, None)
    measured_on = datasets[0] if datasets else "validation data"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["eomt", *([f"{task}-segmentation"] if task else []), *tags],
        datasets=datasets or None,
        model_name=title if results else None,
        eval_results=[
            EvalResult(
                task_type="image-segmentation",
                task_name=f"{task} segmentation" if task else None,
                dataset_type=measured_on,
                dataset_name=measured_on,
                metric_type=metric,
                metric_value=value,
                source_name=source_name,
                source_url=source_url,
            )
            for metric, value in (results or {}).items()
        ]
        or None,
        **metadata,
    )
    labels = [markdown_text(label or f"LABEL_{index}") for index, label in sorted((config.id2label or {}).items())]
    stuff = set(settings.get("stuff_classes") or [])
    is_link = source_url is not None and source_url.startswith(("https://", "http://"))
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        escape=markdown_text,
        format_size=lambda size: "{}x{}".format(*as_pair(size)),
        author=author,
        title=title,
        quoted_name=json.dumps(name, ensure_ascii=not name.isprintable()),
        config=config,
        is_in_transformers=config.model_type in CONFIG_MAPPING,
        model_class=config.own_auto_map()["AutoModel"].split(".")[1],
        processor=processor,
        task=task,
        num_stuff=len(stuff),
        labels=[f"{label} (stuff)" if index in stuff else label for index, label in enumerate(labels)],
        are_named=labels != [markdown_text(f"LABEL_{index}") for index in range(len(labels))],
        max_listed=_MANY_CLASSES,
        results=results,
        results_source=results_source,
        source_link=quote(str(source_url), safe="/:?=&%#+,;@~") if is_link else None,
        metric_titles=_METRIC_TITLES,
        run=run,
        checkpoint=checkpoint,
    )
    card.text = card.text.replace(f"{author} ()", f"{author} ({_hash(card)})", 1)
    return card


def write_card(folder: str | PathLike, name: str | None = None, **facts: Any) -> None:
    """
    Writes the card of the model in a folder. A card that belongs to a person stays; further tags of another one are
    kept. What is no EoMT model gets none.

    Args:
        folder: a folder that holds `config.json` and perhaps `preprocessor_config.json`.
        name: what the card calls the model and tells to load; by default the folder as given.
        facts: see [`model_card`].

    Raises:
        OSError: the folder has no `config.json`.
    """
    folder = Path(folder)
    kind = EomtConfig.get_config_dict(folder)[0].get("model_type")
    if kind not in FAMILIES:
        return
    config = FAMILIES[kind].config_class.from_pretrained(folder)
    settings = folder / "preprocessor_config.json"
    processor = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    _compare_sizes(folder, config.image_size, processor or {})
    present = read_card(folder)
    if is_generated(present):
        tags = dict.fromkeys([*read_further_tags(present), *facts.pop("tags", ())])
        model_card(config, processor, name or folder.as_posix(), tags=tags, **facts).save(folder / CARD)


def read_card(folder: Path) -> str | None:
    """Returns the text of a folder's card, None if it has none."""
    return read_text(folder / CARD)


def read_text(card: Path | None) -> str | None:
    """Returns the text of a card, None if there is no such file."""
    return card.read_text(encoding="utf-8", errors="replace") if card is not None and card.is_file() else None


def find_hub_card(repo_id: str, token: str | None = None) -> Path | None:
    """Downloads the card of a repository on the Hub and returns its path, None if it has none."""
    try:
        return Path(HfApi().hf_hub_download(repo_id, CARD, token=token))
    except RemoteEntryNotFoundError:
        return None


def keep_hub_card(folder: Path, repo_id: str, token: str | None = None) -> None:
    """Copies the card of a repository into the folder that will be uploaded there if it belongs to a person."""
    card = find_hub_card(repo_id, token)
    if card is not None and not is_generated(read_text(card)) and is_generated(read_card(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(card, folder / CARD)


def is_generated(card: str | None, *authors: str) -> bool:
    """Whether a card is missing, or one of the authors (by default any) wrote it and nobody has changed it since."""
    if card is None:
        return True
    marker = _MARKER.search(card)
    if marker is None or (authors and marker["author"] not in authors):
        return False
    try:
        return marker["hash"] == _hash(ModelCard(card))
    except _METADATA_ERRORS:
        return False


def read_author(card: str | None) -> str | None:
    """Returns who wrote a card, even if a person has changed it since; None if it was a person, or there is none."""
    marker = _MARKER.search(card or "")
    return marker["author"] if marker else None


def read_metadata(card: str) -> ModelCardData:
    """
    Returns the metadata at the top of a card.

    Raises:
        ValueError: they cannot be read.
    """
    try:
        return ModelCard(card).data  # type: ignore[return-value]
    except _METADATA_ERRORS as error:
        raise ValueError(f"The metadata at the top of the card cannot be read: {error}") from error


def _hash(card: ModelCard) -> str:
    """Returns a hash of what a card says. Its tags do not matter, since they are kept, nor do spaces."""
    metadata = {name: value for name, value in card.data.to_dict().items() if name != "tags"}
    text = json.dumps(metadata, sort_keys=True, default=str) + _MARKER.sub("", card.text)
    return hashlib.sha256("".join(text.split()).encode()).hexdigest()[:12]


def read_further_tags(card: str | None) -> list[str]:
    """Returns the tags of a card, if there is one, that [`model_card`] does not give by itself."""
    tags = read_metadata(card).tags if card is not None else None
    return [tag for tag in tags or [] if tag not in ("eomt", *(f"{task}-segmentation" for task in TASKS))]


def _compare_sizes(folder: Path, image_size: Any, processor: Mapping[str, Any]) -> None:
    """Warns if the image processor does not make the images for which the model was set."""
    size = processor.get("size")
    edges = set(size.values()) - {None} if isinstance(size, Mapping) else {size} - {None}
    if edges and not edges & set(as_pair(image_size)):
        logger.warning(
            "%s: the model is set to images of %s pixels, the image processor makes images of %s. After "
            "set_image_size give the processor the same size.",
            folder,
            image_size,
            size,
        )

"""Publishes a finished model: one folder with code, weights, image processor and a model card, and its upload."""

import json
import logging
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from transformers.dynamic_module_utils import get_relative_import_files

from configuration_eomt import EomtConfig
from configuration_eomt.configuration_eomt import PIPELINE_CLASS
from image_processing_eomt import EomtImageProcessor
from loading_eomt import find_checkpoint
from modeling_eomt import EomtForUniversalSegmentation
from modeling_eomt.checkpoints_eomt import find_file

from ..card import (
    CARD,
    PUBLISHING,
    find_hub_card,
    is_generated,
    read_author,
    read_card,
    read_further_tags,
    read_metadata,
    read_text,
    write_card,
)
from ..folders import CONFIG, DRAFT, disk_errors, draft_folder, publish_draft
from ..json_files import read_object
from ..text import terminal_text


logger = logging.getLogger(__name__)

PROCESSOR = "preprocessor_config.json"
# Two models that differ in one of these are not the same model at two times.
_IDENTITY = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_register_tokens",
    "mlp_ratio",
    "intermediate_size",
    "use_swiglu_ffn",
    "use_gated_mlp",
    "num_blocks",
    "num_queries",
    "patch_size",
    "image_size",
    "id2label",
)


def publish_model(
    model: EomtForUniversalSegmentation,
    image_processor: Any,
    folder: str | PathLike,
    *,
    name: str | None = None,
    push_to_hub: str | None = None,
    private: bool | None = None,
    **facts: Any,
) -> Path:
    """
    Writes a folder that loads with the `Auto` classes and `pipeline` where this project is not installed: code,
    weights, image processor and a model card.

    The folder is new, empty or an earlier publication of the same model, which is replaced; other files in it stay.
    Everything is written to a draft and checked first: if that fails, nothing is changed. Then file by file takes its
    place, the card last; meanwhile the folder has no `config.json`, so that nobody loads half of a model.

    Args:
        model: the model.
        image_processor: its image processor.
        folder: where to write.
        name: what the card calls the model and tells to load; by default the repository or the folder.
        push_to_hub: a repository on the Hub to which the folder is uploaded too, `"owner/name"`. A card there that
            somebody has changed stays.
        private: whether a new repository is private.
        facts: what the card says besides: `license`, `license_name`, `license_link`, `datasets`, `base_model`,
            `results`, `results_source`, `tags`; see [`model_card`].

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else: another model, or one that was not published.
        ValueError: what was written is not complete, such as for a class that does not bring its code along.
        OSError: the folder cannot be written, its disk is full, or the upload fails.
    """
    folder = Path(folder)
    present = _check_target(folder, model.config, image_processor, facts.get("base_model"))
    with draft_folder(folder) as draft:
        with disk_errors(folder):
            model.save_pretrained(draft)
            image_processor.save_pretrained(draft)
        facts["tags"] = dict.fromkeys([*read_further_tags(present), *facts.get("tags", ())])
        write_card(draft, name or push_to_hub or folder.as_posix(), author=PUBLISHING, **facts)
        _check_complete(draft)
        files = sorted(file.name for file in draft.iterdir())
        publish_draft(draft, folder, last=CARD)
    if push_to_hub:
        _upload(folder, push_to_hub, files, private)
    return folder


def _upload(folder: Path, repository: str, files: list[str], private: bool | None) -> None:
    """Uploads files of a folder. Raises an `OSError` where that fails, for whatever reason."""
    api = HfApi()
    try:
        repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
        present = read_text(find_hub_card(repository))
        if is_generated(present):
            card = ModelCard.load(folder / CARD)
            card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *read_further_tags(present)]))
            card.save(folder / CARD)
        else:
            files = [name for name in files if name != CARD]
            logger.warning("%s: somebody has changed the card there; it stays.", repository)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=files, commit_message="Upload model")
    except Exception as error:  # of several libraries: the Hub's, its HTTP client's, its file transfer's
        reason = terminal_text(" ".join(f"{type(error).__name__}: {error}".split()))
        raise OSError(f"{folder} is written, but it could not be uploaded to {repository}: {reason[:500]}") from error


def _check_target(folder: Path, config: EomtConfig, image_processor: Any, base_model: str | None) -> str | None:
    """
    Returns the card of an earlier publication of the same model in the folder, None if it is new or empty.

    Raises:
        FileExistsError: the folder holds something else.
    """
    advice = "Choose another folder, or remove this one first."
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file. {advice}")
    if not folder.exists() or {path.name for path in folder.iterdir()} <= {DRAFT}:
        return None
    card = read_card(folder)
    is_published = card is not None and is_generated(card, PUBLISHING)
    if not (folder / CONFIG).is_file():
        if is_published:
            return card  # a killed process left it so, between an earlier publication and the next
        raise FileExistsError(f"{folder} is not empty, and what it holds is no model. {advice}")
    if card is None or not is_published:
        raise FileExistsError(
            f"{folder} holds a model that was not published there, or whose {CARD} somebody has changed. {advice}"
        )
    stored, given = (read_object(folder / CONFIG), json.loads(json.dumps(config.to_diff_dict(), default=str)))
    differing = [field for field in _IDENTITY if stored.get(field) != given.get(field)]
    if (folder / PROCESSOR).is_file() and read_object(folder / PROCESSOR).get("task") != image_processor.task:
        differing.append("task")
    stored_base = read_metadata(card).base_model
    if base_model and stored_base and base_model != stored_base:
        differing.append("base_model")
    if differing:
        raise FileExistsError(f"{folder} holds another model: {', '.join(differing)} differ. {advice}")
    return card


def _check_complete(folder: Path) -> None:
    """Raises a `ValueError` if code is missing that the settings in a folder name."""
    classes = [PIPELINE_CLASS]
    for settings in (CONFIG, PROCESSOR):
        auto_map = read_object(folder / settings).get("auto_map")
        if not auto_map:
            raise ValueError(f"What was written is not complete: {settings} names no code. Is its class our own?")
        for names in auto_map.values():
            classes += names.values() if isinstance(names, dict) else [names]
    try:
        for name in classes:
            get_relative_import_files(folder / f"{name.split('.')[0]}.py")
    except FileNotFoundError as error:
        raise ValueError(f"What was written is not complete: {Path(error.filename).name} is missing.") from error


def load_source(
    source: str, base_backbone: str | None = None, **settings: Any
) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
    """
    Loads the model and the image processor of a folder or a repository on the Hub.

    Args:
        source: what `save_pretrained`, the Trainer or Transformers' own EoMT classes wrote, or a published original.
        base_backbone: folder of the backbone to which a published original is a difference, instead of the Hub's.
        settings: of the image processor, over those it was saved with. With a `task`, a source that has none gets a
            new one.

    Raises:
        ValueError: not an EoMT model, or no image processor.
    """
    checkpoint = find_checkpoint(source)
    return checkpoint.load_model(base_backbone), checkpoint.load_image_processor(**settings)


def read_facts(source: str, task: str | None = None) -> dict[str, Any]:
    """
    Returns what the card of a published model says about it, see [`model_card`]; nothing if it was not published.

    Args:
        source: a folder, or a repository on the Hub.
        task: what the model is for now; results for another task are left out.
    """
    card = read_text(find_file(source, CARD))
    if card is None or read_author(card) != PUBLISHING:
        return {}
    metadata = read_metadata(card)
    facts = {name: getattr(metadata, name) for name in ("license", "license_name", "license_link", "base_model")}
    facts["datasets"] = [metadata.datasets] if isinstance(metadata.datasets, str) else metadata.datasets
    facts["tags"] = read_further_tags(card)
    results = [
        result for result in metadata.eval_results or [] if task is None or result.task_name == f"{task} segmentation"
    ]
    if results:
        facts["results"] = {result.metric_type: result.metric_value for result in results}
        facts["results_source"] = (results[0].source_name, results[0].source_url) if results[0].source_url else None
    return {name: value for name, value in facts.items() if value}

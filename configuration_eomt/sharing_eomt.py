"""What comes with saving and pushing a model or an image processor: the code that travels, and a card.

It does not matter which of the two is saved first: the second one writes the card again, with what both know.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import cached_file, logging

from .folders_eomt import draft_folder, give_usual_mode, publish
from .model_card_eomt import WRITTEN_BY_EXPORT, WRITTEN_BY_SAVE, further_tags, model_card, read_metadata


logger = logging.get_logger(__name__)

CARD = "README.md"
_PIPELINE = "pipeline_eomt.py"  # which a configuration names where code came along
_MODEL_SETTINGS, _PROCESSOR_SETTINGS = "config.json", "preprocessor_config.json"
# What `save_pretrained(..., push_to_hub=True)` is given for the push.
_HUB_OPTIONS = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
_EXPORT_IS_REPLACED = "%s is written anew: an export wrote it, and what it says was about the model before this one."


def _settings(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_eomt(config: Mapping[str, Any] | None) -> bool:
    return config is not None and config.get("model_type") in ("eomt", "eomt_dinov3")


def _may_write(card: str | None, *written_by: str) -> bool:
    return card is None or any(line in card for line in written_by)


def _card_in(folder: Path) -> str | None:
    """Text of a folder's card."""
    card = folder / CARD
    return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None


def is_export(folder: str | PathLike) -> bool:
    """Whether an export wrote the card of a folder: its facts are about the weights beside it."""
    return WRITTEN_BY_EXPORT in (_card_in(Path(folder)) or "")


def _tags_to_keep(card: str | None) -> list[str]:
    """Tags that go on from a card to the one in its place."""
    try:
        return further_tags(read_metadata(card)) if card else []
    except ValueError:
        return []


def write_model_card(folder: str | PathLike, name: str | None = None, **facts: Any) -> Path:
    """
    Writes the card of the model in a folder, over one that is there.

    Args:
        folder: a folder that holds `config.json` and perhaps `preprocessor_config.json`.
        name: what the card calls the model and tells to load; by default the folder as given.
        facts: see [`model_card`].

    Returns:
        The card's path.

    Raises:
        FileNotFoundError: the folder has no `config.json`.
    """
    folder = Path(folder)
    config = _settings(folder / _MODEL_SETTINGS)
    if config is None:
        raise FileNotFoundError(f"{folder} has no {_MODEL_SETTINGS}: save the model before its card is written.")
    card = model_card(config, _settings(folder / _PROCESSOR_SETTINGS), name or folder.as_posix(), **facts)
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder / CARD


def update_model_card(folder: str | PathLike, name: str | None = None, **facts: Any) -> None:
    """[`write_model_card`] for a model that was saved, with the former card's tags; a person's own card stays."""
    present = _card_in(Path(folder))
    if _may_write(present, WRITTEN_BY_SAVE):
        tags = [*_tags_to_keep(present), *facts.pop("tags", ())]
        write_model_card(folder, name, tags=tags, **facts)


def save_into(folder: str | PathLike, save: Callable[[Path], None], source: str | None, in_place: bool) -> None:
    """
    Saves a model: into a new folder, or in the place of the model in one, of which a kill leaves nothing mixed.

    Args:
        folder: where to.
        save: writes the model's files to a folder.
        source: what the model was loaded from, which may have code that this process has not.
        in_place: whether to write into the folder at once, as several processes do that save one model together.
    """
    folder = Path(folder)
    if in_place or not (folder / _MODEL_SETTINGS).is_file():
        save(folder)
        _finish_files(folder, source)
    else:
        with draft_folder(folder, ".saving-") as draft:
            save(draft)
            _finish_files(draft, source)
            publish(draft, folder)
    finish_saved_folder(folder, is_model=True)


def _finish_files(folder: Path, source: str | None) -> None:
    """All of a model's code, and a mode that lets others read the weights."""
    if folder.is_dir():
        _copy_code(folder)
        _copy_pipeline(folder, source)
        give_usual_mode(folder.glob("model*.safetensors"))


def _copy_code(folder: Path) -> None:
    """Puts this file, with what it needs, in the place of the one that stands in for it."""
    if (folder / Path(__file__).name).is_file():
        for name in (Path(__file__).name, "folders_eomt.py", "model_card_eomt.py", "text_eomt.py"):
            shutil.copyfile(Path(__file__).with_name(name), folder / name)


def _copy_pipeline(folder: Path, source: str | None) -> None:
    """Writes the pipeline's code to a folder: from beside this file, or from what the model was loaded from."""
    here = Path(__file__).resolve().parent
    places = [place for place in (here, here.with_name("image_processing_eomt")) if (place / _PIPELINE).is_file()]
    names, copied = [_PIPELINE], set()
    while names:
        name = names.pop()
        copied.add(name)
        file = places[0] / name if places else _file_of_source(source, name)
        if file is not None:
            shutil.copyfile(file, folder / name)
            names += {f"{module}.py" for module in get_relative_imports(file)} - copied


def _file_of_source(source: str | None, name: str) -> Path | None:
    """A file of a folder or of a repository on the Hub; None if it cannot be had."""
    try:
        file = cached_file(source, name) if source else None
    except (OSError, ValueError):  # a folder that is gone, no network: the model is saved all the same
        return None
    return Path(file) if file else None


def finish_saved_folder(folder: str | PathLike, is_model: bool = False) -> None:
    """
    What comes after a model or an image processor is saved: the folder gets this file, in the place of the one that
    stands in for it, with what it needs, and a card. A person's own card stays. So does that of an export, unless a
    model was saved: its results were another's.

    Args:
        folder: where it was saved.
        is_model: whether a model was saved.
    """
    folder = Path(folder)
    _copy_code(folder)
    config, processor = _settings(folder / _MODEL_SETTINGS), _settings(folder / _PROCESSOR_SETTINGS)
    if config is None or not _is_eomt(config):
        return
    _compare_sizes(folder, config, processor or {})
    if is_model and is_export(folder):
        logger.warning(_EXPORT_IS_REPLACED, folder / CARD)
        write_model_card(folder, tags=_tags_to_keep(_card_in(folder)))
    else:
        update_model_card(folder)


def _compare_sizes(folder: Path, config: Mapping[str, Any], processor: Mapping[str, Any]) -> None:
    """Warns where the image processor does not make the images for which the model was set."""
    of_model, size = config.get("image_size"), processor.get("size")
    edges = set(size.values()) - {None} if isinstance(size, Mapping) else {size} - {None}
    # (An image processor is saved with this file and without that of the configuration.)
    edges_of_model = set(of_model) if isinstance(of_model, list) else {of_model}
    if of_model is not None and edges and not edges & edges_of_model:
        logger.warning(
            "%s: the model is set to images of %s pixels, the image processor makes images of %s. After "
            "set_image_size give the processor the same size.",
            folder,
            of_model,
            size,
        )


def save_and_push(saved: Any, folder: str | PathLike, kwargs: dict[str, Any]) -> Any:
    """
    `saved.save_pretrained(folder, push_to_hub=True, **kwargs)`: saves, then uploads the files that were written.
    """
    options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
    repo_id = options.pop("repo_id", None) or Path(folder).resolve().name
    before = _times(Path(folder))
    result = saved.save_pretrained(folder, **kwargs)
    files = [name for name, time in _times(Path(folder)).items() if time != before.get(name)]
    _push(saved, folder, repo_id, files=files, **options)
    return result


def _times(folder: Path) -> dict[str, int]:
    """When each file of a folder was changed last, in nanoseconds."""
    files = folder.iterdir() if folder.is_dir() else ()
    return {path.name: path.stat().st_mtime_ns for path in files if path.is_file()}


def push_saved(saved: Any, repo_id: str, *, max_shard_size: int | str | None = "50GB", **options: Any) -> Any:
    """
    `push_to_hub` of a model or an image processor, `saved`, with this card.

    Args:
        options: Transformers' other parameters, see [`push_folder`].
    """
    with tempfile.TemporaryDirectory() as folder:
        saved.save_pretrained(folder, max_shard_size=max_shard_size)
        return _push(saved, folder, repo_id, **options)


def _push(saved: Any, folder: str | PathLike, repo_id: str, commit_message: str | None = None, **options: Any) -> Any:
    """[`push_folder`] with a message that names what was saved."""
    message = commit_message or f"Upload {type(saved).__name__}"
    return push_folder(folder, repo_id, commit_message=message, **options)


def push_folder(
    folder: str | PathLike,
    repo_id: str,
    *,
    files: Iterable[str] | None = None,
    card: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
) -> Any:
    """
    Uploads the files of a folder to a model repository on the Hub, which is made if there is none.

    The card that goes up is built for the repository: what is not in the folder, the image processor's settings or
    the model's, is read from the repository. A person's own card there is left alone; one in the folder goes up in
    the place of a card that is built.

    Args:
        folder: what to upload; its subfolders are not.
        repo_id: the repository, `"name"` or `"owner/name"`.
        files: names of the files to upload, by default all.
        card: the text of the card, of an export; by default it is built, and an export's card there only makes way
            for a model.
        tags: further tags of a card that is built, besides those of the card in whose place it goes.
        commit_message, commit_description, private, token, revision, create_pr: as in Transformers' `push_to_hub`.

    Returns:
        `huggingface_hub.CommitInfo`.
    """
    folder, api = Path(folder), HfApi()
    repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        try:
            api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        except HfHubHTTPError:
            if not create_pr:  # who may only propose changes may not make branches
                raise

    def there(name: str) -> str | None:
        """Text of a file in the repository."""
        if not api.file_exists(repo_id, name, revision=revision, token=token):
            return None
        file = Path(api.hf_hub_download(repo_id, name, revision=revision, token=token))
        return file.read_text(encoding="utf-8", errors="replace")

    def new_card(present: str | None) -> bytes | Path | None:
        """The card to upload in the place of the present one."""
        if card is not None:
            return card.encode()
        config, processor = (
            _settings(folder / name) or json.loads(there(name) or "null")
            for name in (_MODEL_SETTINGS, _PROCESSOR_SETTINGS)
        )
        if not _is_eomt(config):
            return None
        if present is not None and WRITTEN_BY_EXPORT in present:
            logger.warning(_EXPORT_IS_REPLACED, f"{repo_id}/{CARD}")
        if not _may_write(_card_in(folder), WRITTEN_BY_SAVE, WRITTEN_BY_EXPORT):
            return folder / CARD
        return model_card(config, processor, repo_id, tags=[*_tags_to_keep(present), *(tags or ())]).encode()

    names = sorted(files) if files is not None else sorted(path.name for path in folder.iterdir() if path.is_file())
    operations = [CommitOperationAdd(name, folder / name) for name in names if name != CARD]
    present = there(CARD)
    brings_model = card is not None or _MODEL_SETTINGS in names
    if _may_write(present, WRITTEN_BY_SAVE, *([WRITTEN_BY_EXPORT] if brings_model else [])):
        content = new_card(present)
        if content is not None:
            operations.append(CommitOperationAdd(CARD, content))
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or "Upload model",
        commit_description=commit_description,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )


__all__ = [
    "CARD",
    "finish_saved_folder",
    "is_export",
    "push_folder",
    "push_saved",
    "save_and_push",
    "save_into",
    "update_model_card",
    "write_model_card",
]

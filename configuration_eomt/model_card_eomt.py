"""Model cards: written with everything that is saved, and taken along to the Hub.

A card is built from the settings in a folder, `config.json` and `preprocessor_config.json`, so it does not matter
whether the model or its image processor is saved first: the second one writes the card again, with what both know.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from string import Formatter
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import logging
from yaml import YAMLError


logger = logging.get_logger(__name__)

CARD = "README.md"
_MODEL_SETTINGS, _PROCESSOR_SETTINGS = "config.json", "preprocessor_config.json"

# The first line below a card's metadata says who may write it anew. A card with neither line is a person's own.
WRITTEN_BY_SAVE = "<!-- Every save writes this card anew. Delete this line to keep your changes. -->"
WRITTEN_BY_EXPORT = (
    "<!-- Every export to this folder writes this card and the files beside it anew. "
    "Delete this line to protect them. -->"
)

# What `save_pretrained(..., push_to_hub=True)` is given for the push.
_HUB_OPTIONS = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
_TASKS = ("panoptic", "instance", "semantic")
_MANY_CLASSES = 20  # are folded away
_EXPORT_IS_REPLACED = "%s is written anew: an export wrote it, and what it says was about the model before this one."

CITATION = """\
```bibtex
@inproceedings{kerssies2025eomt,
  author    = {Kerssies, Tommie and Cavagnero, Niccol\\`{o} and Hermans, Alexander and Norouzi, Narges and
               Averta, Giuseppe and Leibe, Bastian and Dubbelman, Gijs and {de Geus}, Daan},
  title     = {Your {ViT} is Secretly an Image Segmentation Model},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2025},
}
```"""


def card_metadata(
    name: str,
    *,
    task: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    datasets: Iterable[str] = (),
    base_model: str | None = None,
    results: Mapping[str, float] | None = None,
    results_source: tuple[str, str] | None = None,
    tags: Iterable[str] = (),
) -> ModelCardData:
    """
    The metadata at the top of a card, https://huggingface.co/docs/hub/model-cards. Only what is given is in it.

    Args:
        name: the model's name, for its results.
        task: "panoptic", "instance" or "semantic".
        license: licence as the Hub calls it, such as "apache-2.0"; "other" comes with a `license_name` and link.
        datasets: data sets the model was trained on, named as on the Hub.
        base_model: the model on the Hub that this one was made from.
        results: metric -> value, measured on the first of `datasets`.
        results_source: name and URL of who measured them.
        tags: further tags.
    """
    datasets = list(datasets)
    measured_on = datasets[0] if datasets else "validation data"
    source_name, source_url = results_source or (None, None)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["eomt", *([f"{task}-segmentation"] if task else []), *tags],
        license=license,
        license_name=license_name,
        license_link=license_link,
        datasets=datasets or None,
        base_model=base_model,
        model_name=name if results else None,
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
            for metric, value in results.items()
        ]
        if results
        else None,
    )


def render_card(metadata: ModelCardData, *sections: str) -> str:
    """The card: metadata, then the sections that are not empty."""
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def read_metadata(card: str) -> ModelCardData:
    """
    The metadata at the top of a card's text.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return ModelCard(card).data  # type: ignore[return-value]
    except YAMLError as error:
        raise ValueError(f"The metadata at the top of {CARD} cannot be read: {error}") from error


def further_tags(metadata: ModelCardData) -> list[str]:
    """The tags that [`card_metadata`] does not give by itself."""
    return [tag for tag in metadata.tags or [] if tag not in ("eomt", *(f"{task}-segmentation" for task in _TASKS))]


def usage_snippet(name: str, has_processor: bool = True) -> str:
    """Python lines that run the model called `name`, a folder or a name on the Hub, on a `picture.jpg`."""
    model = json.dumps(name, ensure_ascii=False)
    if not has_processor:
        return f"""```python
from transformers import AutoModelForUniversalSegmentation

model = AutoModelForUniversalSegmentation.from_pretrained({model}, trust_remote_code=True)
```"""
    return f"""```python
from transformers import pipeline

segmenter = pipeline("image-segmentation", model={model}, trust_remote_code=True)
for segment in segmenter("picture.jpg"):
    print(segment["label"], segment["score"], segment["mask"].size)  # mask: a PIL image, 255 inside
```"""


def model_card(
    config: Mapping[str, Any],
    processor: Mapping[str, Any] | None,
    name: str,
    *,
    written_by: str = WRITTEN_BY_SAVE,
    results: Mapping[str, float] | None = None,
    results_source: tuple[str, str] | None = None,
    **facts: Any,
) -> str:
    """
    The card of a model.

    Args:
        config: its settings, as `config.json` has them.
        processor: its image processor's settings, as `preprocessor_config.json` has them; None: not known yet.
        name: the folder or the name on the Hub that the card tells to load.
        written_by: [`WRITTEN_BY_SAVE`] or [`WRITTEN_BY_EXPORT`].
        results, results_source, facts: see [`card_metadata`].
    """
    settings = processor or {}
    task = settings["task"] if settings.get("task") in _TASKS else None
    title = Path(name).name or Path(name).resolve().name
    metadata = card_metadata(title, task=task, results=results, results_source=results_source, **facts)
    kind = f"{task} segmentation" if task else "image segmentation"
    return render_card(
        metadata,
        written_by,
        f"# {title}",
        f"A model for {kind}: EoMT, the Encoder-only Mask Transformer ([paper](https://arxiv.org/abs/2503.19108)), a "
        "plain Vision Transformer whose last blocks process learned queries together with the patches of an image.",
        f"## Use\n\n{usage_snippet(name, processor is not None)}",
        _about_trust(processor),
        _model_section(config, settings, task, metadata),
        _classes_section(config.get("id2label"), settings.get("stuff_classes")),
        _results_section(results, results_source),
        f"## Citation\n\n{CITATION}",
    )


def _about_trust(processor: Mapping[str, Any] | None) -> str:
    if processor is None:
        return "The image processor is not saved here yet: save it to this folder too, and `pipeline` runs the model."
    text = "The code that runs is the Python files beside this card: read them before you trust them. "
    if processor.get("do_split_image"):
        return text + (
            "Without `trust_remote_code`, Transformers' own classes load model and processor, but their pipeline "
            "cannot join the windows."
        )
    return text + (
        "Without `trust_remote_code`, Transformers' own classes load this folder; they choose task and thresholds "
        "themselves."
    )


def _model_section(
    config: Mapping[str, Any], settings: Mapping[str, Any], task: str | None, metadata: ModelCardData
) -> str:
    values = {name: value for name, value in config.items() if value is not None}
    values |= {name: _pixels(values[name]) for name in ("image_size", "patch_size") if name in values}
    rows = {
        "Backbone": "ViT, {num_hidden_layers} blocks of width {hidden_size} with {num_attention_heads} heads",
        "Positions": "rotary" if config["model_type"] == "eomt_dinov3" else "learned",
        "Patches": "{patch_size} pixels",
        "Queries": "{num_queries}, in the last {num_blocks} blocks",
        "Training images": "{image_size} pixels",
    }
    rows = {
        name: text.format_map(values)
        for name, text in rows.items()
        if all(field in values for _, field, _, _ in Formatter().parse(text) if field)
    }
    if task:
        rows["Task"] = f"{task} segmentation"
    thresholds = ("threshold", "mask_threshold", "overlap_mask_area_threshold")
    if task == "panoptic" and all(name in settings for name in thresholds):
        rows["Thresholds of class score, mask and overlap"] = ", ".join(str(settings[name]) for name in thresholds)
    if metadata.datasets:
        rows["Trained on"] = ", ".join(metadata.datasets)
    if metadata.license:
        rows["Licence"] = metadata.license_name or metadata.license
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    return f"## Model\n\n| | |\n|---|---|\n{table}"


def _pixels(size: Any) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}x{width}"


def _classes_section(id2label: Mapping[Any, str | None] | None, stuff_classes: Iterable[int] | None) -> str:
    """The classes by name; `config.json` leaves out two nameless ones."""
    id2name = {int(index): " ".join(str(name or "").split()) for index, name in (id2label or {0: "", 1: ""}).items()}
    names = [id2name[index] or f"LABEL_{index}" for index in sorted(id2name)]
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return f"## Classes\n\n{len(names)} classes without names."
    stuff = set(stuff_classes or [])
    listed = ", ".join(f"{name} (stuff)" if index in stuff else name for index, name in enumerate(names))
    if len(names) > _MANY_CLASSES:
        return f"## Classes\n\n<details>\n<summary>{len(names)} classes</summary>\n\n{listed}\n\n</details>"
    return f"## Classes\n\n{len(names)}: {listed}"


def _results_section(results: Mapping[str, float] | None, source: tuple[str, str] | None) -> str:
    if not results:
        return ""
    origin = f"As [{source[0]}]({source[1]}) gives them; not measured here." if source else "On validation data."
    rows = "\n".join(f"| {metric} | {value:.4g} |" for metric, value in results.items())
    return f"## Results\n\n{origin}\n\n| Metric | Value |\n|---|---|\n{rows}"


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


def finish_saved_folder(folder: str | PathLike, is_model: bool = False) -> None:
    """
    What comes after a model or an image processor is saved: the folder gets this file in the place of the one that
    stands in for it, and a card. A person's own card stays. So does that of an export, unless a model was saved: its
    results were another's.

    Args:
        folder: where it was saved.
        is_model: whether a model was saved.
    """
    folder = Path(folder)
    stand_in = folder / Path(__file__).name
    if stand_in.is_file():
        shutil.copyfile(__file__, stand_in)
    if not _is_eomt(_settings(folder / _MODEL_SETTINGS)):
        return
    if is_model and is_export(folder):
        logger.warning(_EXPORT_IS_REPLACED, folder / CARD)
        write_model_card(folder, tags=_tags_to_keep(_card_in(folder)))
    else:
        update_model_card(folder)


def save_and_push(saved: Any, folder: str | PathLike, kwargs: dict[str, Any]) -> Any:
    """
    `saved.save_pretrained(folder, push_to_hub=True, **kwargs)`: saves, then uploads the files that were written.
    """
    options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
    repo_id = options.pop("repo_id", None) or Path(folder).resolve().name
    before = _times(Path(folder))
    result = saved.save_pretrained(folder, **kwargs)
    files = [name for name, time in _times(Path(folder)).items() if time != before.get(name)]
    options["commit_message"] = options.get("commit_message") or f"Upload {type(saved).__name__}"
    push_folder(folder, repo_id, files=files, **options)
    return result


def _times(folder: Path) -> dict[str, int]:
    """When each file of a folder was changed last, in nanoseconds."""
    files = folder.iterdir() if folder.is_dir() else ()
    return {path.name: path.stat().st_mtime_ns for path in files if path.is_file()}


def push_saved(
    saved: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str | None = "50GB",
    tags: list[str] | None = None,
) -> Any:
    """`push_to_hub` of a model or an image processor, `saved`, with Transformers' parameters and this card."""
    with tempfile.TemporaryDirectory() as folder:
        saved.save_pretrained(folder, max_shard_size=max_shard_size)
        return push_folder(
            folder,
            repo_id,
            commit_message=commit_message or f"Upload {type(saved).__name__}",
            commit_description=commit_description,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            tags=tags,
        )


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
    "CITATION",
    "WRITTEN_BY_EXPORT",
    "WRITTEN_BY_SAVE",
    "card_metadata",
    "finish_saved_folder",
    "further_tags",
    "is_export",
    "model_card",
    "push_folder",
    "push_saved",
    "read_metadata",
    "render_card",
    "save_and_push",
    "update_model_card",
    "usage_snippet",
    "write_model_card",
]

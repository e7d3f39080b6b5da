"""Model cards: what is in them.

A card is built from the settings in `config.json` and `preprocessor_config.json`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from .text_eomt import markdown_text, terminal_text


# The first line below a card's metadata says who may write it anew. A card with neither line is a person's own.
WRITTEN_BY_SAVE = "<!-- Every save writes this card anew. Delete this line to keep your changes. -->"
WRITTEN_BY_EXPORT = (
    "<!-- Every export to this folder writes this card and the files beside it anew. "
    "Delete this line to protect them. -->"
)

_TASKS = ("panoptic", "instance", "semantic")
_MANY_CLASSES = 20  # are folded away

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
        raise ValueError(f"The metadata at the top of the card cannot be read: {error}") from error


def further_tags(metadata: ModelCardData) -> list[str]:
    """The tags that [`card_metadata`] does not give by itself."""
    return [tag for tag in metadata.tags or [] if tag not in ("eomt", *(f"{task}-segmentation" for task in _TASKS))]


def usage_snippet(name: str, has_processor: bool = True) -> str:
    """Python lines that run the model called `name`, a folder or a name on the Hub, on a `picture.jpg`."""
    model = json.dumps(name, ensure_ascii=not name.isprintable())
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
    sections: Iterable[str] = (),
    **facts: Any,
) -> str:
    """
    The card of a model.

    Args:
        config: its settings, as `config.json` has them.
        processor: its image processor's settings, as `preprocessor_config.json` has them; None: not known yet.
        name: the folder or the name on the Hub that the card tells to load.
        written_by: [`WRITTEN_BY_SAVE`] or [`WRITTEN_BY_EXPORT`].
        sections: what else there is to say, in Markdown, after the classes.
        results, results_source, facts: see [`card_metadata`].
    """
    settings = processor or {}
    task = settings["task"] if settings.get("task") in _TASKS else None
    title = Path(name).name or Path(name).resolve().name
    metadata = card_metadata(terminal_text(title), task=task, results=results, results_source=results_source, **facts)
    kind = f"{task} segmentation" if task else "image segmentation"
    return render_card(
        metadata,
        written_by,
        f"# {markdown_text(title)}",
        f"A model for {kind}: EoMT, the Encoder-only Mask Transformer ([paper](https://arxiv.org/abs/2503.19108)), a "
        "plain Vision Transformer whose last blocks process learned queries together with the patches of an image.",
        f"## Use\n\n{usage_snippet(name, processor is not None)}",
        _about_trust(processor),
        _model_section(config, settings, task, metadata),
        _classes_section(config.get("id2label"), settings.get("stuff_classes")),
        *sections,
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
    table = "\n".join(f"| {name} | {markdown_text(text)} |" for name, text in rows.items())
    return f"## Model\n\n| | |\n|---|---|\n{table}"


def _pixels(size: Any) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}x{width}"


def _classes_section(id2label: Mapping[Any, str | None] | None, stuff_classes: Iterable[int] | None) -> str:
    """The classes by name; `config.json` leaves out two nameless ones."""
    id2name = {int(index): markdown_text(name or "") for index, name in (id2label or {0: "", 1: ""}).items()}
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
    origin = "On validation data."
    if source:
        name, address = markdown_text(source[0]), quote(source[1], safe="/:?=&%#+,;@~")
        link = f"[{name}]({address})" if address.startswith(("https://", "http://")) else name
        origin = f"As {link} gives them; not measured here."
    rows = "\n".join(f"| {markdown_text(metric)} | {value:.4g} |" for metric, value in results.items())
    return f"## Results\n\n{origin}\n\n| Metric | Value |\n|---|---|\n{rows}"


__all__ = [
    "CITATION",
    "WRITTEN_BY_EXPORT",
    "WRITTEN_BY_SAVE",
    "card_metadata",
    "further_tags",
    "model_card",
    "read_metadata",
    "render_card",
    "usage_snippet",
]

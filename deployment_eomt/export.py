"""Exporting a model: the function behind `python -m deployment_eomt`."""

from __future__ import annotations

import difflib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from configuration_eomt import EomtConfig
from configuration_eomt.configuration_eomt import as_pair
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation

from .formats import FORMATS, Format, Options
from .raw import AXES, build_raw_graph


MANIFEST = "export.json"


def export_model(
    model_name_or_path: str | PathLike,
    output_dir: str | PathLike,
    format: str = "onnx",
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic: Sequence[str] = ("batch",),
    opset: int = 20,
) -> Path:
    """
    Writes a model as a graph of another runtime.

    Args:
        model_name_or_path: a folder or a model on the Hub, of this project or of Transformers' own EoMT classes.
        output_dir: folder to write: new, empty, or an earlier export, which is replaced.
        format: a key of `FORMATS`.
        image_size: height and width in pixels, one int for a square; by default what the model is made for.
        dynamic: which of "batch", "height" and "width" are left open.
        opset: version of the ONNX operators.

    Returns:
        The folder.
    """
    chosen = find_format(format)
    check_packages(chosen)
    folder = Path(output_dir)
    check_target(folder)
    model, image_processor = load_model(model_name_or_path)
    if image_size is not None:
        model.set_image_size(image_size)
        image_processor.size = {"height": model.config.image_size, "width": model.config.image_size}
    graph = build_raw_graph(model, tuple(name for name in AXES if name in dynamic))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        draft = Path(name)
        metadata = chosen.write(graph, draft, Options(opset))
        # Without the code that save_pretrained would write beside them.
        write_json(draft / "config.json", model.config.to_diff_dict())
        write_json(draft / "preprocessor_config.json", json.loads(image_processor.to_json_string()))
        entry = {"file": chosen.file, "metadata": dict(metadata)}
        manifest = {
            "schema_version": 1,
            "export_format": chosen.name,
            "components": {"model": entry},
            "eomt": {
                "kind": "raw",
                "task": image_processor.task,
                "precision": "float32",
                "opset": opset,
                "dynamic": [name for name in AXES if name in dynamic],
                "image_size": list(as_pair(model.config.image_size)),
                "patch_size": list(as_pair(model.config.patch_size)),
                "inputs": list(graph.example_inputs),
                "outputs": list(graph.output_names),
            },
        }
        write_json(draft / MANIFEST, manifest)
        replace_folder(draft, folder)
    return folder


def find_format(name: str) -> Format:
    """Returns an entry of `FORMATS`. Raises a `ValueError` that names the nearest one, if there is none."""
    if name not in FORMATS:
        similar = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" Did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"There is no format {name!r}, only {', '.join(FORMATS)}.{hint}")
    return FORMATS[name]


def check_packages(chosen: Format) -> None:
    """Raises an `ImportError` that names the extra, if a package of a format is not installed."""
    missing = [name for name in chosen.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"The format {chosen.name!r} needs {', '.join(missing)}: pip install 'eomt-transformers[{chosen.extra}]'"
        )


def load_model(name: str | PathLike) -> tuple[EomtForUniversalSegmentation, Any]:
    """Loads a model in float32, in evaluation mode, and its image processor."""
    kind = EomtConfig.get_config_dict(name)[0].get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_CLASSES:
        raise ValueError(f"{name} holds no EoMT model, but model_type={kind!r}.")
    model = MODEL_CLASSES[kind].from_pretrained(name, dtype=torch.float32).eval().requires_grad_(False)
    return model, EomtImageProcessor.from_pretrained(name)


def check_target(folder: Path) -> None:
    """Raises a `FileExistsError` if a folder holds something else than an earlier export."""
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / MANIFEST).is_file()):
        return
    if folder.exists():
        raise FileExistsError(f"{folder} holds something else than an export: choose another folder.")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes settings, without the names of code that is not there."""
    content = {name: value for name, value in content.items() if name != "auto_map"}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def replace_folder(draft: Path, folder: Path) -> None:
    """Moves the files of a finished draft into their place."""
    folder.mkdir(exist_ok=True)
    for path in draft.iterdir():
        shutil.move(path, folder / path.name)

"""Exporting a model: the function behind `python -m deployment_eomt`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import shutil
import warnings
from collections.abc import Collection, Iterator
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from configuration_eomt.configuration_eomt import as_pair
from image_processing_eomt.geometry_eomt import parse_size
from image_processing_eomt.settings_eomt import check_settings
from loading_eomt import find_checkpoint
from modeling_eomt import EomtForUniversalSegmentation

from .folder import MANIFEST, OWN, check_target, draft_folder, publish_draft, write_json
from .formats import Format, Graph, Options, find_format
from .precision import CALIBRATED, choose_precision, find_precision, list_images, lower_graph, read_calibration
from .predict import RUNTIMES
from .raw import AXES, build_raw_graph
from .report import InaccurateExportError, compare
from .segmenter import build_segmenter_graph


logger = logging.getLogger(__name__)

PROCESSOR = "preprocessor_config.json"
KINDS = ("raw", "segmenter")
DEVICES = ("cpu", "cuda")  # of a graph of PyTorch's
# What runs a graph, by its name here and in the folder.
CARRIED = {"predict.py": "predict.py", "decoder.py": "eomt_decoder.py"}


def export_model(
    model_name_or_path: str | PathLike,
    output_dir: str | PathLike,
    format: str = "onnx",
    *,
    kind: str = "raw",
    task: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    dynamic: Collection[str] | None = None,
    opset: int = 20,
    compile: bool = False,
    device: str = "cpu",
    precision: str = "float32",
    instruction_set: str | None = None,
    calibration_data: str | PathLike | None = None,
    report_images: str | PathLike | int | None = None,
    dataset: str | PathLike | None = None,
    allow_inaccurate: bool = False,
) -> Path:
    """
    Writes a model as a graph of another runtime, into a folder that needs neither PyTorch nor this project.

    There are two kinds of graph. "raw" takes `pixel_values`, `(batch, 3, height, width)`, normalised as
    `preprocessor_config.json` says, and returns `masks_queries_logits` and `class_queries_logits`. A size that it is
    not for is an error of the graph, and never cropped; with `compile` the caller has to see to it. "segmenter" takes
    one `image` of bytes and returns the task's result, with the settings that the image processor has now, see
    [`Segmenter`].

    With either, `predict.py` in the folder segments an image; it needs the runtime, NumPy and Pillow.

    Args:
        model_name_or_path: a folder or a model on the Hub, written by this project or by Transformers' own classes.
        output_dir: folder to write: new, empty, or an earlier export, which is replaced.
        format: a key of `FORMATS`: "onnx", "openvino", "torch"...
        kind: "raw", for whoever wants thresholds and speed in hand, or "segmenter", for whoever wants segments.
        task: what the model is for: "panoptic", "instance" or "semantic"; by default what the checkpoint says.
        image_size: height and width in pixels, one int for a square; by default the image processor's. Position
            embeddings are resampled to it once.
        dynamic: of a raw graph, what may change from run to run, of "batch", "height" and "width"; by default the
            batch. Heights and widths that may are multiples of the patch size.
        opset: version of the operators of "onnx" and "tensorrt". From 23 on, attention is an operator of its own.
        compile: for raw graphs of "torch": whether AOTInductor compiles the graph, for machines like this one.
        device: for raw graphs of "torch": what they run on, "cpu" or "cuda".
        precision: an entry of `PRECISIONS` for the format, or "int8" for the best that it has with 8 bits.
        instruction_set: for 8 bits: a key of `INSTRUCTION_SETS`, of the processor the graph is for; by default this
            machine's.
        calibration_data: for "int8_static": a folder of images like those that the model will see.
        report_images: what the export is compared on with the model: a folder of images, or a number of generated
            scenes; 0 for no report. By default a few scenes in float32, and 100 in lower precisions.
        dataset: a dataset on which the task's metrics are computed with both.
        allow_inaccurate: whether an export that is below the bar of its precision is written nevertheless.

    Returns:
        The folder. Its `export.json` has the report.

    Raises:
        FileExistsError: the folder holds something else.
        InaccurateExportError: the export is below the bar; nothing is written.
        ImportError: a package that the format needs is missing or too old.
        OSError: there is no such model, or the folder cannot be written.
        ValueError: no EoMT model, a quantised one, or an argument that does not fit it.
    """
    target = find_format(format)
    target.check_installed()
    dynamic = check_kind(kind, target, dynamic)
    if compile and target.name != "torch":
        raise ValueError(f"compile=True is for the format 'torch', not {target.name!r}.")
    if compile and kind != "raw":
        raise ValueError("compile=True is for raw graphs: AOTInductor fails on sizes that depend on the image.")
    check_device(device, target, kind)
    check_calibration(find_precision(precision, target.name), kind, calibration_data)
    check_settings({"task": task})
    report_on: Any = list_images(report_images) if isinstance(report_images, str | PathLike) else report_images
    folder = Path(output_dir)
    check_target(folder)

    logger.info("Loading %s", model_name_or_path)
    model, image_processor = load_model(model_name_or_path, task, image_size)
    calibration = [] if calibration_data is None else read_calibration(calibration_data, image_processor)
    chosen = choose_precision(precision, target.name, instruction_set, calibration)
    graph = lower_graph(build_graph(model, image_processor, kind, target, dynamic), chosen, target.name)
    labels = {int(label): name for label, name in (model.config.id2label or {}).items()}
    graph = dataclasses.replace(graph, labels=tuple(name for _, name in sorted(labels.items())))
    with draft_folder(folder) as draft:
        logger.info("Writing %s", target.file)
        with quietly():
            metadata = target.write(graph, draft, Options(opset, compile, device, chosen))
        write_json(draft / "config.json", model.config.to_diff_dict())
        write_json(draft / PROCESSOR, json.loads(image_processor.to_json_string()))
        for source, copied in CARRIED.items():
            shutil.copyfile(Path(__file__).with_name(source), draft / copied)
        own: dict[str, Any] = {
            "kind": kind,
            "format": target.name,
            "task": image_processor.task,
            "precision": chosen.name,
            "opset": opset,
            "compile": compile,
            "dynamic": sorted({name for axes in graph.dynamic_shapes.values() for name in axes.values()}),
            "resizes": kind == "segmenter" and target.resizes,
            "image_size": list(as_pair(model.config.image_size)),
            "patch_size": list(as_pair(model.config.patch_size)),
            "inputs": list(graph.example_inputs),
            "outputs": list(graph.output_names),
            **({"device": device} if target.name == "torch" else {}),
            "versions": {name: version(name) for name in ("torch", "transformers")} | metadata.get("packages", {}),
            "files": sorted([*(path.name for path in draft.iterdir()), MANIFEST]),
        }
        manifest = {
            "schema_version": 1,
            "export_format": target.export_format,
            "components": {"model": {"file": target.file, "metadata": dict(metadata)}},
            OWN: own,
        }
        write_json(draft / MANIFEST, manifest)
        if report_on != 0 and target.name in RUNTIMES:
            logger.info("Comparing with the model")
            report = compare(draft, model, image_processor, report_on, dataset)
            if report.find_failures() and not allow_inaccurate:
                raise InaccurateExportError(
                    f"{report}\nNothing is written, unless inaccurate exports are allowed (--allow_inaccurate)."
                )
            logger.info("%s", report)
            own["report"] = report.as_dict()
            write_json(draft / MANIFEST, manifest)
        publish_draft(draft, folder)
    return folder


def load_model(
    name: str | PathLike, task: str | None = None, image_size: int | tuple[int, int] | None = None
) -> tuple[EomtForUniversalSegmentation, Any]:
    """
    Loads a model, in float32 and in evaluation mode, and its image processor.

    Args:
        name: a folder or a model on the Hub.
        task: of the image processor; None for the stored one.
        image_size: what both are set to; None for the processor's size.

    Raises:
        OSError: there is no such model.
        ValueError: no EoMT model, a quantised one, no image processor, or a size that the patch size does not divide.
    """
    checkpoint = find_checkpoint(name)
    if checkpoint.settings.get("quantization_config"):
        raise ValueError(f"{name} is quantised already: export the checkpoint that it was made of.")
    given = {"task": task, "size": image_size}
    image_processor = checkpoint.load_image_processor(
        **{setting: value for setting, value in given.items() if value is not None}
    )
    model = checkpoint.load_model(dtype=torch.float32).requires_grad_(False)
    model.set_image_size(parse_size(image_processor.size))
    return model, image_processor


def check_kind(kind: str, target: Format, dynamic: Collection[str] | None) -> Collection[str]:
    """Returns what is left open of a graph. Raises a `ValueError` for a kind or an axis that does not exist."""
    if kind not in KINDS:
        raise ValueError(f"There is no kind {kind!r}, only {' and '.join(KINDS)}.")
    if kind == "segmenter" and not target.has_segmenters:
        raise ValueError(f"The format {target.name!r} has raw graphs only; predict.py beside them finds the segments.")
    if kind != "raw" and dynamic is not None:
        raise ValueError("dynamic is for raw graphs: what a segmenter leaves open depends on the format.")
    if dynamic is None:
        return ("batch",)
    if isinstance(dynamic, str) or not set(dynamic) <= set(AXES):
        raise ValueError(f"dynamic={dynamic!r}: expected a list of {', '.join(AXES)}.")
    return dynamic


def check_device(device: str, target: Format, kind: str) -> None:
    """Raises a `ValueError` for a device that there is not, or that a graph is not for."""
    if device not in DEVICES:
        raise ValueError(f"There is no device {device!r}, only {' and '.join(DEVICES)}.")
    if device != "cpu" and target.name != "torch":
        raise ValueError(f"device={device!r} is for the format 'torch': in {target.name!r} the runtime chooses.")
    if device != "cpu" and kind != "raw":
        raise ValueError(f"device={device!r} is for raw graphs: segmenters are exported for the CPU.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("A graph for 'cuda' is exported where there is an NVIDIA GPU, and there is none.")


def check_calibration(precision: str, kind: str, calibration_data: str | PathLike | None) -> None:
    """Raises a `ValueError` for calibration images of no use, or a precision that needs them in a graph without."""
    if precision == CALIBRATED and kind != "raw":
        raise ValueError(f"{precision} is for raw graphs: a segmenter cannot be calibrated with images.")
    if precision != CALIBRATED and calibration_data is not None:
        raise ValueError(f"calibration_data is for {CALIBRATED}, and {precision} takes no images.")


def build_graph(
    model: EomtForUniversalSegmentation, image_processor: Any, kind: str, target: Format, dynamic: Collection[str]
) -> Graph:
    """
    Describes a graph, see [`export_model`].

    Raises:
        ValueError: the image processor's pixel values have other sizes than the graph takes, or it has settings that a
            segmenter cannot follow.
    """
    if kind == "segmenter":
        return build_segmenter_graph(model, image_processor, resizes=target.resizes, max_segments=target.max_segments)
    is_fixed = image_processor.do_pad or image_processor.do_split_image
    if not is_fixed and not {"height", "width"} <= set(dynamic):
        raise ValueError(
            "The image processor has do_pad=False, so that every image gives pixel values of its own size: leave "
            "height and width open (--dynamic batch height width), or set do_pad=True in its preprocessor_config.json."
        )
    return build_raw_graph(model, dynamic)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps to itself what exporters print and warn of on their way; errors say what they have to."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)

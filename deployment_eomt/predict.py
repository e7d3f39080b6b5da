"""
Segments images with an exported model: needs the graph's runtime, NumPy and Pillow, and nothing else.

    python predict.py photo.jpg --json segments.json --overlay segments.png

It lies in the folder of the graph, beside `eomt_decoder.py`. In Python, with that folder on the path:

    from predict import Segmenter
    segments = Segmenter(folder)("photo.jpg")
"""

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


if __package__:
    from . import decoder
else:  # in the folder of the graph
    import eomt_decoder as decoder  # type: ignore[import-not-found,no-redef]


MAX_IMAGE_PIXELS = 100_000_000
ORIENTATION = 0x0112  # EXIF's tag
# What turns an image upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Arrays = dict[str, np.ndarray]


class Graph:
    """
    An exported graph in its runtime: takes arrays by name, returns arrays by name.

    description: what `export.json` says about the graph: `kind`, `inputs`, `outputs`, `image_size`, ...
    """

    def __init__(self, run: Callable[[Arrays], Arrays], description: Mapping[str, Any]):
        self.run, self.description = run, description

    def __call__(self, **inputs: np.ndarray) -> Arrays:
        """
        Raises:
            ValueError: `pixel_values` are of a size that the graph is not for.
        """
        if "pixel_values" in inputs:
            self.check_size(inputs["pixel_values"].shape[2:])
        return self.run(inputs)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raises a `ValueError` for a `(height, width)` that the graph is not for: runtimes may crop it silently."""
        made_for, patch_size = self.description["image_size"], self.description["patch_size"]
        for name, length, fixed, patch in zip(("height", "width"), size, made_for, patch_size):
            if name not in self.description["dynamic"] and length != fixed:
                raise ValueError(
                    f"The graph takes a {name} of {fixed} pixels, got {length}. Export it with dynamic height and "
                    "width for other sizes."
                )
            if length % patch:
                raise ValueError(f"The {name} of {length} pixels is not divisible by the patch size, {patch}.")


def load_graph(folder: str | PathLike, threads: int | None = None) -> Graph:
    """
    Loads the graph of an exported folder into its runtime.

    Args:
        folder: the exported folder.
        threads: how many onnxruntime and OpenVINO compute with; by default as many as they see fit. Of PyTorch and
            ExecuTorch the caller sets the number for the whole process.

    Raises:
        OSError: the folder holds no export, or a file is missing.
        ValueError: its `export.json` is not one of this project, or of a format that is not run here.
        ImportError: the runtime is not installed.
    """
    path = Path(folder, "export.json")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no exported model: it holds no export.json.")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    try:
        description = manifest["eomt"]
        format = description["format"]
        file = Path(folder, manifest["components"]["model"]["file"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} has no {error}: export the model with `python -m deployment_eomt`.") from error
    if format not in RUNTIMES:
        raise ValueError(f"{path} is of the format {format!r}, and only {', '.join(RUNTIMES)} are run here.")
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing, the graph that {path.name} names.")
    package, load = RUNTIMES[format]
    try:
        runtime = importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{file.name} runs in {package}: pip install {package.split('.')[0]} ({error})") from error
    return Graph(load(runtime, file, description, threads), description)


def load_onnx(
    onnxruntime: Any, file: Path, description: Mapping[str, Any], threads: int | None
) -> Callable[[Arrays], Arrays]:
    """Loads an ONNX graph, on an NVIDIA GPU where this build of onnxruntime can."""
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait take no time
    options.intra_op_num_threads = threads or 0  # 0: one per core
    session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs)))


def load_openvino(
    openvino: Any, file: Path, description: Mapping[str, Any], threads: int | None
) -> Callable[[Arrays], Arrays]:
    """Loads an OpenVINO graph, in the precision that it was exported in: by itself OpenVINO may take bfloat16."""
    config: dict[str, Any] = {} if description["precision"] == "bfloat16" else {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    model = openvino.Core().compile_model(str(file), "CPU", config)
    names = description["outputs"]  # OpenVINO keeps their order, and gives some of them other names besides
    return lambda inputs: dict(zip(names, model(inputs, share_outputs=False).values()))


def load_torch(
    torch: Any, file: Path, description: Mapping[str, Any], threads: int | None
) -> Callable[[Arrays], Arrays]:
    """Loads a program of `torch.export`, or what AOTInductor has compiled of it, onto the device that it is for."""
    device = description.get("device", "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{file.name} is for an NVIDIA GPU, and PyTorch finds none.")
    if description.get("compile"):
        module = torch._inductor.aoti_load_package(str(file))
    else:
        module = torch.export.load(str(file)).module()

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode(), exact_convolutions(torch, device):
            outputs = module(**{name: torch.tensor(array, device=device) for name, array in inputs.items()})
        return {name: outputs[name].float().cpu().numpy() for name in description["outputs"]}

    return run


def exact_convolutions(torch: Any, device: str) -> AbstractContextManager:
    """Keeps cuDNN from rounding the inputs of float32 convolutions to 10 bits, which it does by itself."""
    if device != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False)


def load_executorch(
    runtime: Any, file: Path, description: Mapping[str, Any], threads: int | None
) -> Callable[[Arrays], Arrays]:
    """Loads a program of ExecuTorch."""
    torch = importlib.import_module("torch")  # a part of executorch's Python runtime
    method = runtime.Runtime.get().load_program(file).load_method("forward")

    def run(inputs: Arrays) -> Arrays:
        outputs = method.execute([torch.from_numpy(inputs[name]) for name in description["inputs"]])
        return {name: output.numpy() for name, output in zip(description["outputs"], outputs)}

    return run


# What runs a graph, by its format: the package, and the function that loads a file.
RUNTIMES: dict[str, tuple[str, Callable[..., Callable[[Arrays], Arrays]]]] = {
    "onnx": ("onnxruntime", load_onnx),
    "tensorrt": ("onnxruntime", load_onnx),  # the ONNX graph that engines are built from
    "openvino": ("openvino", load_openvino),
    "torch": ("torch", load_torch),
    "executorch": ("executorch.runtime", load_executorch),
}


class Segmenter:
    """
    Image segmentation with an exported model.

    Args:
        folder: the exported folder.
        threads: see [`load_graph`].

    Raises what [`load_graph`] raises, and a `ValueError` for settings that images cannot be processed with.
    """

    def __init__(self, folder: str | PathLike, threads: int | None = None):
        self.settings = decoder.Settings.read(folder)
        self.graph = load_graph(folder, threads)

    def __call__(self, image: Any) -> list[dict[str, Any]]:
        """
        Returns the segments of an image.

        Args:
            image: a path, a PIL image, or an upright `(height, width, 3)` uint8 array of RGB.

        Returns:
            For each segment `label`, `label_id`, `score` (None in semantic segmentation), `area` in pixels, `bbox` as
            `[x, y, width, height]` in pixels and `segmentation`, its mask in COCO's run lengths.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is no image, or not one for this graph.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        if self.graph.description["kind"] == "segmenter":
            return self._describe(pixels)
        outputs = [self.graph(pixel_values=inputs) for inputs in decoder.preprocess(pixels, self.settings)]
        masks, classes = (
            np.concatenate([output[name] for output in outputs])
            for name in ("masks_queries_logits", "class_queries_logits")
        )
        return decoder.segment(masks, classes, pixels.shape[:2], self.settings)

    def _describe(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        """Returns the segments of a graph that does all but resizing, or that too, by itself."""
        settings, size = self.settings, decoder.check_image(pixels)
        inputs, names = {"image": pixels}, self.graph.description["inputs"]
        view = decoder.compute_view(size, settings)  # which refuses images that are too long to be cut into windows
        if not self.graph.description.get("resizes", "content_size" not in names):
            inputs["image"] = decoder.resize(pixels, view.content_size, settings.resample, settings.pillow)
            if "content_size" in names:
                inputs["content_size"] = np.array(view.content_size, dtype=np.int64)
                inputs["image"] = decoder.pad(inputs["image"], view.input_size)
            size = view.content_size
        outputs = self.graph(**inputs)
        maps = outputs["masks" if settings.task == "instance" else "segmentation"]
        maps = decoder.resize_nearest(maps[..., : size[0], : size[1]], pixels.shape[:2])
        if settings.task == "semantic":
            return decoder.describe_classes(maps, settings)
        count = int(outputs["num_segments"]) if "num_segments" in outputs else len(outputs["labels"])
        masks = (maps[index] if settings.task == "instance" else maps == index for index in range(count))
        return [
            decoder.describe_mask(mask, int(label), float(score), settings)
            for mask, label, score in zip(masks, outputs["labels"], outputs["scores"])
            if mask.any()
        ]


def read_image(image: Any) -> np.ndarray:
    """
    Returns an image as `(height, width, 3)` uint8, turned upright, its transparency dropped.

    Args:
        image: a path, or a PIL image of any mode.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, too large, or its values are no brightness.
    """
    if isinstance(image, Image.Image):
        return _as_rgb(_turn_upright(image), "The image")
    path = Path(image)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with Image.open(path) as opened:
            if math.prod(opened.size) > MAX_IMAGE_PIXELS:
                raise ValueError(f"it has {math.prod(opened.size):,} pixels, more than {MAX_IMAGE_PIXELS:,}")
            return _as_rgb(_turn_upright(opened), str(path))
    except Exception as error:  # Pillow's decoders raise errors of any kind
        raise ValueError(f"{path} cannot be read as an image: {str(error) or type(error).__name__}") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turns an image as its EXIF orientation says."""
    # Pillow turns TIFFs upright itself, as soon as they are decoded.
    orientation = image.getexif().get(ORIENTATION, 1) if image.format != "TIFF" else 1
    image.load()
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _as_rgb(image: Image.Image, where: str) -> np.ndarray:
    """Returns an upright image of any mode as 8-bit RGB: 16-bit values divided by 257, floating point times 255."""
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"{where} is of floating point, and its values are not from 0 to 1.")
        image = Image.fromarray(np.rint(values * np.float32(255)).astype(np.uint8))
    elif image.mode.startswith("I"):
        integers = np.asarray(image).astype(np.int64)
        if integers.min() < 0 or integers.max() >= 2**16:
            raise ValueError(f"{where} holds integers from {integers.min()} to {integers.max()}, not 0 to 65535.")
        is_16_bit = image.mode.startswith("I;16") or integers.max() > 255
        image = Image.fromarray(((integers + 128) // 257 if is_16_bit else integers).astype(np.uint8))
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # or Pillow warns that transparency is lost
    return np.asarray(image.convert("RGB"))


def main(arguments: list[str] | None = None) -> None:
    """The command line, see `--help`."""
    parser = argparse.ArgumentParser(description="Segments an image with the exported model in this folder.")
    parser.add_argument("image", metavar="IMAGE", help="the file of an image")
    parser.add_argument("--json", metavar="FILE", help="file to write the segments to, masks in COCO's run lengths")
    parser.add_argument("--overlay", metavar="FILE", help="image file to write, with the segments painted over it")
    options = parser.parse_args(arguments)
    try:
        image = read_image(options.image)
        segments = Segmenter(Path(__file__).parent)(image)
        if options.json:
            Path(options.json).write_text(json.dumps(segments, indent=1) + "\n", encoding="utf-8")
        if options.overlay:
            Image.fromarray(decoder.draw(image, segments)).save(options.overlay)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    for segment in segments:
        score = "" if segment["score"] is None else f"{segment['score']:.3f}"
        print(f"{segment['label']:<24} {score:>5}  area {segment['area']}  bbox {segment['bbox']}")
    print(f"{len(segments)} segment{'' if len(segments) == 1 else 's'}.")


if __name__ == "__main__":
    main()

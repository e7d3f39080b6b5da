"""`predict.py`: segments of an exported model without PyTorch."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from deployment_eomt import export_model
from deployment_eomt.predict import RUNTIMES, Graph, Segmenter, load_graph, read_image
from deployment_eomt.segmenter import build_segmenter_graph
from image_processing_eomt import EomtImageProcessor, EomtImageSegmentationPipeline
from image_processing_eomt.reading_eomt import as_rgb, load_upright
from modeling_eomt import EomtForUniversalSegmentation


# Of every task, with settings under which the tiny model finds segments.
TASKS = {
    "panoptic": {"threshold": 0.25, "stuff_classes": [2], "overlap_mask_area_threshold": 0.0},
    "instance": {"threshold": 0.2, "top_k": 6},
    "semantic": {},
}


def make_pipeline(folder) -> EomtImageSegmentationPipeline:
    model = EomtForUniversalSegmentation.from_pretrained(folder).eval()
    return EomtImageSegmentationPipeline(model=model, image_processor=EomtImageProcessor.from_pretrained(folder))


def compare(segments, expected):
    """The segments are those of the pipeline: pixel for pixel, and scores to what another runtime adds up."""
    assert [segment["label"] for segment in segments] == [segment["label"] for segment in expected]
    assert segments
    for one, other in zip(segments, expected, strict=True):
        mask = coco_mask.decode(one["segmentation"])
        np.testing.assert_array_equal(mask * 255, np.asarray(other["mask"]))
        assert one["area"] == mask.sum()
        assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.fixture
def run_predict(tmp_path):
    """Runs the file in a folder, in a Python in which nothing but the runtime, NumPy and Pillow can be imported."""

    def run(
        folder, *arguments, blocked=("torch", "transformers", "scipy", "deployment_eomt", "image_processing_eomt")
    ):
        (tmp_path / "sitecustomize.py").write_text(
            f"import sys\nclass Blocked:\n    def find_spec(self, name, path=None, target=None):\n"
            f"        if name.split('.')[0] in {blocked}:\n            raise ModuleNotFoundError(f'no {{name}}')\n"
            "sys.meta_path.insert(0, Blocked())\n"
        )
        command = [sys.executable, str(folder / "predict.py"), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_file_in_the_folder_gives_the_segments_of_the_pipeline(exported, photograph, run_predict, tmp_path, task):
    checkpoint, folder = exported.for_task(tmp_path, task, **TASKS[task])
    done = run_predict(folder, photograph, "--json", "out.json", "--overlay", "out.png")
    assert done.returncode == 0, done.stderr
    segments = json.loads((tmp_path / "out.json").read_text())
    compare(segments, make_pipeline(checkpoint)(str(photograph)))
    assert len(segments) > 1
    assert f"{len(segments)} segments." in done.stdout
    assert all(set(one) == {"label", "label_id", "score", "area", "bbox", "segmentation"} for one in segments)
    with Image.open(tmp_path / "out.png") as overlay:
        assert overlay.size == (90, 150)  # upright
        assert (np.asarray(overlay) != read_image(photograph)).any()


@pytest.mark.slow
def test_a_segmenter_takes_paths_images_and_arrays(exported, photograph, tmp_path):
    _, folder = exported.for_task(tmp_path, "instance", **TASKS["instance"])
    segmenter = Segmenter(folder)
    segments = segmenter(photograph)
    with Image.open(photograph) as image:
        assert segmenter(image) == segments
    assert segmenter(read_image(photograph)) == segments
    with pytest.raises(ValueError, match="must be"):
        segmenter(np.zeros((8, 8), np.uint8))


@pytest.mark.slow
def test_errors_are_one_line_each(exported, photograph, run_predict, tmp_path):
    folder = tmp_path / "graph"
    shutil.copytree(exported.folder, folder)
    (tmp_path / "text.png").write_text("no image")
    for arguments, message in (
        (["missing.jpg"], "There is no file missing.jpg"),
        ([tmp_path / "text.png"], "cannot be read as an image"),
        ([photograph, "--overlay", "out.nonsense"], "unknown file extension"),
    ):
        done = run_predict(folder, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("error: ") and message in done.stderr
    assert "pip install onnxruntime" in run_predict(folder, photograph, blocked=("onnxruntime",)).stderr
    (folder / "model.onnx").unlink()
    assert "model.onnx is missing" in run_predict(folder, photograph).stderr
    (folder / "export.json").write_text("{}")
    assert "export the model with" in run_predict(folder, photograph).stderr
    (folder / "export.json").unlink()
    assert "holds no export.json" in run_predict(folder, photograph).stderr


@pytest.mark.slow
def test_a_size_that_does_not_fit_is_refused(exported):
    graph = load_graph(exported.folder)
    for size, message in (((64, 80), "takes a width of 64 pixels, got 80"), ((48, 64), "takes a height of 64")):
        with pytest.raises(ValueError, match=message):
            graph(pixel_values=np.zeros((1, 3, *size), np.float32))
    graph = Graph(graph.run, {**graph.description, "dynamic": ["batch", "height", "width"]})
    with pytest.raises(ValueError, match="width of 70 pixels is not divisible by the patch size, 16"):
        graph(pixel_values=np.zeros((1, 3, 64, 70), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "torch", "executorch"])
def test_every_runtime_gives_the_logits_of_the_model(exported, tmp_path, format):
    pytest.importorskip(RUNTIMES[format][0])
    model = EomtForUniversalSegmentation.from_pretrained(exported.checkpoint).eval()
    dynamic = () if format == "executorch" else ("batch",)
    try:
        folder = export_model(exported.checkpoint, tmp_path / "out", format, dynamic=dynamic)
    except ValueError as error:
        pytest.skip(str(error))
    graph = load_graph(folder)
    pixel_values = torch.randn(3 if dynamic else 1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values)
    outputs = graph(pixel_values=pixel_values.numpy())
    assert list(outputs) == ["masks_queries_logits", "class_queries_logits"]
    for name, logits in outputs.items():
        assert np.abs(logits - expected[name].numpy()).max() <= 1e-5 * expected[name].abs().max()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("resizes", [True, False])
def test_graphs_that_segment_by_themselves(exported, photograph, tmp_path, task, resizes):
    """The graph is the module that is exported: what counts is what goes in, and what is made of what comes out."""
    checkpoint, folder = exported.for_task(tmp_path, task, **TASKS[task])
    pipeline = make_pipeline(checkpoint)
    graph = build_segmenter_graph(pipeline.model, pipeline.image_processor, resizes=resizes)

    def run(inputs):
        with torch.no_grad():
            outputs = graph.module(**{name: torch.from_numpy(array.copy()) for name, array in inputs.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    segmenter = Segmenter(folder)
    segmenter.graph = Graph(run, {"kind": "segmenter", "inputs": list(graph.example_inputs), "resizes": resizes})
    if resizes:
        compare(segmenter(photograph), pipeline(str(photograph)))
    else:  # segments are of the model's size
        image = Image.fromarray(read_image(photograph)[:64, :64])
        compare(segmenter(image), pipeline(image))
        for segment in segmenter(photograph):
            assert segment["segmentation"]["size"] == [150, 90]
            assert coco_mask.area(segment["segmentation"]) == segment["area"] > 0


@pytest.mark.parametrize("resizes", [True, False])
def test_images_that_are_too_long_for_windows_do_not_reach_the_graph(exported, tmp_path, resizes):
    _, folder = exported.for_task(tmp_path, "semantic")
    segmenter = Segmenter(folder)

    def run(inputs):
        raise AssertionError("the graph ran")

    segmenter.graph = Graph(run, {"kind": "segmenter", "inputs": ["image"], "resizes": resizes})
    with pytest.raises(ValueError, match="Cut it first"):
        segmenter(np.zeros((1, 10_000, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_images_are_read_upright(tmp_path, format, orientation):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "image", format, exif=exif)
    expected = np.asarray(load_upright(tmp_path / "image"))
    np.testing.assert_array_equal(read_image(tmp_path / "image"), expected)
    with Image.open(tmp_path / "image") as opened:
        np.testing.assert_array_equal(read_image(opened), expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_images_of_every_mode_are_read_as_for_training(mode):
    values = np.random.default_rng(0).integers(0, 256, (12, 20, 4), dtype=np.uint8)
    if mode == "F":
        image = Image.fromarray(values[..., 0].astype(np.float32) / 255)
    elif mode in ("I", "I;16"):
        image = Image.fromarray(values[..., 0].astype(np.int32 if mode == "I" else np.uint16) * 200)
    elif mode in ("La", "PA"):
        image = Image.fromarray(values).convert("LA").convert(mode)
    else:
        image = Image.fromarray(values).convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)
    np.testing.assert_array_equal(read_image(image), np.asarray(as_rgb(image)))


def test_values_that_are_no_brightness_are_refused(tmp_path):
    for values in (np.full((4, 4), 2.0, np.float32), np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(ValueError, match="not from 0 to 1"):
            read_image(Image.fromarray(values))
    with pytest.raises(ValueError, match="not 0 to 65535"):
        read_image(Image.fromarray(np.full((4, 4), -1, np.int32)))
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_image(tmp_path / "missing.png")

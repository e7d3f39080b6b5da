"""The C++ example in `examples/cpp`, built and run on a photograph where a compiler and the headers are at hand."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


onnxruntime = pytest.importorskip("onnxruntime")
for package in ("onnx", "onnxscript"):
    pytest.importorskip(package)

from deployment_eomt import export_model  # noqa: E402


EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
LABELS = ["cat", "dog", "the sky"]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """The program, built with the headers that are here and the library in onnxruntime's wheel."""
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("CMake or a C++ compiler is not here")
    if not any(Path(root, "jpeglib.h").exists() for root in ("/usr/include", "/usr/local/include")):
        pytest.skip("libjpeg's header is not here: apt-get install libjpeg-dev")
    roots = (
        os.environ.get("ONNXRUNTIME_INCLUDE_DIR", ""),
        "/usr/include/onnxruntime",
        "/usr/local/include/onnxruntime",
    )
    headers = next((Path(root) for root in roots if Path(root, "onnxruntime_cxx_api.h").exists()), None)
    if headers is None:
        pytest.skip("onnxruntime's C++ headers are not here: ONNXRUNTIME_INCLUDE_DIR names the folder that holds them")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*"), None)
    if library is None:
        pytest.skip("this wheel of onnxruntime holds no shared library")
    folder = tmp_path_factory.mktemp("build")
    (folder / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # to link with, and to load
        (folder / "lib" / name).symlink_to(library)
    arguments = [f"-DONNXRUNTIME_INCLUDE_DIR={headers}", f"-DONNXRUNTIME_LIBRARY={folder}/lib/libonnxruntime.so"]
    subprocess.run(["cmake", "-S", EXAMPLE, "-B", folder, *arguments, "-DCMAKE_CXX_FLAGS=-Wall -Werror"], check=True)
    subprocess.run(["cmake", "--build", folder], check=True)
    return folder / "segment"


@pytest.fixture
def photograph(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((160, 110)).save(tmp_path / "photo.jpg", subsampling=0, quality=95)
    return tmp_path / "photo.jpg"


def paint(pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns the overlay that is expected."""
    colours = (numbers[..., None] * 158 + np.arange(3) * 85) % 256
    return np.where(numbers[..., None] >= 0, (pixels + colours) // 2, pixels).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_the_program_prints_and_paints_what_the_graph_gives(task, build, model, photograph, tmp_path):
    folder = export_model(model, tmp_path / "exported", kind="segmenter", task=task)
    overlay = tmp_path / "overlay.ppm"
    printed = subprocess.run(
        [build, folder / "model.onnx", photograph, overlay], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    pixels = np.asarray(Image.open(photograph))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"image": pixels})))
    lines = [line.split("\t") for line in printed]
    if task == "semantic":
        numbers = outputs["segmentation"]
        values, areas = np.unique(numbers[numbers >= 0], return_counts=True)
        assert lines == [[LABELS[value], str(area)] for value, area in zip(values, areas)]
    else:
        assert [line[0] for line in lines] == [LABELS[label] for label in outputs["labels"]]
        np.testing.assert_allclose([float(line[1]) for line in lines], outputs["scores"], rtol=1e-5)  # six digits
        assert [int(line[2]) for line in lines] == outputs["areas"].tolist()
        assert [[int(edge) for edge in line[3:]] for line in lines] == outputs["boxes"].tolist()
        numbers = outputs.get("segmentation")
    if task == "instance":
        masks = outputs["masks"]
        numbers = np.where(masks.any(axis=0), masks.argmax(axis=0), -1)  # the first, which is the best
    assert lines and len(np.unique(numbers)) > 1
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), paint(pixels, numbers))


@pytest.mark.slow
def test_what_goes_wrong_is_said(build, model, photograph, tmp_path):
    def run(*arguments: object) -> str:
        result = subprocess.run([build, *map(str, arguments)], capture_output=True, text=True)
        assert result.returncode == 1
        return result.stderr

    raw = export_model(model, tmp_path / "exported") / "model.onnx"
    metadata = onnxruntime.InferenceSession(raw).get_modelmeta().custom_metadata_map
    assert metadata["labels"].split("\n") == LABELS
    overlay, text = tmp_path / "overlay.ppm", tmp_path / "no.jpg"
    text.write_bytes(b"no photograph")
    assert "usage" in run()
    assert "nothing.onnx" in run(tmp_path / "nothing.onnx", photograph, overlay)
    assert "Invalid input name: image" in run(raw, photograph, overlay)
    assert "cannot open" in run(raw, tmp_path / "nothing.jpg", overlay)
    assert "Not a JPEG file" in run(raw, text, overlay)

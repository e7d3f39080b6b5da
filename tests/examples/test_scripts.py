"""The scripts in `examples/`: short, and each does what it says, at a tiny size."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from training_eomt.shapes import CATEGORIES, generate_shapes_dataset


FOLDER = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))
MAX_LINES = 40


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a script with a command line; returns what it prints."""

    def run_script(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


@pytest.fixture
def photographs(tmp_path) -> list[Path]:
    """Two images of different sizes, in a folder that holds something else besides."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    rng = np.random.default_rng(0)
    paths = [folder / "a.png", folder / "b.jpg"]
    for path, size in zip(paths, [(90, 60), (50, 80)]):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_and_listed(name):
    assert len((FOLDER / name).read_text().splitlines()) <= MAX_LINES
    assert f"({name})" in (FOLDER / "README.md").read_text()


def test_everything_in_the_folder_is_listed_and_all_that_is_listed_is_there():
    links = set(re.findall(r"\]\(([^)]+)\)", (FOLDER / "README.md").read_text()))
    for link in links:
        assert (FOLDER / link).exists(), link
    notebooks = {f"notebooks/{path.name}" for path in (FOLDER / "notebooks").iterdir() if path.suffix != ""}
    folders = {path.parent.relative_to(FOLDER).as_posix() + "/README.md" for path in FOLDER.glob("*/README.md")}
    assert notebooks | folders <= links


def test_segment_image(run, model, photographs, tmp_path):
    overlay = tmp_path / "overlay.png"
    printed = run("segment_image.py", photographs[0], overlay, "--model", model)
    assert re.fullmatch(r"((cat|dog|the sky) +0\.\d\d\n)+", printed)
    assert Image.open(overlay).size == (90, 60)
    assert run("segment_image.py", photographs[0], overlay, "--model", model, "--threshold", 1) == ""
    printed = run("segment_image.py", photographs[0], overlay, "--model", model, "--task", "semantic")
    assert re.fullmatch(r"((cat|dog|the sky) +\n)+", printed)


def test_segment_folder(run, model, photographs, tmp_path):
    output = tmp_path / "segments.jsonl"
    run("segment_folder.py", photographs[0].parent, output, "--model", model, "--batch_size", 2)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["a.png", "b.jpg"]
    for line, size in zip(lines, [[60, 90], [80, 50]]):
        rles = [segment["segmentation"] for segment in line["segments"]]
        assert rles and all(rle["size"] == size for rle in rles)
        assert sum(coco_mask.decode(rle).astype(int) for rle in rles).max() == 1  # panoptic segments do not overlap


def test_fine_tune(run, model, tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 4, 2, 0, image_size=64)
    printed = run("fine_tune.py", data, tmp_path / "output", "--model", model, "--epochs", 1)
    assert "'eval_pq': " in printed
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert set(config["id2label"].values()) == {category.name for category in CATEGORIES}
    settings = json.loads((tmp_path / "output" / "preprocessor_config.json").read_text())
    stuff = {config["id2label"][str(label)] for label in settings["stuff_classes"]}
    assert stuff == {category.name for category in CATEGORIES if not category.isthing}


def test_custom_dataset(run, tmp_path):
    printed = run("custom_dataset.py", tmp_path / "output", "--steps", 2)
    assert re.search(r"^average precision 0\.\d+$", printed, flags=re.MULTILINE)


def test_export_onnx(run, model, photographs, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    printed = run("export_onnx.py", model, tmp_path / "deployed", photographs[0])
    assert "Equal to the model in 100.00% of the pixels of 8 images.\n" in printed
    assert re.search(r"^(cat|dog|the sky) +0\.\d\d  box \[.+\]$", printed, flags=re.MULTILINE)
    assert (tmp_path / "deployed" / "model.onnx").is_file()

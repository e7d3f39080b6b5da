"""What is installed is what a checkout has."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source") / "checkout"
    left_out = shutil.ignore_patterns(".*", "outputs", "tests", "docs", "benchmarks", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=left_out)
    built = tmp_path_factory.mktemp("wheel")
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = built.glob("*.whl")
    return path


def test_a_wheel_has_every_module_recipe_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert b"eomt-run-segmentation = run_segmentation:command" in archive.read(entry_points)
        for recipe in (ROOT / "recipes").glob("*.yaml"):
            assert archive.read(f"training_eomt/recipes/{recipe.name}") == recipe.read_bytes()
    packages = ("eomt_transformers", "configuration_eomt", "modeling_eomt", "image_processing_eomt", "training_eomt")
    modules = {str(file.relative_to(ROOT)) for package in packages for file in (ROOT / package).rglob("*.py")}
    assert modules | {"run_segmentation.py", "training_eomt/publishing/model_card.md"} <= names


def test_an_installed_command_finds_recipes_by_name_and_by_path(wheel, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    for recipe in ("shapes_demo", "recipes/shapes_demo.yaml"):
        found = (
            "import sys; from run_segmentation import command; from training_eomt.script import recipe_files; "
            f"print(recipe_files.find_recipe({recipe!r})); command(['--recipe', {recipe!r}, '--do_train'])"
        )
        result = subprocess.run(
            [sys.executable, "-c", found], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.stdout.strip() == str(installed / "training_eomt" / "recipes" / "shapes_demo.yaml")
        assert result.stderr.strip() == "error: --train_data is missing."

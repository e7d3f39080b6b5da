"""What is installed is what a checkout has."""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt


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
    packages = ("eomt_transformers", "configuration_eomt", "modeling_eomt", "image_processing_eomt")
    packages += ("training_eomt", "deployment_eomt", "app_eomt")
    modules = {str(file.relative_to(ROOT)) for package in packages for file in (ROOT / package).rglob("*.py")}
    assert modules | {"run_segmentation.py", "training_eomt/model_card.md", "app_eomt/page.css"} <= names


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


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """Programs of a new environment that holds the wheel, and of this one the dependencies but not the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("[Ll]ib/**/site-packages")
    # Python does not read further .pth files in a folder that one names: an editable checkout stays outside.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    command = [programs / "python", "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run(command, check=True)
    return programs


@pytest.mark.slow
def test_a_wheel_in_a_clean_environment_does_what_the_guides_say(environment, tmp_path):
    def run(*words: str) -> str:
        words = (str(environment / words[0]), *words[1:])
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
        found = subprocess.run(words, cwd=tmp_path, env=offline, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found.stdout

    where = run("python", "-c", "import eomt_transformers as eomt; print(eomt.EomtTrainer.__module__, eomt.__file__)")
    assert where.split()[0] == "training_eomt.trainer" and where.split()[1].startswith(str(environment.parent))
    sizes = ("--num-train", "4", "--num-validation", "2", "--num-test", "1")
    run("python", "-m", "training_eomt.shapes", "outputs/shapes_data", *sizes)
    run(
        *("eomt-run-segmentation", "--recipe", "shapes_demo", "--output_dir", "outputs/shapes_demo"),
        *("--train_data", "outputs/shapes_data/train", "--validation_data", "outputs/shapes_data/validation"),
        *("--predict_data", "outputs/shapes_data/test", "--do_train", "--do_eval", "--do_predict"),
        *("--max_steps", "2", "--total_batch_size", "2", "--use_cpu", "true"),
    )
    assert (tmp_path / "outputs/shapes_demo/predictions/overlays/000000.overlay.png").is_file()
    run("python", "-m", "training_eomt.publishing", "outputs/shapes_demo", "my_model", "--license", "apache-2.0")
    assert "license: apache-2.0" in (tmp_path / "my_model/README.md").read_text()
    photograph = "outputs/shapes_data/test/images/000000.png"
    guide = MarkdownIt().parse((ROOT / "docs" / "inference.md").read_text(encoding="utf-8"))
    blocks = [token.content for token in guide if token.info == "python" and "outputs/my_model" in token.content]
    assert len(blocks) >= 2
    code = "\n".join(blocks).replace("outputs/my_model", "outputs/shapes_demo").replace("photo.jpg", photograph)
    run("python", "-c", code)
    assert (tmp_path / "overlay.png").is_file()
    run("eomt", "segment", photograph, "--model", "outputs/shapes_demo")
    assert (tmp_path / "segments/000000/overlay.png").is_file()

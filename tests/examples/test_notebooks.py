"""The notebooks: they run, and what is stored in them is fit to be read."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "notebooks"
NAMES = ["inference", "fine_tuning", "deployment"]
MAX_BYTES = 400_000


def load_execute():
    """The module of the script, which is in no package."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def execute(tmp_path):
    """Executes a notebook in a folder of its own; returns it, and all that it printed."""

    def run(name, **parameters):
        notebook = load_execute().execute_notebook(FOLDER / f"{name}.ipynb", parameters, tmp_path)
        check_outputs(notebook)
        streams = [output.text for output in list_outputs(notebook) if output.output_type == "stream"]
        return notebook, "".join(streams)

    return run


@pytest.fixture
def photograph(tmp_path) -> str:
    """An image of the size of none that a model takes."""
    path = tmp_path / "photograph.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((120, 90), Image.Resampling.BICUBIC).save(path)
    return str(path)


def list_outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def check_outputs(notebook):
    """Every cell but the first has run, and said nothing but results."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "install" not in cell.metadata.get("tags", ()):
            assert cell.execution_count is not None
    for output in list_outputs(notebook):
        assert output.output_type != "error"
        text = output.get("text", "")
        assert output.get("name") != "stderr", text
        assert not re.search(r"warning|error|it/s|\r|\x1b", text, flags=re.IGNORECASE), text


def test_inference_finds_the_same_in_every_way(execute, model, photograph):
    notebook, printed = execute("inference", MODEL=str(model), IMAGE=photograph)
    kinds = [kind for output in list_outputs(notebook) for kind in output.get("data", {}) if kind != "text/plain"]
    assert len(kinds) == 5 and set(kinds) <= {"image/png", "image/jpeg"}
    assert "mask (120, 90), L" in printed
    sizes = re.findall(r"segments, \((\d+), (\d+)\)", printed)
    assert sizes == [("120", "90"), ("120", "90"), ("60", "45")]
    assert re.search(r"\d+ ms before, \d+ ms after, on cpu", printed)


@pytest.mark.slow
def test_fine_tuning_ends_with_a_model_to_share(execute, model, tmp_path):
    small = {"IMAGE_SIZE": 64, "EPOCHS": 1, "BATCH_SIZE": 4, "NUM_IMAGES": 8, "LEARNING_RATE": 1e-3}
    _, printed = execute("fine_tuning", MODEL=str(model), **small)
    assert "train data: cells/train/_annotations.coco.json: 8 images for instance segmentation" in printed
    assert "step 2/2" in printed
    assert {"model.safetensors", "README.md", "pipeline_eomt.py"} <= {
        path.name for path in (tmp_path / "cells_model").iterdir()
    }
    assert len(list((tmp_path / "outputs/cells/predictions/overlays").iterdir())) == 3


@pytest.mark.slow
def test_deployment_gives_the_segments_of_the_model(execute, model, photograph):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    notebook, printed = execute("deployment", MODEL=str(model), IMAGE=photograph, REPORT_IMAGES=1)
    assert "PyTorch loaded: False" in printed
    assert set(re.findall(r"(\d+) pixels differ", printed)) == {"0"}
    table = list_outputs(notebook)[-1].data["text/markdown"]
    assert table.count("ONNX") == 3


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_is_whole_and_small(name):
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check_outputs(notebook)
    assert any("image" in kind for output in list_outputs(notebook) for kind in output.get("data", {}))
    assert path.stat().st_size < MAX_BYTES
    assert not re.search(r"/tmp/|/home/|/root/", path.read_text())
    first_code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first_code.source.startswith("%pip install")
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    assert re.search(r'^MODEL = "tue-mps/\w+"', parameters.source)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        assert (FOLDER / link).exists(), link


def test_a_parameter_takes_the_place_of_what_is_assigned():
    execute = load_execute()
    source = 'MODEL = "a/b"  # a name\nSIZE = 640  # pixels\nRATE = 1e-4'
    assert execute.assign(source, "MODEL", "c") == "MODEL = 'c'  # a name\nSIZE = 640  # pixels\nRATE = 1e-4"
    assert "SIZE = 64  # pixels" in execute.assign(source, "SIZE", execute.parse("64"))
    assert "RATE = 0.001" in execute.assign(source, "RATE", execute.parse("1e-3"))
    assert execute.parse("me/my_model") == "me/my_model"
    with pytest.raises(ValueError, match="does not assign 'MODE'"):
        execute.assign(source, "MODE", "c")

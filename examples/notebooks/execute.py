"""
Executes a notebook with other values in its cell of parameters, and stores the outputs in it.

    python examples/notebooks/execute.py examples/notebooks/inference.ipynb MODEL=outputs/shapes_demo

The cell tagged `parameters` assigns a value to each name, one a line; its text stays as it is, and so does everything
but the outputs. The cell tagged `install` is not executed. What a notebook writes goes to a temporary folder.
"""

import argparse
import ast
import base64
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image


ROOT = Path(__file__).resolve().parents[2]
LARGE_PICTURE = 20_000  # bytes; larger ones are stored as JPEG where that is smaller
# Bars, and what is said of packages while they load, are not results.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
    "TORCH_LOGS": "-torch.utils._pytree",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def execute_notebook(path: str | Path, parameters: Mapping[str, Any], folder: str | Path) -> nbformat.NotebookNode:
    """
    Returns a notebook with the outputs that it has with these parameters.

    Args:
        path: the notebook.
        parameters: values by the names that its cell of parameters assigns.
        folder: where it runs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
        ValueError: the cell of parameters assigns no such name.
    """
    notebook, run = (nbformat.read(path, as_version=4) for _ in range(2))
    for cell in run.cells:
        tags = cell.metadata.get("tags", ())
        if "install" in tags:
            cell.source = ""
        if "parameters" in tags:
            for name, value in parameters.items():
                cell.source = assign(cell.source, name, value)
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    client = NotebookClient(run, timeout=3600, record_timing=False, coalesce_streams=True)
    client.resources = {"metadata": {"path": str(folder)}}
    client.execute(env={**os.environ, **QUIET, **paths})
    for cell, executed in zip(notebook.cells, run.cells):
        if cell.cell_type == "code":
            is_run = bool(executed.source)
            cell.outputs = [clean(output, folder) for output in executed.outputs] if is_run else []
            cell.execution_count = executed.execution_count if is_run else None
    return notebook


def assign(source: str, name: str, value: Any) -> str:
    """Puts a value in place of the one that a line assigns to a name. Raises a `ValueError` without such a line."""
    line = re.search(rf"^{re.escape(name)} = [^#\n]+", source, flags=re.MULTILINE)
    if line is None:
        raise ValueError(f"The cell of parameters does not assign {name!r}:\n{source}")
    return source[: line.start()] + f"{name} = {value!r}  " + source[line.end() :]


def parse(text: str) -> Any:
    """Reads a number, or whatever else Python writes; all other text is itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def clean(output: nbformat.NotebookNode, folder: str | Path) -> nbformat.NotebookNode:
    """Names files from the folder on; stores large pictures as JPEG, and one format of those that have two."""
    if "text" in output:
        output.text = output.text.replace(f"{folder}{os.sep}", "").replace("\r\n", "\n")
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("image/jpeg", None)
        png = base64.b64decode(data["image/png"])
        picture, jpeg = Image.open(BytesIO(png)), BytesIO()
        picture.convert("RGB").save(jpeg, "JPEG", quality=80, optimize=True)
        is_opaque = not picture.has_transparency_data or picture.getextrema()[-1] == (255, 255)
        if is_opaque and len(png) > LARGE_PICTURE and jpeg.tell() < len(png):
            del data["image/png"]
            data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description="Executes a notebook and stores the outputs in it.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument(
        "parameters", nargs="*", metavar="NAME=VALUE", help="files and folders are found from where you are"
    )
    options = parser.parse_args()
    parameters: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for text in options.parameters:
            name, _, value = text.partition("=")
            path = Path(value)
            if path.exists():
                Path(folder, path.name).symlink_to(path.resolve())
            parameters[name] = path.name if path.exists() else parse(value)
        notebook = execute_notebook(options.notebook, parameters, folder)
    nbformat.write(notebook, options.notebook)


if __name__ == "__main__":
    main()

"""The site: it is built without a warning and loads nothing from elsewhere; the reference has every public name."""

import inspect
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from page_blocks import ROOT

import deployment_eomt
import eomt_transformers
import loading_eomt
from image_processing_eomt import EomtImageProcessor


def read_entries() -> list[str]:
    """Returns what the pages of the reference have entries of."""
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    return re.findall(r"^::: (\S+)$", pages, re.MULTILINE)


def test_every_public_name_has_one_entry_in_the_reference():
    packages = {name: eomt_transformers._PACKAGE_BY_NAME[name] for name in eomt_transformers.__all__[1:]}
    public = [f"{package.removesuffix('.pipelines')}.{name}" for name, package in packages.items()]
    for package in (deployment_eomt, loading_eomt):
        public += [f"{package.__name__}.{name}" for name in package.__all__]
    assert Counter(read_entries()) == Counter(public)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does."""
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_it_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=[\"']?([^\"' >]+)", page.read_text())
        assert loaded and not [address for address in loaded if re.match(r"(https?:)?//", address)], page


def test_every_entry_is_there_and_says_something(site):
    """Names without a docstring are left out."""
    pages = "\n".join(page.read_text() for page in (site / "docs" / "reference").rglob("*.html"))
    assert set(read_entries()) <= set(re.findall(r'<h2 id="([\w.]+)" class="doc doc-heading">', pages))
    assert "[`" not in re.sub(r"<code>.*?</code>", "", pages), "a link that was not made one"


def test_lists_in_docstrings_and_pages_are_lists(site):
    """Python's Markdown, unlike GitHub's, wants an empty line before a list."""
    for page in site.rglob("*.html"):
        paragraphs = re.findall(r"<p>.*?</p>", page.read_text(), re.DOTALL)
        assert not [text for text in paragraphs if re.search(r"\n\s*(- |\d\. )", text)], page


def test_the_reference_knows_what_is_made_at_run_time():
    griffe = pytest.importorskip("griffe")
    extensions = griffe.load_extensions(str(ROOT / "docs" / "docstrings.py"))
    packages = ["image_processing_eomt", "configuration_eomt", "training_eomt"]
    images, configurations, training = (
        griffe.load(name, extensions=extensions, search_paths=[str(ROOT)]) for name in packages
    )
    for task in ("panoptic", "instance", "semantic"):
        name = f"post_process_{task}_segmentation"
        found = images["EomtImageProcessor"].all_members[name]
        expected = list(inspect.signature(getattr(EomtImageProcessor, name)).parameters)
        if task == "instance":
            expected.remove("overlap_mask_area_threshold")  # has no effect
        assert [parameter.name for parameter in found.parameters] == expected
        assert "stored setting by default" in found.docstring.value
    for name in ("EomtConfig", "EomtDinov3Config", "EomtEva02Config"):
        config = getattr(eomt_transformers, name)
        own = [field.name for field in fields(config) if field.name in inspect.get_annotations(config)]
        assert set(own) <= {parameter.name for parameter in configurations[name].parameters}
        assert all(f"{field}: " in configurations[name].docstring.value for field in own)
    arguments = training["training_arguments.EomtTrainingArguments"]
    assert "layer_decay: Factor on the learning rate per block" in arguments.docstring.value
    assert str(arguments.parameters["layer_decay"].default) == "0.8"

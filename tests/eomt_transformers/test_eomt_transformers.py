"""One name to import from: all public names of the packages, none of which is loaded before it is asked for."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

import eomt_transformers


PACKAGES = (
    "configuration_eomt",
    "modeling_eomt",
    "image_processing_eomt",
    "eomt_transformers.pipelines",
    "training_eomt",
    "training_eomt.metrics",
)


def test_all_public_names_of_the_packages_are_there():
    public = {name: package for package in PACKAGES for name in import_module(package).__all__}
    assert set(eomt_transformers.__all__) == {"__version__", *public}
    assert set(dir(eomt_transformers)) == set(eomt_transformers.__all__)
    for name, package in public.items():
        assert getattr(eomt_transformers, name) is getattr(import_module(package), name)


def test_importing_it_loads_neither_torch_nor_transformers():
    code = "import sys, eomt_transformers; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Eomt'"):
        _ = eomt_transformers.Eomt


def test_the_version_is_that_of_the_distribution():
    assert eomt_transformers.__version__ == version("eomt-transformers")

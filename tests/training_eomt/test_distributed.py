"""One process or several: the same weights, the same figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file

from training_eomt.shapes import generate_shapes_dataset


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("distributed_training.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return generate_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", 9, 7, 0, image_size=(40, 64))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    def run(processes: int, *options: str) -> Path:
        output = tmp_path_factory.mktemp("output")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += [str(SCRIPT), str(data), str(output), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
        return output

    return run


@pytest.fixture(scope="module")
def one(run) -> Path:
    return run(1)


@pytest.fixture(scope="module")
def two(run) -> Path:
    return run(2)


def assert_same_weights(one: Path, other: Path, file: str = "model.safetensors", **tolerance) -> None:
    expected, found = load_file(one / file), load_file(other / file)
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, msg=name, **(tolerance or {"rtol": 0, "atol": 1e-5}))


def assert_same_figures(one: Path, other: Path) -> None:
    expected, found = (json.loads((folder / "results.json").read_text()) for folder in (one, other))
    for name, value in expected["metrics"].items():
        if not name.endswith(("_runtime", "_per_second", "_time")):
            assert found["metrics"][name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
    assert found["per_class"].keys() == expected["per_class"].keys()


def test_two_processes_train_what_one_does(one, two):
    """Five steps with augmentation, masks that fade out, and an average of the weights."""
    assert_same_weights(one, two)
    assert_same_weights(one / "checkpoint-3", two / "checkpoint-3", "trained_weights.safetensors")


def test_two_processes_measure_what_one_does_on_seven_images(one, two):
    assert_same_figures(one, two)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"), reason="Transformers 5.17 cannot resume on several CPUs"
)
def test_two_processes_stopped_in_the_middle_of_an_epoch_are_never_stopped(run, two):
    resumed = run(2, str(two / "checkpoint-3"))
    assert_same_weights(two, resumed, rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def sharded(run) -> Path:
    if Version(torch.__version__) < Version("2.7"):
        pytest.skip("Accelerate's FSDP2 needs torch 2.7")
    return run(2, "fsdp")


def test_sharded_over_two_processes_the_training_is_the_same(one, sharded):
    """FSDP2, through Accelerate; without an average, which it does not have."""
    whole = load_file(one / "checkpoint-3" / "trained_weights.safetensors")
    found = load_file(sharded / "checkpoint-3" / "model.safetensors")
    for name, weights in whole.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-5, msg=name)


def test_a_sharded_training_is_resumed_as_if_never_stopped(run, sharded):
    resumed = run(2, "fsdp", str(sharded / "checkpoint-3"))
    assert_same_weights(sharded, resumed, rtol=0, atol=1e-6)
    assert_same_figures(sharded, resumed)

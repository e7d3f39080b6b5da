"""The comparison is measured, written after every row, and right on a GPU."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from benchmarks import stepwise
from benchmarks.baselines import STEPS


ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["stepwise", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        stepwise.main()
    return int(end.value.code)


@pytest.mark.slow
def test_rows_have_all_steps_beside_the_papers_figures(monkeypatch, tmp_path, capsys):
    output = tmp_path / "results" / "steps.json"
    words = ["--sizes", "small", "--image-sizes", 64, "--rounds", 2, "--warm-up", 0, "--output", output]
    monkeypatch.setattr(stepwise, "PAPER", {("small", 64): stepwise.PAPER["small", 640]})
    assert run(monkeypatch, *words) == 0
    (row,) = json.loads(output.read_text())["rows"]
    assert list(row["steps"]) == list(map(str, STEPS)) == list(row["times_faster"])
    for figures in row["steps"].values():
        assert 0 < figures["p10_ms"] <= figures["ms"] <= figures["p90_ms"] <= figures["p99_ms"]
        assert figures["images_per_second"] == pytest.approx(1000 / figures["ms"], rel=0.01)
        assert figures["multiply_adds"] > 0 and figures["peak_mib"] > 0
    assert row["steps"]["0"]["paper"]["images_per_second"] == 33 and row["steps"]["1"]["paper"] is None
    assert row["times_faster"]["0"] == 1.0
    printed = capsys.readouterr().out
    assert "(330)" in printed and "without pixel decoder" in printed


def test_the_steps_share_their_vit():
    models = stepwise.build_steps([0, 5], "small", 64, torch.float32, torch.device("cpu"))
    assert models[0].layers is models[5].layers
    assert models[5].mask_probabilities == [0.0] * 3 and not models[0].training


def test_a_row_that_fails_is_written_and_the_next_one_measured(monkeypatch, tmp_path):
    output = tmp_path / "steps.json"
    words = ["--steps", 5, "--sizes", "small", "--rounds", 2, "--warm-up", 0, "--output", output]
    assert run(monkeypatch, *words, "--image-sizes", 60, 64) == 1
    failed, measured = json.loads(output.read_text())["rows"]
    assert failed["image_size"] == 60 and "divisible" in failed["error"]
    assert measured["image_size"] == 64 and "5" in measured["steps"]


@pytest.mark.slow
def test_everything_for_a_gpu_runs_to_its_end_on_a_cpu(tmp_path):
    script = ROOT / "benchmarks" / "gpu.sh"
    # Compiling takes longer than all else, and tests/modeling_eomt/test_compilation.py does it.
    environment = {**os.environ, "PYTHON": sys.executable, "TORCH_COMPILE_DISABLE": "1"}
    command = ["bash", str(script), "--tiny", str(tmp_path / "results")]
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert {entry["end"] for entry in summary} == {"done"}
    names = [entry["part"] for entry in summary]
    assert names == ["steps", "inference", "training", "tests", "scaling"]
    rows = {"training": "steps", "inference": "forward"}
    for name in set(names) - {"tests"}:
        results = json.loads((tmp_path / "results" / f"{name}.json").read_text())
        assert results[rows.get(name, "rows")], name


def test_the_scripts_take_the_options_that_a_gpu_gets(monkeypatch, tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$*" >>"$0.log"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python")}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "results")]
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    lines = [line.split() for line in (tmp_path / "python.log").read_text().splitlines()]
    assert len(lines) == len(json.loads((tmp_path / "results" / "summary.json").read_text())) == 10

    class ParsedError(Exception):
        """The options were read, and the measurement would begin."""

    for line in lines:
        name, words = (line[1], line[2:]) if line[0] == "-m" else (line[0], line[1:])
        if name == "pytest":
            continue
        script = importlib.import_module(name.removesuffix(".py").replace("/", "."))
        for begin in ("surroundings", "check_measurement"):
            monkeypatch.setattr(script, begin, Mock(side_effect=ParsedError), raising=False)
        monkeypatch.setattr(sys, "argv", [name, *words])
        with pytest.raises(ParsedError):
            script.main()


def test_parts_are_run_by_name(tmp_path):
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path)]
    environment = {**os.environ, "PYTHON": "true", "PARTS": "scaling steps"}
    subprocess.run(command, env=environment, capture_output=True, check=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [entry["part"] for entry in summary] == ["steps", "scaling"]
    misspelt = subprocess.run(
        command, env={**environment, "PARTS": "stepps"}, capture_output=True, text=True, check=False
    )
    assert (misspelt.returncode, misspelt.stdout) == (1, "There is no part stepps.\n")


def test_a_part_that_takes_too_long_is_stopped_and_one_that_fails_is_named(tmp_path):
    cases = '"-m benchmarks.stepwise"*) sleep 2;; "-m pytest"*) exit 3;;'
    (tmp_path / "python").write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
    (tmp_path / "python").chmod(0o755)
    script = (ROOT / "benchmarks" / "gpu.sh").read_text().replace("slack=60", "slack=1").replace("* 75", "* 1")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu.sh").write_text(script)
    process = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--tiny", "results"],
        env={**os.environ, "PYTHON": str(tmp_path / "python")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    ends = {entry["part"]: entry["end"] for entry in json.loads((tmp_path / "results" / "summary.json").read_text())}
    assert ends.pop("steps") == "stopped" and ends.pop("tests") == "failed" and set(ends.values()) == {"done"}


@pytest.mark.cuda
@pytest.mark.parametrize("step", STEPS)
def test_a_gpu_predicts_what_the_cpu_predicts(tiny_step, step):
    model, pixels = tiny_step(step), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = model(pixels)
        found = model.cuda()(pixels.cuda())
    for name in ("masks_queries_logits", "class_queries_logits"):
        torch.testing.assert_close(found[name].cpu(), expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("step", [0, 4, 5])
def test_a_gpu_trains_as_the_cpu_does(tiny_step, batch, step):
    losses = []
    for device in ("cpu", "cuda"):
        model = tiny_step(step).train().to(device)
        inputs = {
            name: [each.to(device) for each in value] if isinstance(value, list) else value.to(device)
            for name, value in batch.items()
        }
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            losses.append(model(**inputs).loss)
        losses[-1].backward()
    torch.testing.assert_close(losses[1].cpu(), losses[0], rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("step", [0, 5])
def test_compiled_with_cuda_graphs_it_predicts_the_same(tiny_step, step):
    model, pixels = tiny_step(step).cuda(), torch.randn(2, 3, 64, 64).cuda()
    with torch.no_grad():
        expected = model(pixels).masks_queries_logits
        model.compile(mode="reduce-overhead")
        for _ in range(3):
            found = model(pixels).masks_queries_logits.clone()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)

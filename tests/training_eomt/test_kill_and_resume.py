"""Twenty seeded kills: whatever moment a run is killed at, its next start ends in the same weights and files."""

import json
import multiprocessing
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import killed_runs
import pytest
import transformers
from packaging.version import Version

from training_eomt.checkpoints import last_complete
from training_eomt.shapes import generate_shapes_dataset


pytestmark = pytest.mark.slow
resumes_on_several_cpus = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"), reason="Transformers 5.17 cannot resume on several CPUs"
)

MODEL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_blocks": 1, "num_queries": 5}
TRAINING = {
    "do_train": None,
    "image_size": 32,
    "model_config": json.dumps({**MODEL, "train_num_points": 16}),
    "max_steps": 8,
    "total_batch_size": 2,
    "learning_rate": 1e-3,
    "ema_decay": 0.9,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 2,
}
QUIET = {"use_cpu": "true", "report_to": "none", "disable_tqdm": "true"}
FOLDERS = ("output_dir", "train_data", "predict_data")  # whose files are operated on
DEADLINE = 60  # seconds for any one run


class Runner:
    """Starts runs from a process that has everything imported, and kills them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([killed_runs.__name__])
        self.num_runs = 0

    def start(self, arguments, num_processes, kill_at=None, killed_rank=0):
        words = [word for name, value in arguments.items() for word in (f"--{name}", value) if word is not None]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes, self.num_runs = [], self.num_runs + 1
        for rank in range(num_processes):
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "MASTER_PORT": port}
            environment |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": num_processes, "OMP_NUM_THREADS": 1}
            processes.append(
                self.context.Process(
                    target=killed_runs.run,
                    args=(
                        [str(word) for word in words],
                        tuple(str(arguments[name]) for name in FOLDERS if name in arguments),
                        str(self.log(rank)),
                        kill_at if rank == killed_rank else None,
                        {name: str(value) for name, value in environment.items()} if num_processes > 1 else {},
                    ),
                )
            )
        for process in processes:
            process.start()
        return processes

    def log(self, rank: int) -> Path:
        return self.folder / f"run-{self.num_runs}-{rank}.log"

    def finish(self, arguments, num_processes=1) -> None:
        """An undisturbed run."""
        for rank, process in enumerate(self.start(arguments, num_processes)):
            process.join(DEADLINE)
            assert process.exitcode == 0, self.log(rank).read_text()[-3000:]

    def operations(self, rank: int) -> int:
        """Operations on files of a process in the last run, which went to its end."""
        return int(Path(f"{self.log(rank)}.operations").read_text())

    def kill(self, arguments, num_processes, at_operation, rank) -> bool:
        """Kills a process of a run before one of its operations; False if it came to its end with fewer of them."""
        processes = self.start(arguments, num_processes, at_operation, rank)
        processes[rank].join(DEADLINE)
        if processes[rank].exitcode != 0:
            for process in processes:  # as launchers do
                process.kill()
        for process in processes:
            process.join(DEADLINE)
        assert processes[rank].exitcode in (0, -signal.SIGKILL), self.log(rank).read_text()[-3000:]
        return processes[rank].exitcode != 0


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Iterator[Runner]:
    with pytest.MonkeyPatch.context() as patch:
        # Where the process that has everything imported looks for it: older Pythons do not tell it.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other take ten times as long
        yield Runner(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return generate_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", 5, 0, 12, image_size=32)


def training(shapes: Path, output: Path) -> dict:
    """The arguments of a training, or of its next start."""
    arguments = {**TRAINING, **QUIET, "train_data": shapes / "train", "output_dir": output}
    if last_complete(output) is not None:
        return {**arguments, "resume_from_checkpoint": "true"}
    return {**arguments, "overwrite_output_dir": None}


def files(folder: Path, *without: str) -> dict[str, bytes]:
    """Every file below a folder, less some folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in without
    }


# The weights, and what else does not tell the time.
COMPARED = ("model.safetensors", "trained_weights.safetensors", "config.json", "preprocessor_config.json")


def assert_same_training(output: Path, expected: Path) -> None:
    found, undisturbed = files(output), files(expected)
    assert found.keys() == undisturbed.keys()
    for name, content in undisturbed.items():
        if name.endswith(COMPARED):
            assert found[name] == content, name


def kill_and_finish(runner: Runner, arguments, num_processes: int, kills: int, seed: int, operations: list[int]):
    """Kills the run and each of its next starts until one may go to its end; `operations` are of a whole run."""
    moments = random.Random(seed)
    for _ in range(kills):
        rank = moments.randrange(num_processes)
        at = moments.randrange(1, operations[rank] // 3)
        while not runner.kill(arguments(), num_processes, at, rank):  # a start that goes on has less to do
            at = moments.randrange(1, runner.operations(rank) + 1)
    runner.finish(arguments(), num_processes)


class Undisturbed(NamedTuple):
    output: Path
    operations: list[int]  # of each process


@pytest.fixture(scope="module")
def undisturbed(runner, shapes, tmp_path_factory) -> dict[int, Undisturbed]:
    """A training by each number of processes."""
    runs = {}
    for num_processes in (1, 2):
        output = tmp_path_factory.mktemp("undisturbed")
        runner.finish(training(shapes, output), num_processes)
        runs[num_processes] = Undisturbed(output, [runner.operations(rank) for rank in range(num_processes)])
    return runs


@pytest.mark.parametrize(("num_processes", "kills"), [(1, 8), pytest.param(2, 4, marks=resumes_on_several_cpus)])
def test_a_training_that_is_killed_again_and_again_ends_in_the_same_weights(
    runner, shapes, undisturbed, tmp_path, num_processes, kills
):
    expected, output = undisturbed[num_processes], tmp_path / "output"
    arguments = partial(training, shapes, output)
    kill_and_finish(runner, arguments, num_processes, kills, 3, expected.operations)
    assert_same_training(output, expected.output)


@resumes_on_several_cpus
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(runner, shapes, undisturbed, tmp_path):
    output = tmp_path / "output"
    processes = runner.start(training(shapes, output), 2)
    for _ in range(100 * DEADLINE):
        if runner.log(0).exists() and "step 1/8" in runner.log(0).read_text():
            break
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGTERM)
    said = []
    for rank, process in enumerate(processes):
        process.join(DEADLINE)
        assert process.exitcode == 1, runner.log(rank).read_text()[-3000:]
        said.append(re.search(r"Stopped: stopped after step (\d) of 8", runner.log(rank).read_text()))
    assert said[0] and said[1] and said[0].group() == said[1].group()
    assert last_complete(output) == output / f"checkpoint-{said[0].group(1)}"
    runner.finish(training(shapes, output), 2)
    assert (output / "model.safetensors").read_bytes() == (undisturbed[2].output / "model.safetensors").read_bytes()


def test_a_process_does_not_wait_for_ever_for_one_that_is_not_there(runner, shapes, tmp_path):
    first, second = runner.start({**training(shapes, tmp_path / "output"), "ddp_timeout": 5}, 2)
    second.kill()
    first.join(DEADLINE)
    assert first.exitcode == 1
    assert "Process 0 did not meet the others within 0:00:05 (ddp_timeout)" in runner.log(0).read_text()


@pytest.mark.parametrize(("num_processes", "kills"), [(1, 5), (2, 3)])
def test_a_prediction_that_is_killed_again_and_again_writes_the_same_files(
    runner, shapes, tmp_path, num_processes, kills
):
    model = tmp_path / "model"
    runner.finish({**training(shapes, model), "max_steps": 1, "save_strategy": "no"})

    def prediction(output: Path) -> dict:
        return {
            **QUIET, "do_predict": None, "model_name_or_path": model, "predict_data": shapes / "test",
            "output_dir": output,
        }  # fmt: skip

    expected, output = tmp_path / "undisturbed", tmp_path / "output"
    runner.finish(prediction(expected), num_processes)
    operations = [runner.operations(rank) for rank in range(num_processes)]
    kill_and_finish(runner, lambda: prediction(output), num_processes, kills, 7, operations)
    found, undisturbed = (files(folder / "predictions", "run.json") for folder in (output, expected))
    assert len(undisturbed) > 2 * 12 and found == undisturbed

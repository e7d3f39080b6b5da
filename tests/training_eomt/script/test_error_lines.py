"""Errors that people can mend are a line, others keep their traceback."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch.utils.data import DataLoader, Dataset

from training_eomt.script.error_lines import describe_error


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError("street/1.jpg cannot be decoded\n  Mend it: x")


def test_documented_errors_say_what_they_say():
    for error in (ValueError("a.json: x"), FileNotFoundError("b"), FloatingPointError("c"), ImportError("d")):
        assert describe_error(error) == str(error)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), RuntimeError("shapes differ"), AssertionError()])
def test_bugs_keep_their_traceback(error):
    assert describe_error(error) is None


def test_what_a_worker_found_is_said_without_its_traceback():
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker") as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert describe_error(caught.value).strip() == "street/1.jpg cannot be decoded\n  Mend it: x"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_too_little_memory_comes_with_what_to_do(error):
    line = describe_error(error)
    assert line.startswith("There is not enough memory.") and "low_memory" in line and "\n" not in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_checkpoint_that_cannot_be_written_is_a_line():
    with pytest.raises(RuntimeError) as caught:
        torch.save(torch.zeros(1_000_000), "/dev/full")
    assert describe_error(caught.value).startswith("A checkpoint could not be written; the disk may be full.")
    with pytest.raises(SafetensorError) as refused:
        load(b"too short")
    assert describe_error(refused.value).startswith("A file of weights could not be read or written: ")


def test_a_killed_worker_is_explained():
    line = describe_error(RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. "))
    assert "--dataloader_num_workers" in line and "\n" not in line


def test_a_lost_connection_points_to_the_process_that_failed(monkeypatch):
    errors = [
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"),
        RuntimeError("[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d"),
        torch.distributed.DistNetworkError("recvValue failed"),
    ]
    assert [describe_error(error) for error in errors] == [None, None, None]  # a process alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    for error in errors:
        assert "its own message says why" in describe_error(error)
    assert describe_error(ValueError("nccl is not a model")) == "nccl is not a model"


def test_failures_of_hub_and_tracker_are_one_line():
    offline = type("ConnectError", (Exception,), {"__module__": "httpx"})
    line = describe_error(offline("[Errno -2] Name or service not known"))
    assert line == "The Hub cannot be reached (ConnectError): [Errno -2] Name or service not known"
    hub_error = type("HfHubHTTPError", (OSError,), {"__module__": "huggingface_hub.errors"})
    line = describe_error(hub_error("401 Client Error.\n\nRepository Not Found for url: x.\nPlease log in."))
    assert line == "The Hub: 401 Client Error. Repository Not Found for url: x. Please log in."
    usage_error = type("UsageError", (Exception,), {"__module__": "wandb.errors"})("no API key.\nrun wandb login")
    assert describe_error(usage_error, ["wandb"]) == "wandb, which --report_to names: no API key. run wandb login"
    assert describe_error(usage_error, []) is None

"""What is already done in a folder of predictions, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn


RUN_FILE = "run.json"
RECORDS = "records"
BLOCK = 1 << 20  # bytes read at a time when looking for the end of the last line

# Every line starts like this, so that it need not be decoded as a whole to tell which picture it is about.
PICTURE, ERROR = '{"picture": ', ', "error": '
decode_at = json.JSONDecoder().raw_decode


class RecordFile:
    """Where one process writes a line for each picture it is done with; threads may share it.

    Args:
        directory: the folder of predictions.
        process_index, num_processes: which of how many processes.
    """

    def __init__(self, directory: Path, process_index: int, num_processes: int) -> None:
        folder = directory / RECORDS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{process_index}-of-{num_processes}.jsonl"
        _drop_torn_line(path)
        self._file = path.open("a", encoding="ascii")
        self._lock = threading.Lock()

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, content: Mapping[str, Any]) -> None:
        """Notes that a picture's files are written. `content` is what the final files need of it."""
        self._write({"picture": name, **content})

    def add_error(self, name: str, error: str) -> None:
        """Notes that a picture cannot be read."""
        self._write({"picture": name, "error": error})

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()


class FinishedPictures:
    """Which pictures are done, from the records of all processes that ever worked on a folder.

    Of each picture only the place of its record is kept in memory. A line that was not written to its end is no
    record. A picture that could not be read and then could be is done.

    Args:
        directory: the folder of predictions.
        names: of all pictures, in order.

    Attributes:
        is_finished: `(num_pictures,)` bool, whether the picture's files are written.
        errors: number of the picture -> why it could not be read, of pictures that are not finished.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self._files = sorted((directory / RECORDS).glob("*.jsonl"))
        self._file_of = np.full(len(names), -1, dtype=np.int32)
        self._offset_of = np.zeros(len(names), dtype=np.int64)
        self.errors: dict[int, str] = {}
        index_of = {name: index for index, name in enumerate(names)}
        for number, path in enumerate(self._files):
            for offset, line in _lines(path):
                name, end = decode_at(line, len(PICTURE))
                index = index_of.get(name)
                if index is None:
                    continue  # a picture that is no longer there
                if line.startswith(ERROR, end):
                    self.errors[index] = json.loads(line)["error"]
                else:
                    self._file_of[index], self._offset_of[index] = number, offset
        self.is_finished = self._file_of >= 0
        self.errors = {index: self.errors[index] for index in sorted(self.errors) if not self.is_finished[index]}

    @property
    def num_missing(self) -> int:
        """How many pictures no process has come to yet."""
        return int((~self.is_finished).sum()) - len(self.errors)

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of finished pictures in the order of the pictures, one at a time."""
        files = [path.open("rb") for path in self._files]
        try:
            for index in np.flatnonzero(self.is_finished).tolist():
                file = files[self._file_of[index]]
                file.seek(self._offset_of[index])
                yield json.loads(file.readline())
        finally:
            for file in files:
                file.close()


def check_fingerprint(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    """
    Notes in a folder what its predictions depend on, or compares with what is noted there.

    Args:
        directory: the folder of predictions; made if it does not exist.
        fingerprint: what they depend on, by name; JSON.

    Raises:
        ValueError: the folder holds predictions that were made differently.
    """
    path = directory / RUN_FILE
    directory.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # All processes write the same here, each under a name of its own until it is complete.
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        draft.write_text(json.dumps(fingerprint, indent=2) + "\n", encoding="ascii")
        draft.replace(path)
    noted, given = (
        _flat(content) for content in (json.loads(path.read_text("ascii")), json.loads(json.dumps(fingerprint)))
    )
    differences = [
        f"  {name}: {_short(noted.get(name))} there, {_short(given.get(name))} now"
        for name in sorted(noted.keys() | given.keys())
        if noted.get(name) != given.get(name)
    ]
    if differences:
        raise ValueError(
            f"{directory} holds predictions that were made differently:\n"
            + "\n".join(differences)
            + "\nChoose another folder, or remove this one."
        )


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers that are saved with a model, about a second per GB."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _drop_torn_line(path: Path) -> None:
    """Cuts off what a process that was killed while writing left behind the last whole line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Whole lines, and where they start."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            # A machine that lost its power may leave zeros in place of a line.
            if line.endswith(b"}\n") and line.startswith(PICTURE.encode()):
                yield offset, line.decode("ascii")
            offset += len(line)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries of nested dicts by their path, `{"size": {"height": 1}}` as `{"size.height": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."

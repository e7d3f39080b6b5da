"""What is already done in a folder of predictions, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec
import numpy as np
import torch
from torch import nn

from ..comparison import differences


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


RUN_FILE = "run.json"
RECORDS = "records"
BLOCK = 1 << 20  # bytes read at a time when looking for the end of the last line
LINE_START = b'{"picture": '


class Record(msgspec.Struct):
    """A line of the records: what was done about a picture.

    Args:
        picture: its name.
        error: why it cannot be read.
        failure: why there are no results of it, or no files of them, though it can be read.
        stamp: tells the file that was read from one that replaced it.
        files: the files that were written, from the folder of predictions on, and their sizes in bytes.
        num_segments: how many segments were found; None where every pixel has a class.
        id, height, width, segments: what the files about all pictures need.
    """

    picture: str
    error: str | None = None
    failure: str | None = None
    stamp: str | None = None
    files: dict[str, int] = {}
    num_segments: int | None = None
    id: int | str | None = None
    height: int | None = None
    width: int | None = None
    segments: list[dict[str, Any]] | None = None


_decoder = msgspec.json.Decoder(Record)


class RecordFile:
    """Where one process writes a line for each picture it is done with; threads may share it.

    Args:
        path: the file, see [`record_path`].

    Attributes:
        num_added: pictures whose files were written.
    """

    def __init__(self, path: Path) -> None:
        _drop_torn_line(path)
        self.num_added = 0
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, content: Mapping[str, Any]) -> None:
        """Notes that a picture's files are written. `content` are fields of its [`Record`]."""
        self._write({"picture": name, **content})
        self.num_added += 1

    def add_error(self, name: str, error: str) -> None:
        """Notes that a picture cannot be read."""
        self._write({"picture": name, "error": error})

    def add_failure(self, name: str, reason: str) -> None:
        """Notes that a picture could be read, but that there are no results of it, or no files of them."""
        self._write({"picture": name, "failure": reason})

    def _write(self, record: Mapping[str, Any]) -> None:
        # Bytes of file names that are no text, which messages may hold, are no JSON for most readers.
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock:
            start = os.fstat(self._file.fileno()).st_size
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:  # on a disk that is full, half a line would spoil the next one
                os.ftruncate(self._file.fileno(), start)
                raise


class FinishedPictures:
    """Which pictures are done, from the records of all processes that ever worked on a folder.

    Of each picture only the place of its record is kept in memory. A line that was not written to its end, or that
    something else has damaged, is no record: its picture is done again. The last record of a picture counts.

    Args:
        directory: the folder of predictions.
        names: of all pictures, in order.
        is_current: whether the record of a picture, given with its number, still holds. By default it does.

    Attributes:
        is_finished: `(num_pictures,)` bool, whether the picture's files are written.
        is_empty: `(num_pictures,)` bool, whether no segment was found in a finished picture.
        errors, failures: number of the picture -> why it could not be read, or not be segmented or written, of
            pictures that are not finished.
    """

    def __init__(
        self, directory: Path, names: Sequence[str], is_current: Callable[[int, Record], bool] = lambda *_: True
    ) -> None:
        self._files = sorted((directory / RECORDS).glob("*.jsonl"))
        self._file_of = np.full(len(names), -1, dtype=np.int32)
        self._offset_of = np.zeros(len(names), dtype=np.int64)
        self.is_empty = np.zeros(len(names), dtype=bool)
        errors: dict[int, str] = {}
        failures: dict[int, str] = {}
        index_of = {name: index for index, name in enumerate(names)}
        for number, path in enumerate(self._files):
            for offset, record in _records(path):
                index = index_of.get(record.picture)
                if index is None:
                    continue  # a picture that is no longer there
                if record.error is not None:
                    errors[index] = record.error
                    failures.pop(index, None)
                elif record.failure is not None:
                    failures[index] = record.failure
                    errors.pop(index, None)
                elif is_current(index, record):
                    self._file_of[index], self._offset_of[index] = number, offset
                    self.is_empty[index] = record.num_segments == 0
        self.is_finished = self._file_of >= 0
        self.errors, self.failures = (
            {index: reasons[index] for index in sorted(reasons) if not self.is_finished[index]}
            for reasons in (errors, failures)
        )

    def records(self) -> Iterator[Record]:
        """The records of finished pictures in the order of the pictures, one at a time."""
        files = [path.open("rb") for path in self._files]
        try:
            for index in np.flatnonzero(self.is_finished).tolist():
                file = files[self._file_of[index]]
                file.seek(self._offset_of[index])
                yield _decoder.decode(file.readline())
        finally:
            for file in files:
                file.close()


def record_path(directory: Path, process: str) -> Path:
    """The records of a process, called such as "0-of-1"."""
    return directory / RECORDS / f"{process}.jsonl"


@contextmanager
def only_run(directory: Path, process: str) -> Iterator[None]:
    """
    As long as this lasts, no other run writes predictions into a folder as the same process.

    Args:
        directory: the folder.
        process: such as "0-of-1".

    Raises:
        OSError: another run does.
    """
    path = record_path(directory, process)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if not _lock(file):
            raise OSError(
                f"Another run is writing predictions into {directory}. Wait until it has ended, or choose another "
                "folder."
            )
        yield


def is_running(directory: Path, process: str) -> bool:
    """Whether a run writes predictions into a folder as this process, on this machine at least."""
    try:
        with record_path(directory, process).open("rb+") as file:
            return not _lock(file)
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> bool:
    """Locks a file until it is closed; False if another has locked it. Where nothing can be locked, nobody has."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network's disks
        return True
    return True


def check_fingerprint(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    """
    Notes in a folder what its predictions depend on, or compares with what is noted there.

    Args:
        directory: the folder of predictions; made if it does not exist.
        fingerprint: what they depend on, by name; JSON.

    Raises:
        ValueError: the folder holds predictions that were made differently, or nobody knows how.
    """
    path = directory / RUN_FILE
    directory.mkdir(parents=True, exist_ok=True)
    has_records = any(file.stat().st_size for file in (directory / RECORDS).glob("*.jsonl"))
    if not path.exists() or (not has_records and _noted(path) is None):
        if has_records:
            raise ValueError(_unknown(path, "is missing"))
        # All processes write the same here, each under a name of its own until it is complete.
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with draft.open("w", encoding="ascii") as file:
            file.write(json.dumps(fingerprint, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    content = _noted(path)
    if content is None:
        raise ValueError(_unknown(path, "is damaged"))
    if differing := differences(content, fingerprint):
        raise ValueError(
            f"{directory} holds predictions that were made differently:\n"
            + "\n".join(differing)
            + "\nChoose another folder, or remove this one."
        )


def _noted(path: Path) -> dict[str, Any] | None:
    """What a folder's predictions depend on, as it is noted there; None if the file is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _unknown(path: Path, what: str) -> str:
    return (
        f"{path} {what}, so that nobody knows how the predictions beside it were made. Choose another folder, or "
        f"remove {path.parent}."
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


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    """Whole records, and where they start."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"}\n") and line.startswith(LINE_START):
                # A machine that lost its power may leave anything in place of a line.
                with suppress(ValueError, RecursionError):
                    yield offset, _decoder.decode(line)
            offset += len(line)

"""Files that several processes write into one folder appear as a whole, and what killed ones left is removed."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from training_eomt.prediction.shared_folder import SharedFolder


def test_a_file_appears_and_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = SharedFolder(tmp_path, "0-of-1")
    assert folder.write_text("a/b.json", ["one", "\n"]) == 4

    def fill_the_disk(draft):
        assert (tmp_path / "a" / "b.json").read_text() == "one\n"
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder.write("a/b.json", fill_the_disk)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b.json"]
    assert (tmp_path / "a" / "b.json").read_text() == "one\n"


def test_two_processes_write_the_same_file_at_a_time(tmp_path):
    first, second = (SharedFolder(tmp_path, f"{index}-of-2") for index in range(2))

    def write(draft):
        draft.write_text("first")
        second.write_text("all.json", ["second"])

    first.write("all.json", write)
    assert (tmp_path / "all.json").read_text() == "first"


def test_two_runs_do_not_write_as_the_same_process(tmp_path, monkeypatch):
    monkeypatch.setattr("training_eomt.prediction.shared_folder.PATIENCE", 0.1)
    first, second = (SharedFolder(tmp_path, f"{index}-of-2") for index in range(2))
    refused = pytest.raises(OSError, match=r"Another run is writing predictions into .*Wait")
    with first.hold(), second.hold(), refused, SharedFolder(tmp_path, "0-of-2").hold():
        pass
    with SharedFolder(tmp_path, "0-of-2").hold():
        pass


def test_a_run_that_starts_while_another_removes_what_was_killed_is_not_refused(tmp_path, monkeypatch):
    first, second = (SharedFolder(tmp_path, f"{index}-of-2") for index in range(2))
    (tmp_path / ".drafts" / "1-of-2").mkdir(parents=True)
    with ThreadPoolExecutor() as threads:
        held = []

        def remove(folder):
            if folder.name == "1-of-2" and not held:
                held.append(threads.submit(hold))
                time.sleep(0.3)
            shutil.rmtree(folder)

        def hold():
            with second.hold():
                return True

        monkeypatch.setattr("training_eomt.prediction.shared_folder.shutil", SimpleNamespace(rmtree=remove))
        with first.hold():
            pass
        assert held[0].result()


def test_where_nothing_can_be_locked_nobody_is_refused_and_drafts_of_others_stay(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("training_eomt.prediction.shared_folder.fcntl.flock", refuse)
    for name in ("0-of-2", "1-of-2"):
        (tmp_path / ".drafts" / name).mkdir(parents=True)
    folder = SharedFolder(tmp_path, "0-of-2")
    with folder.hold(), SharedFolder(tmp_path, "0-of-2").hold():
        pass
    assert [path.name for path in folder.list_drafts()] == ["1-of-2"]

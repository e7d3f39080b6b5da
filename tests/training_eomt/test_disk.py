"""A disk that is full or cannot be written to is noticed in time, and no file is there in half."""

import errno
import os
import shutil
import tempfile
from types import SimpleNamespace

import pytest

from training_eomt.disk import check_room, check_writable, write_whole


def test_a_folder_that_can_be_written_into_stays_empty(tmp_path):
    check_room(tmp_path)
    check_room(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_written_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"file is a file: choose another"):
        check_room(tmp_path / "file" / "out")


def test_a_full_disk_is_named_with_the_room_that_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(OSError, match="has 5 MB free, and 17 MB are needed"):
        check_room(tmp_path)


def test_a_file_that_cannot_be_written_to_its_end_leaves_the_former_one(tmp_path):
    path = tmp_path / "report.json"
    write_whole(path, lambda draft: draft.write_text("first"))

    def fail(draft):
        draft.write_text("sec")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"] and path.read_text() == "first"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_named(tmp_path, monkeypatch, number):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=rf"output cannot be written: {os.strerror(number)}\. Choose another folder"):
        check_writable(tmp_path / "output")

"""Where nothing can be written, that is said first."""

import errno
import os
import tempfile

import pytest

from training_eomt.output_folder import check_writable


def test_nothing_is_left_behind_and_nothing_made(tmp_path):
    check_writable(tmp_path / "new" / "output")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "output"):
        with pytest.raises(NotADirectoryError, match="file is a file: choose another --output_dir"):
            check_writable(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_named(tmp_path, monkeypatch, number):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=rf"output cannot be written: {os.strerror(number)}\. Choose another"):
        check_writable(tmp_path / "output")

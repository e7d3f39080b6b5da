"""A draft leaves nothing behind, a full disk is one kind of error, and a link is only a link."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training_eomt import folders
from training_eomt.folders import discard, disk_errors, draft_of


def write(folder: Path, content: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    return folder


def test_of_a_draft_nothing_is_left_not_even_that_of_a_process_that_was_killed(tmp_path):
    write(tmp_path / "model" / folders.DRAFT, {"config.json": "of a process that was killed"})
    with pytest.raises(ValueError, match="broken"), draft_of(tmp_path / "model") as draft:
        assert list(draft.iterdir()) == []
        raise ValueError("broken")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_link_is_deleted_and_not_what_it_points_to(tmp_path):
    write(tmp_path / "elsewhere", {"a": "a"})
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    discard(tmp_path / "link")
    discard(tmp_path / "nowhere")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere" / "a").exists()


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_file({"weights": torch.zeros(1000)}, path),
        lambda path: torch.save(torch.zeros(1000), path),
        lambda path: path.write_bytes(bytes(4000)),
    ],
    ids=["safetensors", "torch", "python"],
)
def test_a_full_disk_is_one_kind_of_error_whoever_writes(tmp_path, full_disk, save):
    with pytest.raises(OSError, match=f"{tmp_path} cannot be written: ."), disk_errors(tmp_path), full_disk():
        save(tmp_path / "file")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error_too(tmp_path):
    tmp_path.chmod(0o500)
    for save in (lambda path: save_file({}, path), lambda path: torch.save({}, path)):
        with pytest.raises(OSError, match="cannot be written"), disk_errors(tmp_path):
            save(tmp_path / "file")
    tmp_path.chmod(0o700)

"""A folder holds the former model, none, or the new one; a full disk is one kind of error; a link is only a link."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training_eomt.folders import DRAFT, discard, disk_errors, draft_folder, publish_draft


FORMER = {"config.json": "former", "model-00001-of-00002.safetensors": "former", "model.safetensors.index.json": "i"}
NEW = {"config.json": "new", "model.safetensors": "new", "README.md": "new"}


def write(folder: Path, content: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    return folder


def test_of_a_draft_nothing_is_left_not_even_that_of_a_process_that_was_killed(tmp_path):
    write(tmp_path / "model" / DRAFT, {"config.json": "of a process that was killed"})
    with pytest.raises(ValueError, match="broken"), draft_folder(tmp_path / "model") as draft:
        assert list(draft.iterdir()) == []
        raise ValueError("broken")
    assert list((tmp_path / "model").iterdir()) == []


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


class Killed(BaseException):
    """Stands for the end of the process."""


def test_wherever_it_is_killed_old_and_new_are_not_mixed(tmp_path, monkeypatch):
    """Each change of a file is the last one in turn; loading begins with `config.json`."""
    keepsake = {"keepsake.txt": "mine"}
    changes, killed_at = 0, -1
    unlink, replace = Path.unlink, Path.replace

    def changing(change):
        def changed(path, *args, **kwargs):
            nonlocal changes
            if changes == killed_at:
                raise Killed
            changes += 1
            return change(path, *args, **kwargs)

        return changed

    monkeypatch.setattr(Path, "unlink", changing(unlink))
    monkeypatch.setattr(Path, "replace", changing(replace))
    seen = set()
    for killed_at in range(20):
        changes = 0
        folder = write(tmp_path / str(killed_at) / "model", FORMER | keepsake)
        draft = write(tmp_path / str(killed_at) / "draft", NEW)
        try:
            publish_draft(draft, folder)
        except Killed:
            pass
        else:
            break
        found = read(folder)
        assert found["keepsake.txt"] == "mine"
        if "config.json" in found:
            assert found == FORMER | keepsake
        seen.add("config.json" in found)
    assert killed_at > 4 and seen == {True, False}
    assert read(folder) == NEW | keepsake


def test_a_folder_that_was_made_for_a_draft_goes_with_it_unless_something_was_moved_there(tmp_path):
    with draft_folder(tmp_path / "model") as draft:
        write(draft, NEW)
    assert not (tmp_path / "model").exists()
    with draft_folder(tmp_path / "model") as draft:
        publish_draft(write(draft, NEW), tmp_path / "model")
    assert read(tmp_path / "model") == NEW and not (tmp_path / "model" / DRAFT).exists()


def test_weights_may_be_removed_by_another_process_that_saves_too(tmp_path, monkeypatch):
    folder = write(tmp_path / "model", FORMER)
    replace = Path.replace

    def replaced(path, target):
        for name in FORMER:
            (folder / name).unlink(missing_ok=True)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    publish_draft(write(tmp_path / "draft", NEW), folder)
    assert "config.json" in read(folder)


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

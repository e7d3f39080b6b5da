"""A folder of a model holds the former model, none, or the new one, and never a part of each."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from configuration_eomt.folders_eomt import draft_folder, give_usual_mode, publish


FORMER = {"config.json": "former", "model-00001-of-00002.safetensors": "former", "model.safetensors.index.json": "i"}
NEW = {"config.json": "new", "model.safetensors": "new", "README.md": "new"}


def write(folder: Path, content: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    return folder


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
            publish(draft, folder)
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


def test_what_does_not_exist_appears_at_once(tmp_path):
    publish(write(tmp_path / "draft", NEW), tmp_path / "model")
    assert read(tmp_path / "model") == NEW and not (tmp_path / "draft").exists()


def test_weights_may_be_removed_by_another_process_that_saves_too(tmp_path, monkeypatch):
    folder = write(tmp_path / "model", FORMER)
    replace = Path.replace

    def replaced(path, target):
        for name in FORMER:
            (folder / name).unlink(missing_ok=True)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    publish(write(tmp_path / "draft", NEW), folder)
    assert "config.json" in read(folder)


def hold(parent, is_held, is_over):
    with draft_folder(parent, ".saving-") as draft:
        write(draft, NEW)
        is_held.set()
        is_over.wait(60)
        assert read(draft) == NEW


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")
def test_the_draft_of_a_process_that_is_alive_is_not_taken_for_a_dead_ones(tmp_path):
    """As where all processes of a training save the model, and not only the first."""
    write(tmp_path / ".saving-abcd1234" / "draft", NEW)  # of a process that was killed
    processes = multiprocessing.get_context("spawn")
    is_held, is_over = processes.Event(), processes.Event()
    other = processes.Process(target=hold, args=(tmp_path, is_held, is_over))
    other.start()
    assert is_held.wait(60)
    assert len(list(tmp_path.iterdir())) == 1
    with draft_folder(tmp_path, ".saving-") as draft:
        write(draft, NEW)
    is_over.set()
    other.join(60)
    assert other.exitcode == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_weights_are_as_private_as_the_configuration_beside_them(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path, NEW)
    finally:
        os.umask(before)
    weights = tmp_path / "model.safetensors"
    weights.chmod(0o600)
    give_usual_mode([weights])
    assert stat.S_IMODE(weights.stat().st_mode) == 0o666 & ~umask

"""What an export may replace, and what is left of it."""

import json

import pytest

from deployment_eomt.folder import MANIFEST, check_target, draft_folder, publish_draft, read_own


def write_export(folder, *names, files=None):
    with draft_folder(folder) as draft:
        for name in names:
            (draft / name).write_text(name)
        (draft / MANIFEST).write_text(json.dumps({"eomt": {"files": files or [*names, MANIFEST]}}))
        publish_draft(draft, folder)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_export_replaces_an_earlier_one_and_leaves_other_files(tmp_path):
    write_export(tmp_path / "out", "model.onnx", "model.onnx.data")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    check_target(tmp_path / "out")
    write_export(tmp_path / "out", "model.xml", "model.bin")
    assert names(tmp_path / "out") == ["export.json", "model.bin", "model.xml", "notes.txt"]


def test_graphs_that_are_folders_are_replaced(tmp_path):
    folder = tmp_path / "out"
    for content in ("first", "second"):
        with draft_folder(folder) as draft:
            (draft / "model.mlpackage").mkdir()
            (draft / "model.mlpackage" / content).write_text(content)
            (draft / MANIFEST).write_text(json.dumps({"eomt": {"files": ["model.mlpackage", MANIFEST]}}))
            publish_draft(draft, folder)
    assert names(folder / "model.mlpackage") == ["second"]


def test_what_a_manifest_names_outside_of_its_folder_stays(tmp_path):
    (tmp_path / "precious").write_text("mine")
    write_export(tmp_path / "out", "model.onnx", files=["../precious", "model.onnx"])
    write_export(tmp_path / "out", "model.xml")
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "no json", '{"eomt": 1}'])
def test_something_else_is_not_replaced(tmp_path, manifest):
    (tmp_path / "config.json").write_text("{}")
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest)
    assert read_own(tmp_path) is None
    with pytest.raises(FileExistsError, match="something else than an export"):
        check_target(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        check_target(tmp_path / "config.json")
    with pytest.raises(FileExistsError, match=r"out cannot be made: .*config\.json is a file"):
        check_target(tmp_path / "config.json" / "new" / "out")


def test_what_is_new_or_empty_is_written_to(tmp_path):
    check_target(tmp_path / "new" / "folder")
    (tmp_path / ".draft-of-a-killed-process").mkdir()
    check_target(tmp_path)


def test_a_folder_in_the_way_is_an_error_and_nothing_is_moved(tmp_path):
    write_export(tmp_path / "out", "model.onnx")
    (tmp_path / "out" / "model.xml").mkdir()
    with pytest.raises(FileExistsError, match=r"model\.xml"):
        write_export(tmp_path / "out", "model.xml")
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_failure_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), draft_folder(tmp_path / "out"):
        raise RuntimeError
    assert not (tmp_path / "out").exists()

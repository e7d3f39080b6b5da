import zipfile

import pytest

from training_eomt.data.class_names import find_class_names, numbered, read_class_names
from training_eomt.data.files import FileTree


def test_class_names_are_read_from_text_tables_and_json(tmp_path):
    for name, text in (
        ("a.txt", "road\ncar, automobile\n"),
        ("b.txt", "0: road\n1: car, automobile\n"),
        ("c.txt", "Idx\tRatio\tName\n1\t0.5\troad\n2\t0.5\tcar, automobile\n"),
        ("d.json", '["road", "car, automobile"]'),
        ("e.json", '{"1": "car, automobile", "0": "road"}'),
    ):
        (tmp_path / name).write_text(text)
        assert read_class_names(tmp_path / name) == ["road", "car, automobile"]
    (tmp_path / "f.json").write_text('{"1": "car"}')
    with pytest.raises(ValueError, match=r"f\.json: the numbers of the classes must be 0 to 0"):
        read_class_names(tmp_path / "f.json")


def test_names_are_found_in_the_folder_before_the_one_around_it(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "x.png").write_bytes(b"")
    assert find_class_names(FileTree(tmp_path / "train")) is None
    (tmp_path / "classes.txt").write_text("road\n")
    assert find_class_names(FileTree(tmp_path / "train")) == ["road"]
    assert find_class_names(FileTree(tmp_path).subtree("train")) == ["road"]
    (tmp_path / "train" / "names.txt").write_text("car\n")
    assert find_class_names(FileTree(tmp_path).subtree("train")) == ["car"]


def test_names_are_found_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("classes.txt", "road\n")
        archive.writestr("train/images/x.png", b"")
    assert find_class_names(FileTree(tmp_path / "data.zip").subtree("train")) == ["road"]


def test_a_file_without_names_is_an_error(tmp_path):
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"classes\.txt names no classes"):
        read_class_names(tmp_path / "classes.txt")
    (tmp_path / "id2label.json").write_text('{"a": "car"}')
    with pytest.raises(ValueError, match=r"id2label\.json must map the numbers"):
        read_class_names(tmp_path / "id2label.json")


def test_classes_without_names_are_numbered_without_gaps():
    assert numbered({1, 3}, first_class=1) == {1: "class 1", 2: "class 2", 3: "class 3"}
    assert numbered(set(), first_class=1) == {}

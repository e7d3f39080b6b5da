import zipfile

import pytest

from training_eomt.data.class_names import find_class_names, name_by_number, name_by_value, read_class_names
from training_eomt.data.files import FileTree


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_class_names(path)


def test_class_names_are_read_from_text_tables_and_json(tmp_path):
    for name, text in (
        ("a.txt", "road\ncar, automobile\n"),
        ("b.txt", "0: road\n1: car, automobile\n"),
        ("c.txt", "0\troad\n1\tcar, automobile\n"),
        ("d.json", '["road", "car, automobile"]'),
        ("e.json", '{"1": "car, automobile", "0": "road"}'),
        ("f.txt", "# CVAT's\n\n# label:color_rgb:parts:actions\nroad:0,0,0::\ncar, automobile:128, 0,0::\n"),
        ("g.txt", "# mine\nroad\n\n  # more\ncar, automobile"),
        ("i.txt", "0\troad\t#804080\tflat\n1\tcar, automobile\t#00008e\tvehicle\n"),
        ("j.txt", "0\t128\t64\t128\troad\n1\t0\t0\t142\tcar, automobile\n"),
        ("k.txt", "id\tname\tcolour\n0\troad\t#804080\n1\tcar, automobile\t#00008e\n"),
        ("h.txt", "Index\tColour\tName\n1\t#fff\tcar, automobile\n0\t#000\troad\n"),
    ):
        assert read(tmp_path, name, text) == ["road", "car, automobile"], name


def test_names_that_are_numbered_from_1_keep_their_numbers(tmp_path):
    for name, text in (
        ("a.txt", "Idx\tRatio\tName\n1\t0.5\troad\n2\t0.5\tcar\n"),  # as in ADE20K's objectInfo150.txt
        ("b.txt", "1\troad\n2\tcar\n"),
        ("c.txt", "1: road\n2: car\n"),
        ("d.json", '{"2": "car", "1": "road"}'),
    ):
        names = read(tmp_path, name, text)
        assert name_by_value(names, 0) == name_by_value(names, 1) == {1: "road", 2: "car"}
    assert name_by_value(["road", "car"], 0) == {0: "road", 1: "car"}
    assert name_by_value(["road", "car"], 1) == {1: "road", 2: "car"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name, text", [("a.txt", "Straße\neau, vœu\n"), ("a.json", '["Straße", "eau, vœu"]')])
def test_a_byte_order_mark_belongs_to_no_name(tmp_path, encoding, name, text):
    content = (b"\xff\xfe" if encoding == "utf-16-le" else b"") + text.encode(encoding)
    assert read(tmp_path, name, content) == ["Straße", "eau, vœu"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("latin.txt", "Straße\n".encode("latin-1"), r"latin\.txt is no UTF-8 text"),
        ("gap.txt", "0: road\n1: car\n3: sky\n", r"gap\.txt has names for classes up to 3, and none for 2\."),
        ("gap.json", '{"1": "a", "4": "b"}', r"gap\.json has names for classes up to 4, and none for 2\."),
        ("far.json", '{"7": "a"}', r"far\.json has names for classes up to 7, and none for 0\."),
        ("huge.json", '{"0": "a", "99999999999999999999": "b"}', r"huge\.json has names for classes up to 9{20}"),
        ("digits.json", '{"' + 5000 * "9" + '": "a"}', r"digits\.json must map the numbers.* is no number"),
        ("digits.txt", 5000 * "9" + ": a\n", r"digits\.txt: line 1"),
        ("half.json", '["a\\ud800"]', r"half\.json is not valid JSON: .*surrogates"),
        ("twice.txt", "0: a\n0: a\n", r"twice\.txt: line 2 names class 0 a second time"),
        ("twice.json", '{"0": "road", "0": "car"}', r"twice\.json is not valid JSON: the key '0' comes twice"),
        ("same.json", '{"0": "road", "00": "car"}', r"same\.json: two of its 2 keys are the same number"),
        ("mixed.txt", "0: road\ncar\n", r"mixed\.txt: line 2, 'car', does not hold a number, a colon and a name"),
        ("table.txt", "no\tname\nx\troad\n", r"table\.txt: line 2, .*, does not hold a number, tabs and a name"),
        ("empty.txt", "0\troad\n1\t\n", r"empty\.txt: line 2"),
        ("null.json", '["road", null]', r"null\.json must hold a list of names.*`null`.*`\$\[1\]`"),
        ("list.json", '["road", ["car"]]', r"list\.json must hold a list of names.*`array`"),
        ("number.json", '{"0": 1}', r"number\.json must hold a list of names.*`int`"),
        ("bool.json", "[true, false]", r"bool\.json must hold a list of names.*`bool`"),
        ("text.json", '"road"', r"text\.json must hold a list of names"),
        ("deep.json", "[" * 100_000, r"deep\.json is not valid JSON"),
        ("none.json", "{}", r"none\.json names no classes"),
        ("comments.txt", "# nothing\n", r"comments\.txt names no classes"),
    ],
)
def test_what_is_no_list_of_names_is_an_error_that_names_the_file(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, content)


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
    assert name_by_number({1, 3}, first_class=1) == {1: "class 1", 2: "class 2", 3: "class 3"}
    assert name_by_number(set(), first_class=1) == {}

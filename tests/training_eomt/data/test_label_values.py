import json

import pytest

from training_eomt.data.files import FileTree
from training_eomt.data.label_values import find_label_map_file, parse_label_values, read_label_values


def read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return read_label_values(tmp_path / name)


def test_values_are_the_numbers_of_their_classes(tmp_path):
    for name, text in (
        ("a.json", '{"0": "background", "255": "lesion", "7": null}'),
        ("a.yaml", "0: background\n255: lesion\n7: null\n"),
        ("b.yml", '"0": background\n"255": lesion\n7:\n'),
    ):
        table = read(tmp_path, name, text)
        assert not table.is_colours and table.ignored == {7}
        assert table.names == {0: "background", 255: "lesion"} and table.category_ids == {0: 0, 255: 255}


def test_several_values_may_be_of_one_class():
    table = parse_label_values({"3": "cat", "9": "dog", "4": "cat"}, "here")
    assert table.category_ids == {3: 3, 9: 9, 4: 3} and table.names == {3: "cat", 9: "dog"}


def test_colours_are_numbered_in_order(tmp_path):
    for name, text in (
        ("a.json", '{"0,0,0": "background", "128, 0, 0": "cat", "#008001": "dog", "224,224,192": null}'),
        ("a.yaml", "0,0,0: background\n128,0,0: cat\n'#008001': dog\n'#e0e0c0':\n"),
    ):
        table = read(tmp_path, name, text)
        assert table.is_colours and table.ignored == {224 + 224 * 256 + 192 * 65536}
        assert table.category_ids == {0: 0, 128: 1, 128 * 256 + 65536: 2}
        assert table.names == {0: "background", 1: "cat", 2: "dog"}


def test_the_file_of_cvat_is_a_table_of_colours(tmp_path):
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0:head,tail:\nguide dog:0, 128,0::walk\n"
    table = read(tmp_path, "labelmap.txt", text)
    assert table.is_colours and table.names == {0: "background", 1: "cat", 2: "guide dog"}
    assert list(table.category_ids) == [0, 128, 128 * 256]
    assert find_label_map_file(FileTree(tmp_path)).names == table.names
    (tmp_path / "inner").mkdir()
    assert find_label_map_file(FileTree(tmp_path).subtree("inner")).names == table.names


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", "[1]", r"a\.json must hold an object of values, or of colours"),
        ("a.json", '{"0": 1}', r"a\.json must hold an object.*`int`"),
        ("a.json", '{"0": ["a"]}', r"a\.json must hold an object.*`array`"),
        ("a.json", '{"0": "a", "0": "b"}', r"a\.json is not valid JSON: the key '0' comes twice"),
        ("a.json", '{"0": "a", "00": "b"}', r"a\.json lists the value 0 twice"),
        ("a.json", '{"0,0,1": "a", "#000001": "b"}', r"a\.json lists the colour 0,0,1 \(#000001\) twice"),
        ("a.json", '{"0": " "}', r"a\.json: the name of the value 0 is empty"),
        ("a.json", '{"0": null}', r"a\.json names no classes"),
        ("a.json", "{}", r"a\.json names no classes"),
        ("a.json", '{"0": "a", "1,2,3": "b"}', r"a\.json has colours such as 128,0,0 and plain values"),
        ("a.json", '{"1,2": "a"}', r"a\.json: '1,2' is neither a value from 0 to 4294967295 nor a colour"),
        ("a.json", '{"-1": "a"}', r"'-1' is neither"),
        ("a.json", '{"4294967296": "a"}', r"'4294967296' is neither"),
        ("a.json", '{"#12345g": "a"}', r"'#12345g' is neither"),
        ("a.json", json.dumps({"9" * 10_000: "a"}), r"is neither"),
        ("a.json", '{"0,0,256": "a"}', r"the colour in '0,0,256' must be three numbers from 0 to 255"),
        ("a.json", '{"0,0,99999999999": "a"}', r"must be three numbers from 0 to 255"),
        ("a.yaml", "true: a\n", r"a\.yaml must hold an object"),
        ("a.yaml", "1.5: a\n", r"a\.yaml must hold an object"),
        ("a.yaml", "0: a\n0: b\n", r"a\.yaml is not YAML: the key '0' comes twice"),
        ("a.yaml", "a: [\n", r"a\.yaml is not YAML"),
        ("labelmap.txt", "cat\n", r"labelmap\.txt: line 1, 'cat', is not name:red,green,blue:parts:actions"),
        ("labelmap.txt", "# x\ncat:::\n", r"labelmap\.txt: line 2, 'cat:::', is not name"),
        ("labelmap.txt", "cat:0,0,999::\n", r"labelmap\.txt: the colour in 'cat:0,0,999::'"),
        ("labelmap.txt", "cat:0,0,9::\ndog:0,0,9::\n", r"labelmap\.txt lists the colour 0,0,9 \(#000009\) twice"),
    ],
)
def test_what_is_no_table_is_an_error_that_names_the_file(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, text)

import pytest

from training_eomt.yaml_files import read_yaml


@pytest.mark.parametrize(
    "text, value",
    [
        ("[no, yes, on, Off, n]", ["no", "yes", "on", "Off", "n"]),
        ("[true, False]", [True, False]),
        ("[1, -2, 010, 0x1F, 0o17]", [1, -2, 10, 31, 15]),
        ("[1e-4, 1.5, .5, 2., -.inf]", [1e-4, 1.5, 0.5, 2.0, float("-inf")]),
        ("[1:30, 2020-01-01, 1_000, a]", ["1:30", "2020-01-01", "1_000", "a"]),
        ("[~, null, '']", [None, None, ""]),
        ("{0: a, '1': 'yes', x: {y: [1]}}", {0: "a", "1": "yes", "x": {"y": [1]}}),
        ("&a [1, !!str 2]", [1, "2"]),
        ("", None),
    ],
)
def test_words_are_what_the_core_schema_of_yaml_1_2_says(text, value):
    assert read_yaml(text, "a.yaml") == value
    assert repr(read_yaml(text, "a.yaml")) == repr(value), "1 and True are equal"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [x", "expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3", "the key 'a' comes twice.*line 3"),
        ("x: {names: [a], names: [b]}", "the key 'names' comes twice"),
        ("a: &a [1]\nb: *a", "an alias: write the value itself"),
        ("a: &a {x: 1}\nb: {<<: *a}", "an alias"),
        ("a: !!python/object/apply:os.system ['true']", "is no plain data"),
        ("a: !!bool x", "is no plain data"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ("[" * 100_000, "more than 50 lists"),
        ("a: \x00", "unacceptable character"),
        ('a: "\\ud800"', "halves of characters"),
        ("1" * 5000, "is not YAML"),
        ("- a\nb: c", "expected"),
        ("a: !!timestamp never", "is no plain data"),
    ],
)
def test_what_is_no_plain_data_is_an_error_that_names_the_file(text, message):
    with pytest.raises(ValueError, match=rf"a\.yaml.*{message}"):
        read_yaml(text, "a.yaml")


def test_nested_anchors_are_refused_at_once():
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    with pytest.raises(ValueError, match="an alias"):
        read_yaml("\n".join(lines), "bomb.yaml")

import json
import math

import msgspec
import pytest

from training_eomt.json_files import parse_flag, parse_id, read_json


class Point(msgspec.Struct):
    x: float
    name: str | None = None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_in_every_encoding_that_says_what_it_is(encoding):
    assert read_json('{"x": 1, "name": "grün"}'.encode(encoding), Point, "a.json") == Point(1.0, "grün")


def test_nan_is_an_error_only_where_a_number_is_asked_for():
    text = json.dumps({"x": 1, "name": 'NaN, -Infinity "NaN', "more": [math.nan, -math.inf, math.inf]})
    assert "NaN]" not in text and read_json(text.encode(), Point, "a.json").name == 'NaN, -Infinity "NaN'
    with pytest.raises(ValueError, match=r"a\.json is not a point: expected a number, got NaN.* - at `\$\.x`"):
        read_json(json.dumps({"x": math.nan}).encode(), Point, "a.json", "a point")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is not valid JSON"),
        (b'{"x": 1', "is not valid JSON"),
        (b'{"x": 1} 2', "is not valid JSON"),
        (b'{"x": 1, NaN', "is not valid JSON"),
        (b'{"x": 1, "name": "\xff"}', "is not valid JSON"),
        (b'{"x": 1, "name": "\\ud800"}', "is not valid JSON"),
        (b"\xff\xfe{", "is not valid JSON"),
        (b'{"y": ' + b"[" * 10**6, "is not valid JSON: maximum recursion depth"),
        (b"null", "is not what is expected: expected `object`, got `null`"),
        (b"{}", "missing required field `x`"),
        (b'{"x": "1"}', r"expected `float`, got `str` - at `\$\.x`"),
        (b'{"x": 1' + b"0" * 400 + b"}", "got NaN, Infinity or one as large"),
    ],
)
def test_errors_say_the_file_the_place_and_what_was_expected(content, message):
    with pytest.raises(ValueError, match=rf"a\.json .*{message}"):
        read_json(content, Point, "a.json")


def test_ids_are_the_same_however_they_are_written():
    assert [parse_id(value) for value in (1, 1.0, "1", "-7", 1e20)] == [1, 1, 1, -7, 10**20]
    assert [parse_id(value) for value in ("01", "1.0", "a", "", "٣", "9" * 30)] == [
        "01",
        "1.0",
        "a",
        "",
        "٣",
        "9" * 30,
    ]
    with pytest.raises(ValueError, match=r"the id is 1\.5"):
        parse_id(1.5)


def test_flags_are_the_same_however_they_are_written():
    assert [parse_flag(value, "a") for value in (1, True, "1", "true", 1.0)] == [True] * 5
    assert [parse_flag(value, "a") for value in (0, False, "0", "False", 0.0)] == [False] * 5
    for value in (2, -1, "yes", "", None, [], 0.5):
        with pytest.raises(ValueError, match=r"a is .*, expected 0 or 1"):
            parse_flag(value, "a")

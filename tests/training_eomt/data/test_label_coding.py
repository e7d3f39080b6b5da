import io
import time

import numpy as np
import pytest
from PIL import Image

from training_eomt.data.class_names import ClassNames
from training_eomt.data.label_coding import extract_colours, extract_values, find_label_coding, segment_map
from training_eomt.data.label_values import parse_label_values
from training_eomt.data.samples import Target


VALUES = np.array([[0, 1, 1, 0], [2, 2, 255, 7]], np.uint8)


def coding(names=None, table=None, id2label=None, ignore_index=None, do_reduce_labels=False, maps=(), skip=False):
    values = None if table is None else parse_label_values(table, "table.json")
    readers = [lambda image=image, n=n: (image, f"map {n}") for n, image in enumerate(maps)]
    return find_label_coding(names, values, id2label, ignore_index, do_reduce_labels, readers, skip)


def painted(coded, image):
    """The numbers of classes of each pixel, -1 where there is none."""
    found = np.full((image.height, image.width), -1)
    for rle, category_id, *_ in coded.annotate(image, "here.png"):
        found[Target(rle, 0).mask()] = category_id
    return found.tolist()


@pytest.mark.parametrize("mode", ["L", "P", "I", "I;16", "I;16B", "F", "RGB", "RGBA", "LA"])
def test_every_mode_of_one_channel_and_grey_holds_numbers(mode):
    image = Image.fromarray(VALUES)
    if mode == "P":
        image = Image.fromarray(VALUES).convert("P")
        image.putpalette(bytes(range(255, -1, -1)) * 3)
        image.putdata(VALUES.ravel().tolist())
    elif mode == "I;16":
        image = Image.fromarray(VALUES.astype(np.uint16))
    elif mode == "I;16B":
        image = Image.frombytes(mode, (4, 2), VALUES.astype(">u2").tobytes())
    elif mode != "L":
        image = image.convert(mode)
    assert image.mode == mode
    found = extract_values(image, "here.png")
    assert found.dtype.kind in "ui" and found.tolist() == VALUES.tolist()


def test_black_and_white_is_0_and_1():
    assert extract_values(Image.fromarray(VALUES == 1), "here.png").tolist() == (VALUES == 1).astype(int).tolist()


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return Image.open(file)


@pytest.mark.parametrize(
    "image, message",
    [
        (Image.new("RGB", (4, 2), (1, 2, 3)), r"here\.png is a colour image \(mode RGB\).*--label_values"),
        (Image.new("CMYK", (4, 2)), r"here\.png is a colour image \(mode CMYK\)"),
        (Image.new("LA", (4, 2), (1, 100)), r"here\.png is transparent in 8 pixels"),
        (Image.new("RGBA", (4, 2), (1, 1, 1, 0)), r"here\.png is transparent in 8 pixels"),
        (Image.fromarray(np.array([[0, 0.5]], np.float32)), r"here\.png is of floating point"),
        (Image.fromarray(np.array([[0, np.nan]], np.float32)), r"here\.png is of floating point"),
        (Image.fromarray(np.array([[0, np.inf]], np.float32)), r"here\.png is of floating point"),
        (Image.fromarray(np.array([[0, 1e30]], np.float32)), r"here\.png is of floating point"),
        (jpeg(Image.new("L", (4, 2))), r"here\.png is a JPEG, whose compression changes values"),
    ],
)
def test_what_holds_no_numbers_is_an_error_that_says_why(image, message):
    with pytest.raises(ValueError, match=message):
        extract_values(image, "here.png")


def test_colours_are_one_number_each():
    colours = np.array([[[1, 2, 3], [255, 254, 253]]], np.uint8)
    expected = [[1 + 2 * 256 + 3 * 65536, 255 + 254 * 256 + 253 * 65536]]
    rgb = Image.fromarray(colours)
    palette = Image.new("P", (2, 1))
    palette.putpalette(colours.tobytes())
    palette.putdata([0, 1])
    for image in (rgb, rgb.convert("RGBA"), palette):
        assert extract_colours(image, "here.png").tolist() == expected
    assert extract_colours(Image.new("L", (1, 1), 7), "here.png").tolist() == [[7 * 65536 + 7 * 256 + 7]]
    for image, message in (
        (jpeg(rgb), "is a JPEG"),
        (Image.new("RGBA", (1, 1)), "is transparent in 1 pixels"),
        (Image.new("I;16", (1, 1)), "holds numbers"),
    ):
        with pytest.raises(ValueError, match=f"here.png {message}"):
            extract_colours(image, "here.png")


def test_values_of_a_table_are_classes_and_null_is_void():
    coded = coding(table={"0": "background", "255": "lesion", "1": None, "2": "lesion", "7": None})
    assert painted(coded, Image.fromarray(VALUES)) == [[0, -1, -1, 0], [255, 255, 255, -1]]
    assert coded.names == {0: "background", 255: "lesion"}


def test_colours_of_a_table_are_classes():
    image = Image.fromarray(np.array([[[128, 0, 0], [0, 0, 0], [224, 224, 192]]], np.uint8))
    coded = coding(table={"0,0,0": "background", "#800000": "cat", "224,224,192": None})
    assert painted(coded, image) == [[1, 0, -1]]
    with pytest.raises(
        ValueError, match=r"here\.png: 1 pixels have the colour 128,0,0 \(#800000\), which is not in the table"
    ):
        painted(coding(table={"0,0,0": "background", "224,224,192": None}), image)


def test_a_value_without_a_class_is_named_with_those_that_have_one():
    with pytest.raises(
        ValueError, match=r"here\.png: 2 pixels have the value 2, which is no class: these are 0, 1, 7"
    ):
        segment_map(VALUES, {0: 0, 1: 1, 7: 7}, {255}, "here.png")
    with pytest.raises(ValueError, match=r"1 pixels have the value 7, .*: these are 0 to 2\. .*--ignore_index"):
        segment_map(VALUES, {0: 0, 1: 1, 2: 2}, {255}, "here.png")


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"names": ["a"] * 8}, {255, 65535}),
        ({"names": ["a"] * 300}, {65535}),
        ({"names": ["a"] * 300, "ignore_index": [255]}, {255}),
        ({"names": ["a"] * 8, "do_reduce_labels": True}, {0, 255, 65535}),
        ({"names": ["a"] * 8, "ignore_index": []}, set()),
        ({"id2label": dict.fromkeys(range(300), "a")}, {255, 65535}),
        ({"table": {"0": "a", "255": "b"}}, {65535}),
        ({"table": {"0": "a", "255": "b"}, "ignore_index": [7]}, {7}),
        ({"table": {"0": "a", "9": None}}, {9, 255, 65535}),
        ({"table": {"0,0,0": "a", "9,9,9": None}}, {9 * 65536 + 9 * 256 + 9}),
        ({"maps": [Image.fromarray(VALUES)]}, {255, 65535}),
    ],
)
def test_void_is_the_largest_value_of_8_and_16_bits_unless_it_is_a_class(settings, expected):
    assert coding(**settings).ignored == expected


def test_maps_of_16_bits_whose_void_is_the_largest_value_have_the_classes_that_occur():
    coded = coding(maps=[Image.fromarray(np.array([[0, 1, 65535]], np.uint16))])
    assert coded.names == {0: "class 0", 1: "class 1"}
    assert painted(coded, Image.fromarray(np.array([[0, 1, 65535]], np.uint16))) == [[0, 1, -1]]


@pytest.mark.parametrize("value", [1024, 40_000, 2**31 - 1, -3])
def test_values_that_cannot_be_unnamed_classes_are_an_error_at_once(value):
    maps = [Image.fromarray(np.array([[0, 3]], np.int32)), Image.fromarray(np.array([[0, value]], np.int32))]
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"map 1 has the value {value}, .*--ignore_index.*--label_values"):
        coding(maps=maps)
    assert coding(maps=maps, skip=True).names.keys() == {0, 1, 2, 3}
    assert coding(maps=maps, ignore_index=[value]).names.keys() == {0, 1, 2, 3}
    assert time.perf_counter() - start < 5  # numbering all of them took half a minute


def test_names_that_a_file_numbers_from_1_start_at_1():
    assert coding(ClassNames(["a", "b"], 1)).names == {1: "a", 2: "b"}
    assert coding(ClassNames(["a", "b"], 1), do_reduce_labels=True).names == {1: "a", 2: "b"}
    assert coding(ClassNames(["a", "b"], 0), do_reduce_labels=True).names == {1: "a", 2: "b"}
    assert coding(ClassNames(["a", "b"])).names == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"names": ["a"]}, "class_names and label_values both"),
        ({"do_reduce_labels": True}, "leave out do_reduce_labels"),
        ({"ignore_index": [3]}, r"table\.json lists colours: leave out ignore_index"),
    ],
)
def test_settings_that_contradict_a_table_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        coding(table={"0,0,0": "a"}, **settings)


def test_maps_are_read_only_where_nothing_names_the_classes():
    def fails():
        raise AssertionError

    for settings in ((["a"], None, None), (None, parse_label_values({"0": "a"}, "t"), None), (None, None, {0: "a"})):
        find_label_coding(*settings, None, False, [fails], False)

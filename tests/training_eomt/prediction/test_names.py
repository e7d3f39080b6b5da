"""Every image has files of its own, on every file system, called like the image wherever that can be."""

import os
import unicodedata

import pytest

from training_eomt.prediction.names import make_safe_paths


ENDINGS = (".png", ".overlay.png")
HASH = "[0-9a-f]{12}"


def test_usual_names_stay_as_they_are_but_for_their_suffix():
    names = ["a/1.png", "a.b/c d/ü (2)-x.tif", "x.JPG", "狗.png", ".hidden/x.png", "1", "frame.001", "a.b.jpeg"]
    expected = ["a/1", "a.b/c d/ü (2)-x", "x", "狗", ".hidden/x", "1", "frame.001", "a.b"]
    assert make_safe_paths(names, ENDINGS) == expected


@pytest.mark.parametrize("order", [1, -1])
def test_images_that_differ_in_their_suffix_alone_keep_it(order):
    names = ["a/1.png", "a/1.jpg", "b/1.png", "x.png", "X.jpg", "y", "y.png", "z.png", "z.png.jpg", "z.jpg"]
    expected = ["a/1.png", "a/1.jpg", "b/1", "x.png", "X.jpg", "y", "y.png", "z.png", "z.png.jpg", "z.jpg"]
    assert make_safe_paths(names[::order], ENDINGS) == expected[::order]


@pytest.mark.parametrize(
    "name",
    [
        "x" * 251 + ".png",  # 255 bytes, none left for an ending
        "ü" * 123 + ".jpg",
        "d" * 300 + "/x.png",
        "a\nb.png",
        "\x1b[2J.png",
        "x\u202egnp.exe.png",
        "x\udcff.png",  # a byte that is no UTF-8
        "a:b.png",
        "a\\b.png",
        "CON.png",
        "aux",
        "folder./x.png",
        "x. ",
        "x." + "y" * 252,
    ],
)
def test_a_name_that_some_file_system_does_not_take_is_replaced_and_told_from_others(tmp_path, name):
    other = name[:-1] + ("h" if name[-1] != "h" else "i")
    paths = make_safe_paths([name, other, "fine.png"], ENDINGS)
    assert paths[0] not in (name, name.removesuffix(".png")) and paths[0] != paths[1] and paths[2] == "fine"
    assert make_safe_paths([name], ENDINGS) == paths[:1]  # whatever others there are
    for ending in ENDINGS:
        assert all(len(os.fsencode(part)) <= 255 for part in f"{paths[0]}{ending}".split("/"))
        file = tmp_path / f"{paths[0]}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    assert paths[0].isprintable()


@pytest.mark.parametrize(
    "names",
    [
        ["A/x", "a/X"],
        ["ä", unicodedata.normalize("NFD", "ä")],
        ["straße", "STRASSE"],
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_names_that_some_file_systems_take_for_one_are_told_apart(names, order):
    paths = dict(zip(names[::order], make_safe_paths(names[::order], ENDINGS), strict=True))
    assert sum(path == name for name, path in paths.items()) == 1
    keys = {unicodedata.normalize("NFC", path).casefold() for path in paths.values()}
    assert len(keys) == 2


@pytest.mark.parametrize("folder", ["x.png", "x.overlay.png", "X.PNG"])
def test_a_file_does_not_take_the_place_of_a_folder(tmp_path, folder):
    names = ["x.png", f"{folder}/y.png"]
    paths = make_safe_paths(names, ENDINGS)
    assert paths[0] not in ("x", "x.png") and paths[1] == f"{folder}/y"
    for path in paths:
        for ending in ENDINGS:
            file = tmp_path / ending / f"{path}{ending}".lower()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")


def test_many_names_take_no_time():
    names = [f"street {number // 1000}/{number}.jpg" for number in range(100_000)]
    assert make_safe_paths(names, ENDINGS) == [name.removesuffix(".jpg") for name in names]

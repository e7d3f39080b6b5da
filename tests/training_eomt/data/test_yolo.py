import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from training_eomt.data import open_dataset
from training_eomt.data.yolo import YoloDataset


TRIANGLE = [(10, 10), (70, 15), (30, 55)]
LINE = "1 " + " ".join(f"{x / 80:.6f} {y / 60:.6f}" for x, y in TRIANGLE)


@pytest.fixture
def folder(tmp_path) -> Path:
    for inner in ("images/train", "labels/train", "images/val"):
        (tmp_path / inner).mkdir(parents=True)
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        Image.new("RGB", (80, 60)).save(tmp_path / "images" / name)
    (tmp_path / "labels/train/a.txt").write_text(f"{LINE}\n\n0 0 0 1 0 1 1 0 1\n")
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\nnc: 2\n"
    )
    return tmp_path


def test_polygons_are_what_pil_draws_but_for_their_edge(folder):
    dataset = YoloDataset(folder)
    targets = dataset[0].targets
    assert dataset.task == "instance" and [target.label_id for target in targets] == [1, 0]
    drawing = Image.new("L", (80, 60))
    ImageDraw.Draw(drawing).polygon(TRIANGLE, fill=1)
    drawn, mask = np.array(drawing, dtype=bool), targets[0].mask()
    # The two may differ by the pixels that the outline of some 150 pixels runs through.
    assert (drawn ^ mask).sum() < 150 and (drawn & mask).sum() > 0.9 * (drawn | mask).sum()
    assert targets[1].mask().all()


def test_an_image_without_text_file_is_empty(folder):
    assert YoloDataset(folder)[1].targets == [] and YoloDataset(folder, split="validation")[0].targets == []


@pytest.mark.parametrize(
    "text",
    [
        "train: ../images/train\nnames: [cat, dog]",  # Roboflow
        "path: /somewhere/else\ntrain: images/train\nnames: [cat, dog]",  # another machine
        "names: [cat, dog]",
        "path: {folder}\ntrain: [images/train]\nnames: [cat, dog]",
    ],
)
def test_images_are_found_however_the_yaml_names_them(folder, text):
    (folder / "data.yaml").write_text(text.replace("{folder}", str(folder)))
    dataset = YoloDataset(folder / "data.yaml")
    assert len(dataset) == 2 and len(dataset[0].targets) == 2


@pytest.mark.parametrize("named", ["[images/train, images/train]", "[images, images/train]", "[train.txt, images]"])
def test_images_that_are_named_twice_count_once(folder, named):
    (folder / "train.txt").write_text("images/train/a.png\n./images/train/a.png\n")
    (folder / "data.yaml").write_text(f"train: {named}\nnames: [cat, dog]")
    dataset = YoloDataset(folder)
    assert len({dataset.name(index) for index in range(len(dataset))}) == len(dataset)


def test_a_split_without_a_folder_is_not_all_images(folder):
    (folder / "data.yaml").write_text("train: ''\nnames: [cat, dog]")
    assert [Path(image.name).name for image in YoloDataset(folder).images] == ["a.png", "b.png"]


def test_names_in_either_form_of_unicode_are_one(folder):
    (folder / "images/train/a.png").rename(folder / "images/train/\u00e9.png")
    (folder / "labels/train/a.txt").rename(folder / "labels/train/e\u0301.txt")
    assert sum(len(sample.targets) for sample in YoloDataset(folder)) == 2


def test_a_yaml_file_elsewhere_names_the_folder(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "mine.yaml"
    path.write_text(f"path: {folder}\ntrain: images/train\nnames: [cat, dog]")
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml names the folder images/train .* --images_dir"):
        YoloDataset(path)
    for images_dir in (folder, folder / "images", folder / "images" / "train"):
        assert len(YoloDataset(path, images_dir=images_dir)[0].targets) == 2


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 0.5 0.5 0.2 0.2", "4 numbers after the class: that is a box"),
        ("2 0 0 1 0 1 1", "has the class 2, there are 0 to 1"),
        ("1 0 0 1 0 1", "has 5 numbers after the class"),
        ("1 0 0 64 0 64 64", "coordinates from 0 to 64; they must be fractions"),
        ("1 0 0 1 0 x 1", "is not a row of numbers"),
        ("1 0 0 0 0 0 0", "covers no pixel"),
        ("1 0 0 1 nan 1 1", "not finite"),
        ("1 0 0 1 1e999 1 1", "not finite"),
        ("inf 0 0 1 0 1 1", "not finite"),
        ("1.5 0 0 1 0 1 1", r"has the class 1\.5"),
    ],
)
def test_a_bad_line_is_named_or_left_out(folder, line, message):
    (folder / "labels/train/a.txt").write_text(f"{LINE}\n{line}\n")
    with pytest.raises(ValueError, match=rf"labels/train/a\.txt: line 2 .*{message}"):
        YoloDataset(folder)[0]
    dataset = YoloDataset(folder, skip_bad_samples=True)
    assert len(dataset[0].targets) == 1 and len(dataset.bad_samples) == 1


def test_a_text_file_without_image_is_an_error(folder):
    (folder / "labels/train/z.txt").write_text(LINE)
    with pytest.raises(ValueError, match=r"labels/train/z\.txt has no image"):
        YoloDataset(folder)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train: images/train", "missing required field `names`"),
        ("[1]", "expected `object`, got `array`"),
        ("names: thing", r"got `str` - at `\$\.names`"),
        ("names: [cat, null]", r"got `null` - at `\$\.names\[1\]`"),
        ("names: [true, false]", r"got `bool` - at `\$\.names\[0\]`"),
        ("names: {a: cat}", "must be 0 to 0"),
        ("names: []", "'names' must be"),
        ("names: [cat, ' ']", "class 1 of its 'names' has no name"),
        ("names: [cat]\nnames: [dog]", "the key 'names' comes twice"),
        ("x: &x [cat]\nnames: *x", "an alias"),
        ("names: [cat]\ntrain: 5", "'train': expected"),
        ("names: [cat]\npath: [a]", r"got `array` - at `\$\.path`"),
        ("names: [cat]\ntrain: /etc", r"names the folder /etc .*--images_dir"),
        ("names: [cat]\nnc: 2", "'nc' is 2, but there are 1"),
        ("names: {1: cat}", "must be 0 to 0"),
        ("names: [cat", "is not YAML"),
        ("names: [cat]\ntrain: images/none", "names the folder images/none"),
        ("names: [cat]\ntrain: list.txt", "names the list list.txt"),
        ("names: [cat]\ntrain: /etc/hosts.txt", "names the list /etc/hosts.txt"),
    ],
)
def test_a_yaml_file_that_is_wrong_is_an_error(folder, text, message):
    (folder / "data.yaml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"data\.yaml.*{message}"):
        YoloDataset(folder)


def test_images_of_the_same_name_in_two_folders_are_two_images(tmp_path):
    for folder in ("a", "b"):
        for part in ("images", "labels"):
            (tmp_path / folder / part).mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(tmp_path / folder / "images" / "0.jpg")
        (tmp_path / folder / "labels" / "0.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    folders = [str(tmp_path / folder / "images") for folder in ("a", "b")]
    (tmp_path / "data.yaml").write_text(json.dumps({"train": folders, "names": ["cat"]}))
    dataset = YoloDataset(tmp_path / "data.yaml", split="train")
    assert len({dataset[index].image_id for index in range(len(dataset))}) == len(dataset) == 2


@pytest.mark.parametrize("names", ["[no, 'yes', 1]", "{0: no, '1': 'yes', 2: 1}", "- no\n- yes\n- '1'"])
def test_names_are_what_is_written(folder, names):
    (folder / "data.yaml").write_text("train: images/train\nnames:\n  " + names.replace("\n", "\n  "))
    assert YoloDataset(folder).label_space.names == ("no", "yes", "1")


@pytest.mark.parametrize(
    "text",
    [
        "path: C:\\data\ntrain: images\\train\nnames: [cat, dog]",
        "train: D:\\sets\\mine\\images\\train\nnames: [cat, dog]",
        "path: ../datasets/mine\ntrain: images/train\nnames: [cat, dog]",
        "train: /home/me/mine/images/train\nnames: [cat, dog]",
    ],
)
def test_paths_of_other_machines_are_read_below_the_yaml_file(folder, text):
    (folder / "data.yaml").write_text(text)
    dataset = YoloDataset(folder)
    assert len(dataset) == 2 and len(dataset[0].targets) == 2


@pytest.mark.parametrize(
    "line",
    ["images/train/{}", "./images/train/{}", "data/images/train/{}", "/home/me/images/train/{}", "images\\train\\{}"],
)
def test_a_list_of_images_is_read_as_cvat_writes_it(folder, line):
    (folder / "data.yaml").write_text("path: ./\ntrain: train.txt\nnames:\n  0: cat\n  1: dog\n")
    lines = [line.format(name) for name in ("b.png", "a.png", "a.png")]
    (folder / "train.txt").write_text("\n".join(lines) + "\n\n")
    dataset = YoloDataset(folder)
    assert [Path(dataset.name(index)).name for index in range(len(dataset))] == ["b.png", "a.png"]
    assert len(dataset[1].targets) == 2 and dataset[0].targets == []
    (folder / "train.txt").write_text("\n".join([*lines, "images/train/none.png", "/etc/hosts"]))
    with pytest.raises(FileNotFoundError, match=r"none\.png is missing \(2 of 4 images that .*train\.txt lists"):
        YoloDataset(folder)
    dataset = YoloDataset(folder, skip_bad_samples=True)
    assert len(dataset) == 2 and len(dataset.bad_samples) == 2


@pytest.mark.parametrize("name", ["classes.txt", "notes.json"])
def test_label_studios_export_without_a_yaml_file_is_read(tmp_path, name):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text(LINE)
    notes = {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {"year": 2024}}
    (tmp_path / name).write_text("cat\ndog\n" if name == "classes.txt" else json.dumps(notes))
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, YoloDataset) and dataset.label_space.names == ("cat", "dog")
    assert [target.label_id for target in dataset[0].targets] == [1]


def test_a_flat_folder_is_no_split_where_the_yaml_file_names_another(folder):
    (folder / "data.yaml").write_text("train: images/train\nnames: [cat, dog]")
    (folder / "images/val").rename(folder / "images/more")
    with pytest.raises(FileNotFoundError, match="has no validation split"):
        YoloDataset(folder, split="validation")

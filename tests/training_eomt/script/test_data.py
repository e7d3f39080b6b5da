import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_eomt.script import data as run_data
from training_eomt.script.arguments import DataArguments
from training_eomt.script.data import open_data, report_data


SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def coco(folder: Path, annotations: list[dict], num_pictures: int = 2, **image) -> Path:
    (folder / "images").mkdir(parents=True)
    for number in range(num_pictures):
        Image.new("RGB", (30, 20)).save(folder / "images" / f"{number}.png")
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": 20, "width": 30, **image}
            for number in range(num_pictures)
        ],
        "annotations": [
            {"id": number, "image_id": 0, "category_id": 1, "segmentation": SQUARE, **annotation}
            for number, annotation in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def maps(folder: Path, value: int, num_pictures: int = 3) -> Path:
    for inner in ("images", "masks"):
        (folder / inner).mkdir(parents=True)
    for number in range(num_pictures):
        Image.new("RGB", (30, 20)).save(folder / "images" / f"{number}.png")
        Image.fromarray(np.full((20, 30), value, np.uint8)).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("cat\ndog\n")
    return folder


def yolo(folder: Path, label: str) -> Path:
    for inner in ("images/train", "labels/train"):
        (folder / inner).mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(folder / "images/train/a.png")
    (folder / "labels/train/a.txt").write_text(label)
    (folder / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    return folder


def panoptic(folder, isthing):
    for name, image in (("images/a.jpg", Image.new("RGB", (8, 8))), ("panoptic/a.png", Image.new("RGB", (8, 8), 1))):
        (folder / name).parent.mkdir(parents=True)
        image.save(folder / name)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1}]}],
        "categories": [{"id": 1, "name": "sky", "isthing": isthing}],
    }
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


def check(path: Path, **settings):
    arguments = DataArguments(train_data=str(path), **settings)
    return report_data(open_data(arguments, True, False, None, None), arguments, 0)


@pytest.mark.parametrize("check_data", [False, True])
@pytest.mark.parametrize(
    "write, message",
    [
        (lambda folder: coco(folder, [{"iscrowd": 1}, {"iscrowd": 1}]), "all 2 segments are crowds"),
        (lambda folder: coco(folder, [{"iscrowd": 1}], height=-1), "all 1 segments are crowds"),
        (lambda folder: coco(folder, []), "none of the 2 images has a segment of a class"),
        (lambda folder: coco(folder, [], height=-1), "none of the 2 images has a segment of a class"),
        (lambda folder: maps(folder, 255), "none of the 3 images has a segment of a class"),
        (lambda folder: yolo(folder, "\n"), "none of the 1 images has a segment of a class"),
    ],
)
def test_a_training_with_nothing_to_learn_stops_before_it_begins(tmp_path, capsys, write, message, check_data):
    with pytest.raises(ValueError, match=f"there is nothing to learn, since {message}"):
        check(write(tmp_path / "data"), check_data=check_data)
    assert f"WARNING: there is nothing to learn or to measure, since {message}" in capsys.readouterr().out


def test_what_was_left_out_and_classes_that_do_not_count_are_said_where_nothing_is_to_learn(tmp_path):
    folder = coco(tmp_path / "data", [{"category_id": 7}])
    with pytest.raises(ValueError, match=r"nothing to learn.* left out \(1\)"):
        check(folder, skip_bad_samples=True)
    # Nothing but reading tells that this encoding is of too few pixels.
    folder = coco(tmp_path / "short", [{"segmentation": {"size": [20, 30], "counts": "d4T1"}}])
    with pytest.raises(ValueError, match=r"nothing to learn"):
        check(folder, skip_bad_samples=True)
    folder = panoptic(tmp_path / "stuff", isthing=0)
    with pytest.raises(ValueError, match=r"the data have no class for instance segmentation: only things"):
        arguments = DataArguments(train_data=str(folder))
        report_data(open_data(arguments, True, False, "instance", None), arguments, 0)


@pytest.mark.parametrize("write", [lambda folder: coco(folder, [{}]), lambda folder: maps(folder, 1)])
def test_what_can_be_learnt_goes_on(tmp_path, write):
    data, reports = check(write(tmp_path / "data"))
    assert data.train is not None and list(reports) == ["train"]


def test_samples_are_read_on_until_one_has_a_segment(tmp_path, monkeypatch, capsys):
    folder = maps(tmp_path / "data", 255)
    Image.fromarray(np.ones((20, 30), np.uint8)).save(folder / "masks" / "2.png")
    monkeypatch.setattr(run_data, "MAX_READ", 1)
    assert len(check(folder)[0].train) == 3
    assert "counted on 1 of 3 images" in capsys.readouterr().out


@pytest.mark.parametrize("show_progress", [True, False])
def test_bars_are_shown_where_they_are_wanted(tmp_path, capsys, show_progress):
    arguments = DataArguments(train_data=str(coco(tmp_path / "data", [{}])), check_data=True)
    report_data(open_data(arguments, True, False, None, None), arguments, 0, show_progress)
    printed = capsys.readouterr()
    assert "train data: " in printed.out
    assert ("Checking" in printed.err) == show_progress


def test_data_to_evaluate_without_a_segment_are_said(tmp_path, capsys):
    arguments = DataArguments(
        train_data=str(coco(tmp_path / "train", [{}])), validation_data=str(coco(tmp_path / "val", []))
    )
    report_data(open_data(arguments, True, True, None, None), arguments, 0)
    train, validation = capsys.readouterr().out.split("validation data:")
    assert "nothing to learn or to measure" in validation and "nothing to learn" not in train


def test_a_long_list_of_bad_samples_is_cut(tmp_path):
    folder = coco(tmp_path / "data", [{}], num_pictures=40)
    for number in range(1, 31):
        (folder / "images" / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"(?s): 30 samples, or parts of them.*\n  and 20 more$") as error:
        check(folder, check_data=True)
    assert len(str(error.value).splitlines()) == 12
    data, reports = check(folder, skip_bad_samples=True)
    assert len(data.train) == 10 and len(reports["train"]["left_out"]) == 30


def test_pictures_of_another_folder_are_named_on_the_command_line(tmp_path):
    folder = coco(tmp_path / "data", [{}])
    (folder / "images").rename(tmp_path / "pictures")
    data, _ = check(folder, images_dir=str(tmp_path / "pictures"))
    assert len(data.train) == 2
    with pytest.raises(
        ValueError, match=r"is read as label_maps, which has no images_dir .*coco_panoptic and coco_inst"
    ):
        check(maps(tmp_path / "maps", 1), images_dir=str(tmp_path / "pictures"))


def test_where_every_sample_is_left_out_that_is_said(tmp_path):
    folder = coco(tmp_path / "data", [{}], file_name=5)
    with pytest.raises(ValueError, match="image 0 is not COCO instances"):
        check(folder)
    with pytest.raises(ValueError, match=r"(?s)No sample of .* can be used.*image 0 is not COCO"):
        check(folder, skip_bad_samples=True)

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from training_eomt.data import FORMATS, SegmentationDataset, open_dataset
from training_eomt.shapes import generate_shapes_dataset


def same_samples(dataset: SegmentationDataset, expected: SegmentationDataset) -> bool:
    assert len(dataset) == len(expected) > 0 and dataset.label_space.id2label == expected.label_space.id2label
    for index in range(len(dataset)):
        one, other = dataset[index], expected[index]
        assert one.image_id == other.image_id and one.file_name == other.file_name
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
        np.testing.assert_array_equal(one.masks(), other.masks())
        assert [(t.label_id, t.iscrowd, t.area) for t in one.targets] == [
            (t.label_id, t.iscrowd, t.area) for t in other.targets
        ]
    return True


def zip_folder(folder: Path, path: Path, keep: tuple[str, ...] = ("",)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and name.startswith(keep):
                archive.write(file, name)


@pytest.fixture
def shapes(tmp_path) -> Path:
    return generate_shapes_dataset(tmp_path / "shapes", num_train=2, num_validation=3, num_test=1)


@pytest.fixture
def coco(shapes, coco_sample, tmp_path) -> Path:
    """COCO's own layout with both kinds of annotations."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, folder in (("train2017", coco_sample), ("val2017", coco_sample)):
        shutil.copytree(folder / "images", root / split)
        shutil.copytree(folder / "panoptic", root / "annotations" / f"panoptic_{split}")
        shutil.copy(folder / "panoptic.json", root / "annotations" / f"panoptic_{split}.json")
        shutil.copy(folder / "instances.json", root / "annotations" / f"instances_{split}.json")
    return root


def label_maps(folder: Path) -> Path:
    for inner in ("images", "masks"):
        (folder / inner).mkdir(parents=True)
        Image.new("L", (8, 6), 1).save(folder / inner / "a.png")
    return folder


def test_a_root_with_splits_gives_the_one_that_is_asked_for(shapes):
    assert [len(open_dataset(shapes, split=split)) for split in ("train", "validation", "predict")] == [2, 3, 1]
    assert len(open_dataset(shapes / "validation", split="train")) == 3
    shutil.rmtree(shapes / "test")
    assert len(open_dataset(shapes, split="predict")) == 3


def test_camvid_is_found_with_its_settings(camvid):
    dataset = open_dataset(camvid, split="predict", class_names=list("abcdefghijk"), ignore_index=[11])
    assert len(dataset) == 233 and len(dataset[0].targets) > 5


def test_every_path_to_coco_opens_it(coco):
    root = open_dataset(coco, split="validation")
    assert root.kind == "panoptic" and "val2017" in root.name(0)
    file = coco / "annotations" / "panoptic_val2017.json"
    assert same_samples(open_dataset(file), root)
    assert open_dataset(coco / "annotations" / "instances_train2017.json").kind == "instance"


def test_several_formats_in_one_folder_are_decided_by_the_task_and_said(coco_sample, caplog):
    assert open_dataset(coco_sample).kind == "panoptic"
    assert "fits the formats coco_panoptic and coco_instance; it is read as coco_panoptic" in caplog.text
    assert open_dataset(coco_sample, task="instance").kind == "instance"
    assert open_dataset(coco_sample, "coco_instance").kind == "instance"


def test_ade20k_comes_before_label_maps_unless_they_are_asked_for(ade20k_sample):
    assert len(open_dataset(ade20k_sample).label_space) == 150
    maps = open_dataset(ade20k_sample, "label_maps", do_reduce_labels=True)
    assert len(maps.label_space) == 150 and same_samples(maps, open_dataset(ade20k_sample))


def test_zips_as_coco_publishes_them_hold_the_samples_of_the_unpacked_folder(coco, tmp_path):
    zips, work = tmp_path / "zips", tmp_path / "work"
    for split in ("train2017", "val2017"):
        zip_folder(coco, zips / f"{split}.zip", (split,))
        zip_folder(coco / "annotations", work / "annotations" / f"panoptic_{split}.zip", (f"panoptic_{split}/",))
        shutil.copy(coco / "annotations" / f"panoptic_{split}.json", work / "annotations")
    zip_folder(work, zips / "panoptic_annotations_trainval2017.zip")
    zip_folder(coco, zips / "annotations_trainval2017.zip", ("annotations/instances",))
    for task in ("panoptic", "instance"):
        dataset = open_dataset(zips, split="validation", task=task)
        assert "val2017.zip/val2017/" in dataset.name(0)
        assert same_samples(dataset, open_dataset(coco, split="validation", task=task))
    read = list(
        DataLoader(open_dataset(zips), num_workers=2, batch_size=None, collate_fn=lambda sample: sample.image_id)
    )
    assert read == [142238, 439180]
    assert len(list(zips.rglob("*"))) == 4, "something was unpacked"


def test_a_zip_of_everything_in_one_folder_is_read_where_it_is(shapes, tmp_path):
    zip_folder(shapes.parent, tmp_path / "zips" / "all.zip", ("shapes/",))
    expected = open_dataset(shapes, split="validation")
    assert same_samples(open_dataset(tmp_path / "zips" / "all.zip", split="validation"), expected)
    assert same_samples(open_dataset(tmp_path / "zips", split="validation"), expected)
    assert same_samples(open_dataset(tmp_path / "zips" / "all.zip" / "shapes" / "validation"), expected)


def test_a_zip_entry_outside_its_folder_is_listed(tmp_path):
    label_maps(tmp_path)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("../evil.png", b"")
    with pytest.raises(ValueError, match=r"more\.zip: entry '\.\./evil\.png' points outside"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, skip_bad_samples=True)
    assert len(dataset) == 1 and "evil.png" in dataset.bad_samples[0].name


@pytest.mark.parametrize("settings", [{"class_names": ["a"]}, {"ignore_index": [3]}, {"do_reduce_labels": False}])
def test_a_setting_that_a_format_does_not_have_is_an_error(shapes, settings):
    with pytest.raises(ValueError, match=rf"read as coco_panoptic, which has no {next(iter(settings))} .*label_maps"):
        open_dataset(shapes, **settings)


def test_nothing_that_fits_says_what_was_looked_for_and_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)val, valid.*panoptic\.json.*YOLO.*label maps.*Found: nothing"):
        open_dataset(tmp_path, split="validation")
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "scans").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Found: scans/, readme\.txt"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*/none"):
        open_dataset(tmp_path / "none")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "auto"])
def test_every_format_says_what_an_empty_folder_lacks(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        open_dataset(tmp_path, name)


def test_unknown_formats_and_splits_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no data format 'voc': auto, coco_panoptic"):
        open_dataset(tmp_path, "voc")
    with pytest.raises(ValueError, match="no split 'test': train, validation, predict"):
        open_dataset(tmp_path, split="test")


def test_formats_are_recognised(tmp_path):
    (tmp_path / "yolo" / "images" / "train").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "yolo" / "images" / "train" / "a.png")
    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat]")
    assert type(open_dataset(tmp_path / "yolo")).__name__ == "YoloDataset"
    assert type(open_dataset(tmp_path / "yolo" / "data.yaml")).__name__ == "YoloDataset"
    folder = label_maps(tmp_path / "table" / "train")
    row = {"image_file_name": "images/a.png", "label_file_name": "masks/a.png"}
    assert type(open_dataset(tmp_path / "table")).__name__ == "LabelMapDataset"
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    for path in (tmp_path / "table", folder / "metadata.jsonl"):
        assert type(open_dataset(path)).__name__ == "TableDataset"


@pytest.mark.parametrize("layout", ["images/train", "train", "metadata"])
def test_another_split_than_the_one_that_was_asked_for_is_never_taken(tmp_path, layout):
    label_maps(tmp_path / "data" / "train")
    if layout == "images/train":
        for inner in ("images", "masks"):
            (tmp_path / inner).mkdir()
            (tmp_path / "data" / "train" / inner).rename(tmp_path / inner / "train")
        shutil.rmtree(tmp_path / "data")
    elif layout == "metadata":
        row = {"image_file_name": "train/images/a.png", "label_file_name": "train/masks/a.png"}
        (tmp_path / "data" / "metadata.jsonl").write_text(json.dumps(row))
    path = tmp_path if layout == "images/train" else tmp_path / "data"
    assert len(open_dataset(path)) == 1
    with pytest.raises(FileNotFoundError, match="validation split"):
        open_dataset(path, split="validation")

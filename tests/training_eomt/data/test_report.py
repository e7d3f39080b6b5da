import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from training_eomt.data import BadSample, leave_out, open_dataset
from training_eomt.data.report import DataReport, check_samples, report
from training_eomt.shapes import generate_shapes_dataset


@pytest.fixture
def maps(tmp_path):
    """Six label maps of growing size: class 0 in all, class 1 in half of them, one map all void."""
    for inner in ("images", "masks"):
        (tmp_path / inner).mkdir()
    for number in range(6):
        label_map = np.zeros((10 + number, 20), dtype=np.uint8)
        label_map[:3] = number % 2
        if number == 5:
            label_map[:] = 255
        Image.fromarray(label_map).save(tmp_path / "masks" / f"{number}.png")
        Image.new("RGB", (20, 10 + number)).save(tmp_path / "images" / f"{number}.jpg")
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_are_read_where_only_that_tells(maps, num_workers):
    found = report(open_dataset(maps), num_workers=num_workers, show_progress=False)
    assert (found.num_images, found.num_counted, found.num_empty, found.num_crowds) == (6, 6, 1, 0)
    assert found.num_segments == found.num_images_with == {"road": 5, "car": 2, "sky": 0}
    assert "1 of 3 classes have no segment" in str(found)
    assert found.sizes == ((10, 20), (12, 20), (15, 20))


def test_a_part_of_the_samples_is_spread_evenly_and_said(maps):
    found = report(open_dataset(maps), max_read=3, show_progress=False)
    assert found.num_counted == 3 and found.num_segments == {"road": 3, "car": 0, "sky": 0}
    assert "counted on 3 of 6 images" in str(found)


def test_the_json_of_coco_tells_without_reading(coco_sample):
    for file in ("panoptic.json", "instances.json"):
        found = report(open_dataset(coco_sample / file), max_read=0)
        assert found.num_counted == 2 and found.num_crowds == 3 and found.sizes[0] == (360, 640)
        assert sum(found.num_segments.values()) == 50
        content = json.loads((coco_sample / file).read_text())
        assert list(found.num_segments) == [category["name"] for category in content["categories"]]
        read = open_dataset(coco_sample / file)
        labels = [target.label_id for index in range(2) for target in read[index].targets]
        assert found.num_segments["person"] == labels.count(0) and found.num_images_with["person"] == 2


def test_the_table_is_aligned_and_the_dictionary_is_json(tmp_path):
    dataset = open_dataset(generate_shapes_dataset(tmp_path / "shapes", num_train=3, num_validation=0, num_test=0))
    found = report(dataset)
    table = [line for line in str(found).splitlines() if line.split()[:1] in ([c.name] for c in dataset.categories)]
    assert len(table) == len(dataset.categories) and len({len(line) for line in table}) == 1
    content = json.loads(json.dumps(found.as_dict()))
    assert content["pictures"] == 3 and content["classes"]["grass"] == {"segments": 3, "pictures": 3}
    assert content["sizes"]["median"] == [96, 96]


def test_the_global_random_numbers_stay_as_they_were(maps):
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    report(open_dataset(maps), num_workers=1, show_progress=False)
    assert torch.equal(torch_state, torch.get_rng_state()) and python_state == random.getstate()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_bad_sample_is_found_by_reading_it_and_can_be_left_out(maps, num_workers):
    path = maps / "images" / "2.jpg"
    path.write_bytes(path.read_bytes()[:200])
    Image.new("L", (7, 7)).save(maps / "masks" / "4.png")
    dataset = open_dataset(maps)
    bad = check_samples(dataset, num_workers, show_progress=False)
    assert [sample.name for sample in bad] == [str(path), str(maps / "images" / "4.jpg")]
    assert "cannot be decoded" in bad[0].reason and "must have the same size" in bad[1].reason
    rest = leave_out(dataset, bad)
    assert len(rest) == 4 and check_samples(rest, show_progress=False) == []
    found = report(rest, show_progress=False)
    assert found.bad_samples == bad and "left out: 2" in str(found)
    with pytest.raises(ValueError, match=r"2\.jpg cannot be decoded"):
        report(dataset, show_progress=False)
    skipping = report(open_dataset(maps, skip_bad_samples=True), show_progress=False)
    assert skipping.num_counted == 4 and skipping.bad_samples == bad


def test_annotations_that_are_left_out_when_read_are_found_in_workers_too(coco_sample, tmp_path):
    content = json.loads((coco_sample / "instances.json").read_text())
    content["annotations"][5]["segmentation"] = [[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]]
    (tmp_path / "images").symlink_to(coco_sample / "images")
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path, skip_bad_samples=True)
    bad = check_samples(dataset, num_workers=1, show_progress=False)
    assert len(bad) == 1 and "annotation 5 of" in bad[0].reason
    assert len(leave_out(dataset, bad)) == 2, "only the annotation is left out"


def test_the_share_of_void_is_counted_where_annotations_cover_the_image(maps):
    found = report(open_dataset(maps), show_progress=False)
    assert found.void_share == found.as_dict()["void_share"] == 15 / (10 + 11 + 12 + 13 + 14 + 15)  # the last map
    assert "20.0% of the pixels are void" in str(found) and "WARNING" not in str(found)
    assert found.num_to_learn == 7


def test_void_is_not_counted_where_segments_need_not_cover_the_image(coco_sample, tmp_path):
    shapes = generate_shapes_dataset(tmp_path, num_train=2, num_validation=0, num_test=0)
    for path, task in ((coco_sample / "instances.json", None), (coco_sample / "instances.json", "semantic")):
        assert report(open_dataset(path, task=task), show_progress=False).void_share is None
    found = report(open_dataset(shapes), show_progress=False)
    assert found.void_share is None and found.num_to_learn == sum(found.num_segments.values())
    crowds = report(open_dataset(coco_sample / "instances.json"), show_progress=False)
    assert crowds.num_to_learn == 47 and crowds.num_crowds == 3


def test_maps_with_one_class_and_void_are_warned_about(tmp_path):
    for inner in ("images", "masks"):
        (tmp_path / inner).mkdir()
    drawn = np.zeros((10, 20), dtype=np.uint8)
    drawn[:5] = 255  # what drawing programs call white
    Image.fromarray(drawn).save(tmp_path / "masks" / "a.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.png")
    (tmp_path / "classes.txt").write_text("background\nlesion\n")
    found = str(report(open_dataset(tmp_path), show_progress=False))
    assert "50.0% of the pixels are void" in found
    assert "WARNING: 'background' is the only class" in found and "--label_values" in found


def test_names_from_data_have_no_effect_on_the_terminal():
    report = DataReport(
        where="a\x1b[2Jb.json",
        task="panoptic",
        num_images=1,
        num_counted=1,
        sizes=((1, 1),) * 3,
        num_segments={"cat\x1b[31m\ndog": 1},
        num_images_with={"cat\x1b[31m\ndog": 1},
        num_crowds=0,
        num_empty=0,
        bad_samples=[BadSample("x", "x\ny\x9b is gone")],
    )
    text = str(report)
    assert "a\\x1b[2Jb.json" in text and "cat\\x1b[31m\\ndog" in text and "x\\ny\\x9b is gone" in text
    assert all(character.isprintable() for line in text.split("\n") for character in line)

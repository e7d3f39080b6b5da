import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from training_eomt.data.coco_instance import CocoInstanceDataset
from training_eomt.data.coco_panoptic import CocoPanopticDataset


SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def content() -> dict:
    """Two images of 20x30 pixels, the second without annotations."""
    counts = [0, 25, 575]
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 8, "file_name": "b.png", "height": 20, "width": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": SQUARE, "area": 12.5},
            {
                "id": 2,
                "image_id": 7,
                "category_id": 5,
                "segmentation": {"counts": counts, "size": [20, 30]},
                "iscrowd": 1,
            },
            {"id": 3, "image_id": 7, "category_id": 3, "segmentation": [*SQUARE, [20, 3, 25, 3, 25, 9]]},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "instances.json").write_text(json.dumps(content()))
    return tmp_path


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    changed = json.loads((folder / "instances.json").read_text())
    change(changed)
    (folder / "instances.json").write_text(json.dumps(changed))


def same_as_pycocotools(dataset: CocoInstanceDataset, json_path: Path) -> int:
    reference, count = COCO(str(json_path)), 0
    for index in range(len(dataset)):
        sample = dataset[index]
        annotations = reference.imgToAnns[sample.image_id]
        assert len(annotations) == len(sample.targets)
        for target, annotation in zip(sample.targets, annotations):
            np.testing.assert_array_equal(target.mask(), reference.annToMask(annotation).astype(bool))
            assert target.iscrowd == bool(annotation.get("iscrowd", 0)) and target.area == annotation.get("area")
            name = reference.cats[annotation["category_id"]]["name"]
            assert dataset.label_space.id2label[target.label_id] == name
            count += 1
    return count


def test_masks_areas_and_classes_are_those_of_pycocotools(folder, coco_sample):
    assert same_as_pycocotools(CocoInstanceDataset(folder), folder / "instances.json") == 3
    assert same_as_pycocotools(CocoInstanceDataset(coco_sample), coco_sample / "instances.json") == 50


def test_real_instances_are_the_segments_of_the_panoptic_data(coco_sample):
    instances, panoptic = CocoInstanceDataset(coco_sample), CocoPanopticDataset(coco_sample)
    for index in range(2):
        np.testing.assert_array_equal(instances[index].masks(), panoptic[index].masks())


def test_an_image_without_annotations_is_an_empty_sample(folder):
    sample = CocoInstanceDataset(folder)[1]
    assert sample.image_id == 8 and sample.masks().shape == (0, 20, 30)


def test_for_semantic_segmentation_the_masks_of_a_class_are_one(folder):
    dataset = CocoInstanceDataset(folder, task="semantic")
    separate = CocoInstanceDataset(folder)[0].masks()
    assert [target.label_id for target in dataset[0].targets] == [0, 1]
    np.testing.assert_array_equal(dataset[0].masks(), [separate[0] | separate[2], separate[1]])
    with pytest.raises(ValueError, match="panoptic segmentation cannot be learnt"):
        CocoInstanceDataset(folder, task="panoptic")


def test_what_is_known_before_reading_is_what_reading_gives(folder):
    for task in ("instance", "semantic"):
        dataset = CocoInstanceDataset(folder, task=task)
        for index in range(2):
            summary, sample = dataset.summarize(index), dataset[index]
            assert summary.size == sample.size
            assert sorted(summary.label_ids) == sorted(target.label_id for target in sample.targets)
            assert summary.num_crowds == sum(target.iscrowd for target in sample.targets)


@pytest.mark.parametrize("layout", ["coco", "roboflow", "json file", "split folder of images"])
def test_other_layouts_read_the_same_samples(folder, tmp_path, layout):
    expected = CocoInstanceDataset(folder)[0].masks()
    other = tmp_path / "other"
    (other / "annotations").mkdir(parents=True)
    if layout == "coco":
        shutil.move(folder / "images", other / "train2017")
        path, target = other, other / "annotations" / "instances_train2017.json"
    elif layout == "roboflow":
        for image in (folder / "images").iterdir():
            shutil.move(image, other)
        path, target = other, other / "_annotations.coco.json"
    elif layout == "json file":
        shutil.move(folder / "images", other / "images")
        path = target = other / "my_cats.json"
    else:
        shutil.move(folder / "images", other / "images" / "val")
        path, target = other / "annotations" / "instances_val.json", other / "annotations" / "instances_val.json"
    shutil.move(folder / "instances.json", target)
    np.testing.assert_array_equal(CocoInstanceDataset(path, split="train")[0].masks(), expected)


def annotate(**changes) -> Callable[[dict], object]:
    return lambda content: content["annotations"][0].update(changes)


def nested(depth: int) -> list:
    """Lists in one another, which `json` can still write."""
    value: list = []
    for _ in range(min(depth, 900)):
        value = [value]
    return value


AT_OPENING = [
    (annotate(segmentation=[[2, 2, 9, 9]]), r"annotation 1 of a\.png has no area: fewer than 3 points"),
    (annotate(segmentation=[[2, 2, 9, 2, 5, 2]]), r"annotation 1 of a\.png has no area"),
    (annotate(segmentation=[[2, -9, 9, -9, 5, -2]]), r"annotation 1 of a\.png has no area.* or outside"),
    (annotate(segmentation=[]), r"annotation 1 of a\.png .*boxes are not enough"),
    (annotate(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), r"annotation 1 of a\.png has a polygon of 7 numbers"),
    (annotate(category_id=4), r"annotation 1 of a\.png has category_id 4.*'categories'"),
    (annotate(image_id=9), r"annotation 1 belongs to image_id 9"),
    (annotate(area="big"), r"annotation 1 is not COCO instances: expected `float \| null`, got `str` - at `\$\.area`"),
    (
        lambda content: content["annotations"][0].pop("category_id"),
        r"annotation 1 .*missing required field `category_id`",
    ),
    (annotate(area=float("nan")), r"annotation 1 .*got NaN, Infinity or one as large - at `\$\.area`"),
    (annotate(category_id=[3]), r"annotation 1 .*got `array` - at `\$\.category_id`"),
    (annotate(category_id="cat"), r"annotation 1 .*id is 'cat', expected a number"),
    (annotate(image_id=[7]), r"annotation 1 .*got `array` - at `\$\.image_id`"),
    (annotate(image_id=7.5), r"annotation 1 .*the id is 7\.5, expected a whole number"),
    (annotate(iscrowd="maybe"), r"annotation 1 .*iscrowd is 'maybe', expected 0 or 1"),
    (lambda content: content["annotations"].__setitem__(0, 5), r"annotation 0 .*expected `object`, got `int`"),
    (annotate(segmentation=[[2, 2, float("nan"), 2, 12, 12]]), r"annotation 1 of a\.png .*got NaN.*`\$\[0\]\[2\]`"),
    (annotate(segmentation=[[2, 2, None, 2, 12, 12]]), r"annotation 1 of a\.png .*got `null` - at `\$\[0\]\[2\]`"),
    (annotate(segmentation=[[2, 2, 1e300, 2, 12, 12]]), r"annotation 1 of a\.png has .* 2 to 1e\+300, far outside"),
    (annotate(segmentation=[[2, 2, -31, 2, 12, 12]]), r"annotation 1 of a\.png has .* -31 to 12, far outside"),
    (annotate(segmentation=nested(10_000)), r"annotation 1 of a\.png has a segmentation that is neither"),
    (annotate(segmentation={"counts": None, "size": [20, 30]}), r"annotation 1 .*got `null` - at `\$\.counts`"),
    (annotate(segmentation={"counts": ["600"], "size": [20, 30]}), r"annotation 1 .*got `str` - at `\$\.counts\[0\]`"),
    (annotate(segmentation={"counts": [600], "size": 600}), r"annotation 1 .*got `int` - at `\$\.size`"),
]
WHEN_READ = [
    (annotate(segmentation={"counts": [700, -100], "size": [20, 30]}), r"annotation 1 of a\.png .*no run-length"),
    (annotate(segmentation={"counts": [2**70], "size": [20, 30]}), r"annotation 1 of a\.png .*not 20x30"),
    (annotate(segmentation={"counts": "o" * 10**6, "size": [20, 30]}), r"a\.png: annotation 1 .*no run-length"),
    (annotate(segmentation={"counts": "\u00fc", "size": [20, 30]}), r"a\.png: annotation 1 .*no run-length"),
    (annotate(segmentation=[[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]]), r"a\.png: annotation 1 .* covers no pixel"),
    (annotate(segmentation={"counts": [5, 5], "size": [20, 30]}), r"annotation 1 of a\.png .*encoding of 10 pixels"),
    (annotate(segmentation={"counts": "00", "size": [20, 30]}), r"a\.png: annotation 1 .*encoding of 0 pixels"),
    (
        annotate(segmentation={"counts": "garbage!", "size": [20, 30]}),
        r"a\.png: annotation 1 .*are no run-length encoding",
    ),
    (
        annotate(segmentation={"counts": [600], "size": [30, 20]}),
        r"annotation 1 of a\.png .*of 30x20 pixels, not 20x30",
    ),
]


@pytest.mark.parametrize("change, message", AT_OPENING + WHEN_READ)
def test_a_bad_annotation_is_named_or_left_out_alone(folder, change, message):
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        CocoInstanceDataset(folder)[0]
    dataset = CocoInstanceDataset(folder, skip_bad_samples=True)
    assert len(dataset) == 2 and len(dataset[0].targets) == 2 == len(dataset[0].targets)
    assert [bad.reason for bad in dataset.bad_samples] == [dataset.bad_samples[0].reason]


def test_an_image_that_is_listed_twice_is_an_error(folder):
    edit(folder, lambda content: content["images"][1].update(file_name="a.png"))
    with pytest.raises(ValueError, match=r"the image a\.png twice"):
        CocoInstanceDataset(folder)
    dataset = CocoInstanceDataset(folder, skip_bad_samples=True)
    assert len(dataset) == 1 and len(dataset.bad_samples) == 1


def test_images_that_share_an_id_are_left_out_since_their_annotations_cannot_be_told_apart(folder):
    def add(content):
        content["images"] += [{**content["images"][0], "id": 99, "file_name": name} for name in ("c.png", "d.png")]
        content["annotations"].append({**content["annotations"][0], "id": 50, "image_id": 99})

    edit(folder, add)
    with pytest.raises(ValueError, match=r"two images with id 99: c\.png and d\.png.*nothing tells whose"):
        CocoInstanceDataset(folder)
    dataset = CocoInstanceDataset(folder, skip_bad_samples=True)
    assert [Path(dataset.name(index)).name for index in range(len(dataset))] == ["a.png", "b.png"]
    assert len(dataset.bad_samples) == 1


@pytest.mark.parametrize("change", [{"file_name": 1}, {"file_name": None}, {"height": "20"}, {"id": 7.5}, {"id": [7]}])
def test_an_image_that_is_listed_wrongly_is_an_error_or_left_out_with_its_annotations(folder, change):
    edit(folder, lambda content: content["images"][0].update(change))
    with pytest.raises(ValueError, match=r"instances\.json: image 0 is not COCO instances: "):
        CocoInstanceDataset(folder)
    dataset = CocoInstanceDataset(folder, skip_bad_samples=True)
    assert len(dataset) == 1 and dataset.name(0).endswith("b.png") and "image 0" in dataset.bad_samples[0].reason
    assert len(dataset.bad_samples) == 1 if "id" not in change else len(dataset.bad_samples) == 4


def test_ids_as_texts_or_with_a_point_are_the_same_ids(folder):
    expected = CocoInstanceDataset(folder)[0].masks()
    for convert in (str, float):

        def change(content, convert=convert):
            for annotation in content["annotations"]:
                annotation.update(
                    image_id=convert(annotation["image_id"]), category_id=convert(annotation["category_id"])
                )

        edit(folder, change)
        dataset = CocoInstanceDataset(folder)
        assert dataset[0].image_id == 7 and [target.label_id for target in dataset[0].targets] == [0, 1, 0]
        np.testing.assert_array_equal(dataset[0].masks(), expected)
    edit(folder, lambda content: [image.update(id=str(image["id"])) for image in content["images"]])
    assert CocoInstanceDataset(folder)[0].image_id == "7" and len(CocoInstanceDataset(folder)[0].targets) == 3
    edit(folder, lambda content: content["categories"][0].update(id="cat"))
    with pytest.raises(ValueError, match=r"category 0 .*id is 'cat', expected a number"):
        CocoInstanceDataset(folder)


@pytest.mark.parametrize("isthing, is_stuff", [("0", True), (0, True), (False, True), ("true", False), (1.0, False)])
def test_flags_are_read_however_they_are_written(folder, isthing, is_stuff):
    edit(folder, lambda content: content["categories"][0].update(isthing=isthing))
    edit(folder, annotate(iscrowd="1"))
    dataset = CocoInstanceDataset(folder, task="semantic")
    assert dataset.label_space.stuff_classes == ([0] if is_stuff else [])
    edit(folder, lambda content: content["categories"][0].update(isthing="stuff"))
    with pytest.raises(ValueError, match=r"category 0 .*isthing is 'stuff', expected 0 or 1"):
        CocoInstanceDataset(folder)


@pytest.mark.parametrize("size", [-1, 0, None])
def test_where_the_size_is_unknown_it_is_the_images_own(folder, size):
    expected = CocoInstanceDataset(folder)[0].masks()
    edit(folder, lambda content: [image.update(height=size, width=size) for image in content["images"]])
    dataset = CocoInstanceDataset(folder)
    assert dataset.summarize(0) is None
    np.testing.assert_array_equal(dataset[0].masks(), expected)
    edit(folder, annotate(segmentation=[[2, 2, 1e9, 2, 12, 12]]))
    with pytest.raises(ValueError, match=r"a\.png: annotation 1 .*far outside"):
        CocoInstanceDataset(folder)[0]


@pytest.mark.parametrize(
    "name",
    ["images\\a.png", "C:\\data\\images\\a.png", "/somewhere/else/images/a.png", "../images/a.png", "./images/a.png"],
)
def test_names_from_other_machines_are_read_below_the_dataset(folder, name):
    edit(
        folder, lambda c: [image.update(file_name=name.replace("a.png", image["file_name"])) for image in c["images"]]
    )
    dataset = CocoInstanceDataset(folder)
    assert Path(dataset.name(0)) == folder / "images" / "a.png" and dataset[0].file_name == name


def test_no_file_outside_the_dataset_is_read_unless_its_folder_is_named(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (30, 20), (1, 2, 3)).save(outside / "secret.png")
    for name in (
        str(outside / "secret.png"),
        f"../../{outside.name}/secret.png",
        f"images/../../../{outside.name}/secret.png",
    ):
        edit(folder, lambda content, name=name: content["images"][0].update(file_name=name))
        with pytest.raises(FileNotFoundError, match=r"secret\.png is missing \(1 of 2 files"):
            CocoInstanceDataset(folder)
        assert len(CocoInstanceDataset(folder, skip_bad_samples=True)) == 1
    Image.new("RGB", (30, 20)).save(outside / "b.png")
    assert CocoInstanceDataset(folder, images_dir=outside)[0].image.getpixel((0, 0)) == (1, 2, 3)


def test_images_in_another_folder_are_found_by_the_last_parts_of_their_names(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("pictures")
    for image in (folder / "images").iterdir():
        shutil.move(image, elsewhere)
    edit(
        folder, lambda content: [image.update(file_name=f"images/{image['file_name']}") for image in content["images"]]
    )
    with pytest.raises(FileNotFoundError, match=r"every other folder .* --images_dir names any other"):
        CocoInstanceDataset(folder)
    dataset = CocoInstanceDataset(folder, images_dir=elsewhere)
    assert Path(dataset.name(0)) == elsewhere / "a.png" and len(dataset[0].targets) == 3
    edit(folder, lambda content: content["images"][1].update(file_name="more/a.png"))
    with pytest.raises(ValueError, match=r"lists the file .*a\.png twice, as images/a\.png and as more/a\.png"):
        CocoInstanceDataset(folder, images_dir=elsewhere)


def test_where_no_image_is_there_the_error_says_how_to_name_another_folder(folder):
    for image in (folder / "images").iterdir():
        image.rename(image.with_suffix(".jpg"))
    with pytest.raises(FileNotFoundError, match=r"images/a\.png is missing \(2 of 2 files .* --images_dir names"):
        CocoInstanceDataset(folder)


def test_another_process_reads_the_same(folder, coco_sample):
    for dataset in (CocoInstanceDataset(folder), CocoPanopticDataset(coco_sample)):
        copied = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(copied[0].masks(), dataset[0].masks())


def test_names_in_either_form_of_unicode_are_found(folder):
    (folder / "images" / "a.png").rename(folder / "images" / "\u00e4.png")
    edit(folder, lambda content: content["images"][0].update(file_name="a\u0308.png"))
    assert CocoInstanceDataset(folder).name(0).endswith("\u00e4.png")


@pytest.mark.parametrize("name", ["result.json", "result_coco.json", "labels.json"])
def test_exports_of_other_names_are_recognised_by_what_they_hold(folder, name):
    (folder / "instances.json").rename(folder / name)
    assert len(CocoInstanceDataset(folder)[0].targets) == 3
    (folder / name).write_text('{"0": "cat"}')
    with pytest.raises(FileNotFoundError):
        CocoInstanceDataset(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read(folder, encoding):
    (folder / "instances.json").write_text(json.dumps(content()), encoding=encoding)
    assert len(CocoInstanceDataset(folder)) == 2


def test_a_missing_image_is_an_error_or_left_out(folder):
    (folder / "images" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/b\.png is missing \(1 of 2 files"):
        CocoInstanceDataset(folder)
    assert len(CocoInstanceDataset(folder, skip_bad_samples=True)) == 1


def test_an_image_of_another_size_than_the_json_states_is_an_error(folder):
    Image.new("RGB", (20, 30)).save(folder / "images" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is 30x20 .*instances\.json is 20x30"):
        CocoInstanceDataset(folder)[0]


def test_panoptic_json_is_recognised(coco_sample):
    with pytest.raises(ValueError, match=r"holds panoptic annotations.*read it as coco_panoptic"):
        CocoInstanceDataset(coco_sample / "panoptic.json")


def test_json_that_is_not_cocos_is_named(folder):
    (folder / "instances.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"instances\.json is not COCO instances: expected `object`, got `array`"):
        CocoInstanceDataset(folder)

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.shapes import generate_shapes_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small dataset that tests may damage."""
    return generate_shapes_dataset(tmp_path / "shapes", num_train=2, num_validation=0, num_test=0) / "train"


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / "panoptic.json").read_text())
    change(content)
    (folder / "panoptic.json").write_text(json.dumps(content))


def test_real_coco_segments_have_the_areas_and_classes_that_the_json_states(coco_sample):
    dataset = CocoPanopticDataset(coco_sample)
    annotations = json.loads((coco_sample / "panoptic.json").read_text())["annotations"]
    assert [len(dataset[i].targets) for i in range(len(dataset))] == [18, 32]
    assert len(dataset.label_space) == 133 and len(dataset.label_space.stuff_classes) == 53
    for i, annotation in enumerate(annotations):
        sample = dataset[i]
        assert sample.image.mode == "RGB" and sample.image_id == annotation["image_id"]
        assert sample.file_name == annotation["file_name"].replace(".png", ".jpg")
        assert sample.masks().shape == (len(sample.targets), *sample.size)
        assert sample.masks().sum((1, 2)).tolist() == [info["area"] for info in annotation["segments_info"]]
        assert sample.masks().sum(0).max() == 1
        for target, info in zip(sample.targets, annotation["segments_info"]):
            assert dataset.categories[target.label_id].id == info["category_id"]
            assert target.iscrowd == bool(info["iscrowd"])


def test_coco_own_layout_reads_the_same_samples(folder, tmp_path):
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    shutil.copytree(folder / "images", coco / "train2017")
    shutil.copytree(folder / "panoptic", coco / "annotations" / "panoptic_train2017")
    shutil.copy(folder / "panoptic.json", coco / "annotations" / "panoptic_train2017.json")
    dataset = CocoPanopticDataset(coco / "annotations" / "panoptic_train2017.json")
    expected = CocoPanopticDataset(folder)
    assert len(dataset) == 2
    np.testing.assert_array_equal(np.asarray(dataset[1].image), np.asarray(expected[1].image))
    np.testing.assert_array_equal(dataset[1].masks(), expected[1].masks())


def test_void_pixels_belong_to_no_target_and_crowds_are_kept(folder):
    dataset = CocoPanopticDataset(folder)
    png_path = folder / "panoptic" / dataset.annotations[0].file_name
    png = np.array(Image.open(png_path))
    png[:5] = 0
    Image.fromarray(png).save(png_path)
    edit(folder, lambda content: content["annotations"][0]["segments_info"][0].update(iscrowd=1))
    sample = CocoPanopticDataset(folder)[0]
    assert not sample.masks()[:, :5].any() and sample.masks()[:, 5:].any(0).all()
    assert [target.iscrowd for target in sample.targets][:2] == [True, False]


def test_categories_are_matched_to_a_models_classes_by_name(folder):
    own = CocoPanopticDataset(folder)
    names = ["sand", *reversed(list(own.label_space.id2label.values()))]
    edit(folder, lambda content: [category.update(id=category["id"] + 100) for category in content["categories"]])
    edit(folder, shift_categories)
    matched = CocoPanopticDataset(folder, id2label=dict(enumerate(names)))
    assert [t.label_id for t in matched[0].targets] == [10 - t.label_id for t in own[0].targets]
    stuff = sorted(10 - label_id for label_id in own.label_space.stuff_classes)
    assert len(matched.label_space) == 11 and matched.label_space.stuff_classes == stuff


def shift_categories(content):
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] += 100


def test_a_category_that_the_model_lacks_is_an_error_that_names_it(folder):
    with pytest.raises(ValueError, match=r"panoptic\.json: Category 'boat' is not a class of the model \(8 of 10"):
        CocoPanopticDataset(folder, id2label={0: "balloon", 1: "water"})


@pytest.mark.parametrize("name", ["images", "panoptic"])
def test_every_missing_file_is_found_at_construction(folder, name):
    (folder / name / "000001.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}/000001\.png is missing \(1 of 2 files"):
        CocoPanopticDataset(folder)


@pytest.mark.parametrize("name", ["images", "panoptic", "panoptic.json"])
def test_a_missing_part_is_named_with_the_layouts_that_are_read(folder, name):
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{name} \(.*\) is missing.*annotations/panoptic_NAME\.json"):
        CocoPanopticDataset(folder)


def test_an_instances_file_is_recognised(coco_sample, tmp_path):
    copy = shutil.copytree(coco_sample, tmp_path / "coco")
    shutil.copy(copy / "instances.json", copy / "panoptic.json")
    with pytest.raises(ValueError, match=r"holds instance annotations.*panoptic JSON"):
        CocoPanopticDataset(copy)


def duplicate_category(content):
    content["categories"][1]["id"] = 1


def unknown_category(content):
    content["annotations"][1]["segments_info"][0]["category_id"] = 77


def segment_without_category(content):
    del content["annotations"][1]["segments_info"][0]["category_id"]


def unknown_image(content):
    content["annotations"][1]["image_id"] = 55


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content.pop("categories"), r"not COCO panoptic: object missing required field `categories`"),
        (
            lambda content: content["annotations"][1].pop("segments_info"),
            r"annotation 1 .*missing required field `segments_info`",
        ),
        (lambda content: content["categories"][2].pop("isthing"), r"category 2 .*missing required field `isthing`"),
        (
            lambda content: content["images"][1].update(height="x"),
            r"image 1 .*expected `int \| float \| null`, got `str` - at `\$\.height`",
        ),
        (duplicate_category, r"panoptic\.json: Category id 1 .*'balloon'.*'water'"),
        (unknown_category, r"segment 2654435 of 000001\.png has category_id 77.*'categories'"),
        (unknown_image, r"annotation 1 \(000001\.png\) .*image_id 55"),
    ],
)
def test_a_json_file_that_is_wrong_is_an_error_that_says_where(folder, change, message):
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        CocoPanopticDataset(folder)


def test_invalid_json_is_named(folder):
    (folder / "panoptic.json").write_text("{")
    with pytest.raises(ValueError, match=r"panoptic\.json is not valid JSON"):
        CocoPanopticDataset(folder)


def test_a_listed_segment_without_pixels_is_an_error(folder):
    segment = {"id": 99, "category_id": 1}
    edit(folder, lambda content: content["annotations"][0]["segments_info"].append(segment))
    with pytest.raises(ValueError, match=r"000000\.png: segment 99.*no pixels"):
        CocoPanopticDataset(folder)[0]


def test_pixels_of_an_unlisted_segment_are_an_error(folder):
    edit(folder, lambda content: content["annotations"][0]["segments_info"].pop(0))
    with pytest.raises(ValueError, match=r"000000\.png: \d+ pixels have segment id 2654435.*does not list"):
        CocoPanopticDataset(folder)[0]


def test_a_segment_id_listed_twice_is_an_error(folder):
    edit(folder, lambda c: c["annotations"][0]["segments_info"].append(c["annotations"][0]["segments_info"][0]))
    with pytest.raises(ValueError, match=r"000000\.png.*one id"):
        CocoPanopticDataset(folder)[0]


def test_image_and_png_of_different_sizes_are_an_error_that_names_both(folder):
    Image.new("RGB", (50, 40)).save(folder / "images" / "000000.png")
    with pytest.raises(ValueError, match=r"images/000000\.png is 40x50 .*panoptic/000000\.png is 96x96"):
        CocoPanopticDataset(folder)[0]


@pytest.mark.parametrize("name", ["images", "panoptic"])
def test_a_truncated_file_is_an_error_that_names_it(folder, name):
    path = folder / name / "000000.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{name}/000000\.png cannot be decoded"):
        CocoPanopticDataset(folder)[0]


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_png_that_holds_no_colours_is_an_error(folder, mode):
    Image.new(mode, (96, 96)).save(folder / "panoptic" / "000000.png")
    with pytest.raises(ValueError, match=rf"panoptic/000000\.png has mode {mode}, expected RGB"):
        CocoPanopticDataset(folder)[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (unknown_category, r"segment 2654435 of 000001\.png has category_id 77"),
        (unknown_image, r"image_id 55"),
        (
            lambda content: content["annotations"][1].pop("segments_info"),
            r"annotation 1 .*missing required field `segments_info`",
        ),
        (
            lambda content: content["annotations"][1].update(segments_info=3),
            r"annotation 1 .*expected `array`, got `int` - at `\$\.segments_info`",
        ),
        (segment_without_category, r"annotation 1 .*required field `category_id` - at `\$\.segments_info\[0\]`"),
        (lambda content: content["images"][1].update(file_name="000000.png"), r"lists the image 000000\.png twice"),
        (lambda content: content["annotations"][1].update(image_id=0), r"is the second one of image_id 0"),
        (lambda content: content["images"][1].update(file_name="none.png"), r"images/none\.png is missing"),
    ],
)
def test_bad_samples_can_be_left_out_and_are_listed(folder, change, message):
    edit(folder, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        CocoPanopticDataset(folder)
    dataset = CocoPanopticDataset(folder, skip_bad_samples=True)
    assert len(dataset) == 1 and dataset.name(0).endswith("images/000000.png")
    assert re.search(message, dataset.bad_samples[0].reason)
    assert len(dataset[0].targets) == len(dataset.summarize(0).label_ids)


def test_flags_and_ids_as_texts_are_read(folder):
    expected = CocoPanopticDataset(folder)

    def as_texts(content):
        for category in content["categories"]:
            category.update(id=str(category["id"]), isthing=str(category["isthing"]))
        for annotation in content["annotations"]:
            annotation["image_id"] = str(annotation["image_id"])
            for segment in annotation["segments_info"]:
                segment.update(id=str(segment["id"]), category_id=str(segment["category_id"]))

    edit(folder, as_texts)
    dataset = CocoPanopticDataset(folder)
    assert dataset.label_space == expected.label_space and dataset.label_space.stuff_classes
    assert [target.label_id for target in dataset[0].targets] == [target.label_id for target in expected[0].targets]
    np.testing.assert_array_equal(dataset[0].masks(), expected[0].masks())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": "red"}, r"segment's id is 'red', expected a number.*`\$\.segments_info\[0\]`"),
        ({"id": [1]}, r"got `array` - at `\$\.segments_info\[0\]\.id`"),
        ({"category_id": None}, r"got `null` - at `\$\.segments_info\[0\]\.category_id`"),
        ({"iscrowd": 7}, r"iscrowd is 7, expected 0 or 1"),
        ({"area": float("inf")}, r"got NaN, Infinity or one as large - at `\$\.segments_info\[0\]\.area`"),
    ],
)
def test_a_segment_that_is_listed_wrongly_is_named(folder, change, message):
    edit(folder, lambda content: content["annotations"][1]["segments_info"][0].update(change))
    with pytest.raises(ValueError, match=rf"panoptic\.json: annotation 1 is not COCO panoptic: .*{message}"):
        CocoPanopticDataset(folder)
    assert len(CocoPanopticDataset(folder, skip_bad_samples=True)) == 1


def test_images_in_another_folder_are_read(folder, tmp_path_factory):
    elsewhere = shutil.move(folder / "images", tmp_path_factory.mktemp("elsewhere") / "pictures")
    dataset = CocoPanopticDataset(folder, images_dir=elsewhere)
    assert Path(dataset.name(1)) == Path(elsewhere) / "000001.png" and dataset[1].targets


def test_pngs_outside_the_dataset_are_not_read(folder, tmp_path_factory):
    outside = shutil.move(folder / "panoptic" / "000001.png", tmp_path_factory.mktemp("outside") / "secret.png")
    edit(folder, lambda content: content["annotations"][1].update(file_name=str(outside)))
    with pytest.raises(FileNotFoundError, match=r"secret\.png is missing"):
        CocoPanopticDataset(folder)


def test_for_semantic_segmentation_segments_of_a_class_are_one(folder):
    panoptic, semantic = CocoPanopticDataset(folder), CocoPanopticDataset(folder, task="semantic")
    for index in range(2):
        labels = [target.label_id for target in panoptic[index].targets]
        assert sorted(semantic.summarize(index).label_ids) == sorted(set(labels))
        for target in semantic[index].targets:
            of_class = [t.mask() for t in panoptic[index].targets if t.label_id == target.label_id]
            np.testing.assert_array_equal(target.mask(), np.any(of_class, axis=0))


def test_for_instance_segmentation_stuff_is_left_out(folder):
    dataset = CocoPanopticDataset(folder, task="instance")
    assert dataset.label_space.names == ("balloon", "boat", "house", "tree", "car")
    panoptic = CocoPanopticDataset(folder)
    things = sum(target.label_id not in panoptic.label_space.stuff_classes for target in panoptic[0].targets)
    assert len(dataset[0].targets) == len(dataset.summarize(0).label_ids) == things

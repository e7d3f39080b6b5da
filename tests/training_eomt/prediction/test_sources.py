"""Images are found, whatever they lie in, and each has a name of its own."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from training_eomt.data.coco_instance import CocoInstanceDataset
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.prediction.sources import AnnotatedImages, ImageFolder
from training_eomt.shapes import CATEGORIES, STUFF, THINGS, generate_shapes_dataset


ID2LABEL = dict(enumerate(["cat", *THINGS, *STUFF]))


def save(path, size=(20, 10), **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path, **settings)


def test_a_folder_gives_the_images_in_it_and_below_it_and_nothing_else(tmp_path):
    for name in ("red.JPG", "b/1.png", "a/1.png", "a/c/1.png", ".thumbnails/1.png", "a/._1.png"):
        save(tmp_path / name)
    Image.new("L", (20, 10), 50).save(tmp_path / "grey.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "scan.pdf").write_text("no image")
    source = ImageFolder(tmp_path)
    names = ["a/1.png", "a/c/1.png", "b/1.png", "grey.png", "red.JPG"]
    assert source.names == names
    assert not source.has_targets and source.category_ids is None
    samples = [source[index] for index in range(len(source))]
    assert [sample.file_name for sample in samples] == [sample.image_id for sample in samples] == names
    assert all(sample.image.mode == "RGB" and not sample.targets for sample in samples)


def test_links_among_folders_end(tmp_path):
    """A link to the folder itself is 40 folders in one another, and 2 such links are 2^40."""
    images = tmp_path / "images"
    for name in ("1.png", "a/1.png", "b/1.png"):
        save(images / name)
    for number in range(3):
        (images / f"itself_{number}").symlink_to(images)
        (images / "a" / f"around_{number}").symlink_to(tmp_path)
    (images / "a" / "to_b").symlink_to(images / "b")
    (images / "b" / "to_a").symlink_to(images / "a")
    source = ImageFolder(images)
    names = ["1.png", "a/1.png", "a/to_b/1.png", "b/1.png", "b/to_a/1.png"]
    assert source.names == names


def test_a_link_to_a_folder_around_it_is_not_followed_and_others_are(tmp_path):
    save(tmp_path / "images" / "a" / "1.png")
    save(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "images" / "a" / "around").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "itself").symlink_to("itself")
    (tmp_path / "images" / "b").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder(tmp_path / "images").names == ["a/1.png", "b/2.png"]


def test_a_photograph_taken_sideways_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(tmp_path / "a.jpg", (40, 30), exif=exif)
    save(tmp_path / "a.png", (40, 30))
    source = ImageFolder(tmp_path)
    assert [source[index].size for index in range(2)] == [(40, 30), (30, 40)]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_images_is_refused_by_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        ImageFolder(tmp_path / name)


def test_data_bring_their_targets_and_the_numbers_of_their_classes(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 2) / "test"
    for task in ("panoptic", "instance"):
        source = AnnotatedImages(CocoPanopticDataset(data, ID2LABEL, task=task))
        assert source.has_targets and source.names == ["000000.png", "000001.png"]
        assert source[1].targets
    ids = {category.name: category.id for category in CATEGORIES}
    assert source.category_ids == {label_id: ids[name] for label_id, name in ID2LABEL.items() if name in THINGS}


class NamedImages(CocoPanopticDataset):
    """Shapes under other names."""

    def __init__(self, data, names):
        super().__init__(data)
        self.names = names

    def name(self, index):
        return self.names[index]


def test_annotated_images_are_called_by_their_path_in_the_folder_of_them_all(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 2) / "test"
    for names, expected in (
        (["/data/val/a/1.png", "/data/val/b/1.png"], ["a/1.png", "b/1.png"]),
        (["data/a/1.png", "data/a/2.png"], ["1.png", "2.png"]),
        (["row 1 of me/shapes", "row 2 of me/shapes"], ["row 1 of me/shapes", "row 2 of me/shapes"]),
        (["../1.png", "/2.png"], ["1.png", "2.png"]),
    ):
        source = AnnotatedImages(NamedImages(data, names))
        assert source.names == expected
    with pytest.raises(ValueError, match=r"image 1\.png"):
        AnnotatedImages(NamedImages(data, ["/data/1.png", "/data/1.png"]))


def test_annotated_images_stay_as_they_are_stored(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 1, image_size=(32, 64)) / "test"
    source = AnnotatedImages(CocoPanopticDataset(data, ID2LABEL))
    with Image.open(data / "images" / "000000.png") as stored:
        np.testing.assert_array_equal(source[0].image, stored)


def test_a_bad_annotation_costs_its_image_neither_its_number_nor_its_other_targets(coco_sample, tmp_path):
    content = json.loads((coco_sample / "instances.json").read_text())
    image = content["images"][0]
    annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    size = [image["height"], image["width"]]
    bad = {"size": size, "counts": [size[0] * size[1]]}  # no pixel
    content["annotations"][content["annotations"].index(annotations[0])]["segmentation"] = bad
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(coco_sample / "images")
    dataset = CocoInstanceDataset(tmp_path)
    with pytest.raises(ValueError, match="annotation"):
        dataset[0]
    sample = AnnotatedImages(dataset)[0]
    assert sample.image_id == image["id"] and len(sample.targets) == len(annotations) - 1


def test_a_stamp_tells_a_file_or_the_zip_that_it_is_in_from_what_replaces_it(tmp_path):
    save(tmp_path / "in" / "a.png")
    source = ImageFolder(tmp_path / "in")
    before = source.stamp(0)
    assert before is not None and source.stamp(0) == before
    save(tmp_path / "in" / "a.png", (21, 10))
    assert source.stamp(0) != before
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 1) / "test"
    shutil.make_archive(str(tmp_path / "shapes"), "zip", data)
    zipped = AnnotatedImages(CocoPanopticDataset(tmp_path / "shapes.zip"))
    found = (tmp_path / "shapes.zip").stat()
    assert zipped.stamp(0) == f"{found.st_size}-{found.st_mtime_ns}"
    assert AnnotatedImages(NamedImages(data, ["row 1 of me/shapes"])).stamp(0) is None

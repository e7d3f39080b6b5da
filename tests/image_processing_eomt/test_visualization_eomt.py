import json

import numpy as np
import pytest
import torch
from PIL import Image

from image_processing_eomt import class_color, draw_segmentation


NAMES = {0: "cat", 1: "sky"}


@pytest.fixture
def scene():
    """A grey picture, 120 high and 200 wide: the left half is one segment, the right half nothing."""
    segmentation = np.full((120, 200), -1)
    segmentation[:, :100] = 0
    return Image.new("RGB", (200, 120), (128, 128, 128)), segmentation, [{"id": 0, "label_id": 1}]


def test_a_segment_is_filled_and_the_rest_left_alone(scene):
    image, segmentation, infos = scene
    drawing = np.array(draw_segmentation(image, segmentation, infos, NAMES)).astype(int)
    assert drawing.shape == (120, 200, 3)
    assert (drawing[:, 100:] == 128).all()
    halfway = (np.array(class_color(1)) + 128) / 2
    assert np.abs(drawing[10, 10] - halfway).max() <= 1


def test_a_segment_is_outlined_in_its_full_colour(scene):
    image, segmentation, infos = scene
    drawing = np.array(draw_segmentation(image, segmentation, infos, {1: ""}))
    assert (drawing[:, 99] == class_color(1)).all()


def test_its_name_is_written_inside_the_segment_where_it_fits(scene):
    image, segmentation, infos = scene
    named, unnamed = (np.array(draw_segmentation(image, segmentation, infos, names)) for names in (NAMES, {1: ""}))
    rows, columns = np.nonzero((named != unnamed).any(axis=2))
    assert len(rows) > 20
    assert columns.max() < 100
    assert named[rows, columns].min(axis=1).max() > 200  # white letters
    assert named[rows, columns].max(axis=1).min() == 0  # in a black halo


def test_a_name_that_does_not_fit_is_left_out(scene):
    image, segmentation, infos = scene
    segmentation[:, 12:] = -1
    named, unnamed = (draw_segmentation(image, segmentation, infos, names) for names in (NAMES, {1: ""}))
    assert np.array_equal(named, unnamed)


def test_drawing_twice_gives_the_same_and_tensors_and_other_modes_are_fine(scene):
    image, segmentation, infos = scene
    first = draw_segmentation(image, segmentation, infos, NAMES)
    second = draw_segmentation(image.convert("L"), torch.from_numpy(segmentation), infos, NAMES)
    assert first.tobytes() == second.tobytes()


def test_nothing_to_draw_leaves_the_image(scene):
    image, segmentation, _ = scene
    assert draw_segmentation(image, np.full_like(segmentation, -1), [], NAMES).tobytes() == image.tobytes()


def test_instances_of_a_class_differ_in_shade(scene):
    image, segmentation, _ = scene
    segmentation[:, 100:] = 1
    infos = [{"id": 0, "label_id": 0}, {"id": 1, "label_id": 0}]
    drawing = np.array(draw_segmentation(image, segmentation, infos, NAMES))
    assert (drawing[5, 5] != drawing[5, 195]).any()


def test_classes_have_colours_of_their_own():
    colors = [class_color(label) for label in range(150)]
    assert len(set(colors)) == 150
    assert colors[:2] == [(255, 38, 38), (77, 129, 255)]  # pinned: published legends must stay true


def test_a_segmentation_of_another_size_is_an_error(scene):
    image, segmentation, infos = scene
    with pytest.raises(ValueError, match="target_sizes"):
        draw_segmentation(image, segmentation[:50], infos, NAMES)


def test_real_annotations_can_be_drawn(coco_sample):
    names = {c["id"]: c["name"] for c in json.loads((coco_sample / "panoptic_coco_categories.json").read_text())}
    annotation = json.loads((coco_sample / "panoptic.json").read_text())["annotations"][0]
    colors = np.array(Image.open(coco_sample / "panoptic" / annotation["file_name"]).convert("RGB")).astype(int)
    image = Image.open(coco_sample / "images" / annotation["file_name"].replace(".png", ".jpg"))
    infos = [{"id": info["id"], "label_id": info["category_id"]} for info in annotation["segments_info"]]
    drawing = draw_segmentation(image, colors @ [1, 256, 65536], infos, names)
    assert drawing.size == image.size
    assert np.abs(np.array(drawing).astype(int) - np.array(image)).mean() > 10

"""Pictures are found, segmented and drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from training_eomt.prediction import pictures_to_segment, write_overlays
from training_eomt.shapes import generate_shapes_dataset


def segmenter(image):
    """Finds one cat in the upper half of every picture."""
    mask = np.zeros((image.height, image.width), dtype=np.uint8)
    mask[: image.height // 2] = 255
    return [{"label": "cat", "score": 0.9, "mask": Image.fromarray(mask)}]


class Segmenter:
    model = SimpleNamespace(
        config=SimpleNamespace(
            label2id={"cat": 1},
            id2label=dict(enumerate(["dog", "cat", "cow", "hen", "sky", "sea"])),
        )
    )

    def __call__(self, image):
        return segmenter(image)


def test_a_folder_of_pictures_gives_each_picture_and_nothing_else(tmp_path):
    Image.new("L", (20, 10), 50).save(tmp_path / "grey.png")
    Image.new("RGB", (10, 20), "red").save(tmp_path / "red.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(pictures_to_segment(tmp_path, None))
    assert [(sample.file_name, has_targets) for sample, has_targets in found] == [
        ("grey.png", False),
        ("red.JPG", False),
    ]
    assert all(sample.image.mode == "RGB" for sample, _ in found)


def test_coco_panoptic_data_bring_their_targets(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 2) / "test"
    found = list(pictures_to_segment(data, None))
    assert len(found) == 2 and all(has_targets and sample.targets for sample, has_targets in found)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_pictures_is_refused_by_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        list(pictures_to_segment(tmp_path / name, None))


def test_overlays_show_input_target_and_prediction(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 1) / "test"
    Image.new("RGB", (400, 300), "gray").save(tmp_path / "gray.png")
    assert write_overlays(Segmenter(), pictures_to_segment(data, None), tmp_path / "overlays") == 1
    (tmp_path / "gray").mkdir()
    (tmp_path / "gray.png").rename(tmp_path / "gray" / "gray.png")
    assert write_overlays(Segmenter(), pictures_to_segment(tmp_path / "gray", None), tmp_path / "overlays") == 1
    with Image.open(tmp_path / "overlays" / "000000.png") as three, Image.open(tmp_path / "overlays/gray.png") as two:
        assert three.width > 3 * 320 and 2 * 400 < two.width < 3 * 400
        # The upper half of the prediction's panel is painted, the lower half is the picture.
        panel = np.asarray(two.convert("RGB"))[:, -400:]
        assert (panel[60] != 128).any() and (panel[250, :380] == 128).all()

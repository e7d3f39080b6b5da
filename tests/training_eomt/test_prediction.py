"""Pictures are found, segmented and drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from image_processing_eomt import EomtImageProcessorPil, EomtImageSegmentationPipeline
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.figures import predicted_segmentation
from training_eomt.prediction import pictures_to_segment, write_overlays
from training_eomt.shapes import STUFF, THINGS, generate_shapes_dataset


def segmenter(image):
    """Finds one cat in the upper half of every picture."""
    mask = np.zeros((image.height, image.width), dtype=np.uint8)
    mask[: image.height // 2] = 255
    return [{"label": "cat", "score": 0.9, "mask": Image.fromarray(mask)}]


ID2LABEL = dict(enumerate(["cat", *THINGS, *STUFF]))


class Segmenter:
    model = SimpleNamespace(config=SimpleNamespace(label2id={"cat": 0}, id2label=ID2LABEL))

    def __call__(self, image):
        return segmenter(image)


def test_a_folder_of_pictures_gives_each_picture_and_nothing_else(tmp_path):
    Image.new("L", (20, 10), 50).save(tmp_path / "grey.png")
    Image.new("RGB", (10, 20), "red").save(tmp_path / "red.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(pictures_to_segment(tmp_path, ID2LABEL))
    assert [(sample.file_name, has_targets) for sample, has_targets in found] == [
        ("grey.png", False),
        ("red.JPG", False),
    ]
    assert all(sample.image.mode == "RGB" for sample, _ in found)


def test_coco_panoptic_data_bring_their_targets(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 2) / "test"
    found = list(pictures_to_segment(data, ID2LABEL))
    assert len(found) == 2 and all(has_targets and sample.targets for sample, has_targets in found)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_pictures_is_refused_by_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        list(pictures_to_segment(tmp_path / name, ID2LABEL))


def test_overlays_show_input_target_and_prediction(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 1) / "test"
    Image.new("RGB", (400, 300), "gray").save(tmp_path / "gray.png")
    assert write_overlays(Segmenter(), pictures_to_segment(data, ID2LABEL), tmp_path / "overlays") == 1
    (tmp_path / "gray").mkdir()
    (tmp_path / "gray.png").rename(tmp_path / "gray" / "gray.png")
    assert write_overlays(Segmenter(), pictures_to_segment(tmp_path / "gray", ID2LABEL), tmp_path / "overlays") == 1
    with Image.open(tmp_path / "overlays" / "000000.png") as three, Image.open(tmp_path / "overlays/gray.png") as two:
        assert three.width > 3 * 320 and 2 * 400 < two.width < 3 * 400
        # The upper half of the prediction's panel is painted, the lower half is the picture.
        panel = np.asarray(two.convert("RGB"))[:, -400:]
        assert (panel[60] != 128).any() and (panel[250, :380] == 128).all()


def test_a_photograph_taken_sideways_is_turned_and_no_picture_replaces_another(tmp_path):
    photograph = Image.new("RGB", (40, 30), "red")
    exif = photograph.getexif()
    exif[0x0112] = 6  # turned by a quarter
    photograph.save(tmp_path / "a.jpg", exif=exif)
    photograph.save(tmp_path / "a.png")
    (tmp_path / "scan.pdf").write_text("no picture")
    found = [sample for sample, _ in pictures_to_segment(tmp_path, ID2LABEL)]
    assert [sample.size for sample in found] == [(40, 30), (30, 40)]
    assert write_overlays(Segmenter(), pictures_to_segment(tmp_path, ID2LABEL), tmp_path / "overlays") == 2
    assert sorted(file.name for file in (tmp_path / "overlays").iterdir()) == ["a.png", "a.png.png"]


def test_the_real_pipeline_draws_what_the_model_finds(tmp_path, tiny_config):
    tiny_config.id2label = ID2LABEL  # and no label2id, as in a configuration written by hand
    processor = EomtImageProcessorPil(size=64, threshold=0.0, overlap_mask_area_threshold=0.0)
    model = EomtForUniversalSegmentation(tiny_config).eval()
    segmenter = EomtImageSegmentationPipeline(model=model, image_processor=processor, device="cpu")
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 2) / "test"
    assert write_overlays(segmenter, pictures_to_segment(data, ID2LABEL), tmp_path / "overlays") == 2


def test_the_best_of_overlapping_instances_is_on_top():
    masks = [np.array([[0, 255, 255]], dtype=np.uint8), np.array([[255, 255, 0]], dtype=np.uint8)]
    segments = [
        {"label": name, "score": 0.9, "mask": Image.fromarray(mask)} for name, mask in zip(("dog", "cat"), masks)
    ]
    result = predicted_segmentation(segments, (1, 3), {0: "cat", 1: "dog"})
    assert result["segmentation"].tolist() == [[1, 0, 0]]
    assert [info["label_id"] for info in result["segments_info"]] == [1, 0]

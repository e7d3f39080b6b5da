"""`eomt segment` writes what the pipeline finds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from eomt_transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor, pipeline
from eomt_transformers.command import main
from eomt_transformers.segment import as_file_name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    config = EomtConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_blocks=1, num_queries=9, image_size=64,
        id2label={0: "cat", 1: "traffic light/red"},
    )  # fmt: skip
    torch.manual_seed(0)
    model = EomtForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.weight.mul_(40)
    model.save_pretrained(folder)
    EomtImageProcessor(size=64, task="panoptic", threshold=0.0, overlap_mask_area_threshold=0.0).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def photo(tmp_path):
    """A photograph that lies on its side."""
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("task", [None, "instance", "semantic"])
def test_an_image_gives_the_segments_of_the_pipeline(checkpoint, photo, tmp_path, task, capsys):
    output = tmp_path / "found"
    words = ["segment", str(photo), "--model", str(checkpoint), "--output", str(output)]
    main(words if task is None else [*words, "--task", task])
    expected = pipeline(checkpoint)(str(photo), **({} if task is None else {"subtask": task}))
    folder = output / "photo"
    found = json.loads((folder / "segments.json").read_text())
    masks = sorted((folder / "masks").iterdir())
    assert len(found) == len(masks) == len(expected) > 0
    assert Image.open(folder / "overlay.png").size == (40, 60)
    for segment, path, one in zip(found, masks, expected, strict=True):
        mask = np.asarray(one["mask"]) > 0
        assert (segment["label"], segment["score"]) == (one["label"], one["score"])
        assert segment["label_id"] == ["cat", "traffic light/red"].index(one["label"])
        assert segment["area"] == mask.sum() and np.array_equal(np.asarray(Image.open(path)) > 0, mask)
        assert np.array_equal(coco.decode(segment["segmentation"]), mask)
        assert segment["bbox"] == coco.toBbox(segment["segmentation"]).tolist()
        assert path.name.endswith(("_cat.png", "_traffic_light_red.png"))
    assert f"{photo}: {len(found)} segments in {folder}" in capsys.readouterr().out


def test_masks_of_an_earlier_run_do_not_stay(checkpoint, photo, tmp_path):
    words = ["segment", str(photo), "--model", str(checkpoint), "--output", str(tmp_path / "found")]
    main(words)
    main([*words, "--threshold", "1.0"])
    folder = tmp_path / "found" / "photo"
    assert json.loads((folder / "segments.json").read_text()) == [] and not list((folder / "masks").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jpg", "--model", "{model}"], r"none\.jpg"),
        (["{photo}", "--model", "/no/such/model"], r"There is no folder '/no/such/model'"),
        (["{photo}", "a/photo.png", "--model", "{model}"], r"Several images are called 'photo'"),
        (["{photo}", "--model", "{model}", "--threshold", "2"], r"threshold must be a number from 0 to 1, got 2"),
    ],
)
def test_a_mistake_ends_in_a_line(checkpoint, photo, tmp_path, words, message):
    words = [word.format(photo=photo, model=checkpoint) for word in words]
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        main(["segment", *words, "--output", str(tmp_path / "found")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("traffic light/red", "traffic_light_red"), ("..", "unnamed"), ("犬" * 90, "犬" * 33), ("é" * 60, "é" * 50)],
)
def test_names_of_classes_are_parts_of_file_names(text, expected):
    assert as_file_name(text) == expected

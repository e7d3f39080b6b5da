"""What a checkpoint keeps, and that its segments are those of the pipeline."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tiny_checkpoints import save_checkpoint, save_photograph  # of this folder

from app_eomt.segmenter import Segmenter


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return Segmenter(str(checkpoint))


@pytest.fixture
def segmenter(loaded):
    loaded._kept.clear()
    return loaded


@pytest.fixture
def forwards(segmenter):
    """Grows by one with each forward pass."""
    calls = []
    handle = segmenter.pipeline.model.register_forward_hook(lambda *_: calls.append(None))
    yield calls
    handle.remove()


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_segments_are_those_of_the_pipeline_however_often_they_are_asked_for(segmenter, photograph, task):
    expected = segmenter.pipeline(str(photograph), subtask=task)
    assert len(expected) > 1
    for _ in range(2):
        segmenter.draw(str(photograph), task, {})
        segments = segmenter.segment(str(photograph), task, {})
        for segment, reference in zip(segments, expected, strict=True):
            assert (segment["label"], segment["score"]) == (reference["label"], reference["score"])
            assert np.array_equal(coco_mask.decode(segment["segmentation"]) * 255, np.asarray(reference["mask"]))


def test_what_was_predicted_is_kept_up_to_a_number_of_bytes(segmenter, forwards, tmp_path, monkeypatch):
    first, second, third = (str(save_photograph(tmp_path / f"{seed}.png", 60, 80, seed)) for seed in range(3))
    size = segmenter.predict(first, "panoptic").num_bytes
    monkeypatch.setattr("app_eomt.segmenter.MAX_KEPT_BYTES", int(2.5 * size))
    segmenter.predict(second, "panoptic")
    segmenter.predict(first, "semantic")
    assert len(forwards) == 2
    segmenter.predict(third, "panoptic")  # in place of the second, which nobody has looked at since
    segmenter.predict(first, "instance")
    assert len(forwards) == 3
    segmenter.predict(second, "panoptic")
    assert len(forwards) == 4
    monkeypatch.setattr("app_eomt.segmenter.MAX_KEPT_BYTES", 1)
    segmenter.predict(third, "panoptic")
    assert list(segmenter._kept) == [(third, False)]  # however large it is


def test_what_was_predicted_goes_with_the_photograph(segmenter, forwards, tmp_path):
    first, second = (save_photograph(tmp_path / f"{seed}.png", 60, 80, seed) for seed in range(2))
    segmenter.predict(str(first), "panoptic")
    first.unlink()
    segmenter.predict(str(second), "panoptic")
    assert list(segmenter._kept) == [(str(second), False)]


@pytest.mark.parametrize(
    ("task", "tasks"),
    [
        ("panoptic", ["panoptic", "instance", "semantic"]),
        ("instance", ["instance", "semantic"]),
        ("semantic", ["semantic"]),
    ],
)
def test_a_checkpoint_can_be_used_for_its_task_and_for_those_that_ask_for_less(tmp_path, task, tasks):
    segmenter = Segmenter(str(save_checkpoint(tmp_path / task, seed=34, task=task)))
    assert segmenter.tasks == tasks
    path = str(save_photograph(tmp_path / "wide.png", 60, 200))
    expected = segmenter.pipeline(path)
    segments = segmenter.segment(path, task, {})
    assert [segment["label"] for segment in segments] == [segment["label"] for segment in expected]
    for segment, reference in zip(segments, expected, strict=True):
        assert np.array_equal(coco_mask.decode(segment["segmentation"]) * 255, np.asarray(reference["mask"]))


def test_the_colours_of_the_legend_are_those_of_the_drawing(segmenter, photograph):
    drawing = segmenter.draw(str(photograph), "semantic", {})
    picture = segmenter.predict(str(photograph), "semantic").picture
    photo = np.asarray(picture.resize(drawing.image.size, 0), dtype=float)
    pixels = np.asarray(drawing.image, dtype=float)
    for segment in drawing.segments:
        painted = (photo + segment["color"]) / 2  # half opaque
        share = (np.abs(pixels - painted).max(axis=2) <= 1).mean()
        assert share == pytest.approx(segment["share"], abs=0.15)  # without outlines and names
        assert share > 0.5 * segment["share"]

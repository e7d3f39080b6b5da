"""Exported folders in place of models."""

import json

import numpy as np
import pytest
import torch

import deployment_eomt
from deployment_eomt import ExportedSegmenter
from eomt_transformers import pipeline as load_any
from image_processing_eomt import EomtImageProcessor, EomtImageSegmentationPipeline
from modeling_eomt import EomtForUniversalSegmentation


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    ("task", "settings"),
    [("panoptic", {"threshold": 0.3, "stuff_classes": [1]}), ("instance", {"threshold": 0.2}), ("semantic", {})],
)
def test_the_pipeline_gives_the_results_of_the_model(exported, photograph, tmp_path, task, settings, batch_size):
    checkpoint, folder = exported.for_task(tmp_path, task, **settings)
    model = EomtForUniversalSegmentation.from_pretrained(checkpoint).eval()
    image_processor = EomtImageProcessor.from_pretrained(checkpoint)
    images = [str(photograph), torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), str(photograph)]
    expected = EomtImageSegmentationPipeline(model=model, image_processor=image_processor)(images)
    pipeline = deployment_eomt.pipeline(folder, batch_size=batch_size)
    assert isinstance(pipeline, EomtImageSegmentationPipeline)
    for found, wanted in zip(pipeline(images), expected, strict=True):
        assert [segment["label"] for segment in found] == [segment["label"] for segment in wanted]
        assert found
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_arguments_are_the_pipelines_own(exported, photograph):
    pipeline = deployment_eomt.pipeline(exported.folder, threshold=0.3, subtask="instance")
    assert len(pipeline(str(photograph), top_k=1)) == 1
    with pytest.raises(ValueError, match="threshold must be"):
        deployment_eomt.pipeline(exported.folder, threshold=3)


def test_it_is_for_the_task_that_it_was_exported_for(exported):
    assert load_any(exported.folder, task="panoptic").image_processor.task == "panoptic"
    with pytest.raises(ValueError, match="was exported for the task 'panoptic': export it again for 'semantic'"):
        load_any(exported.folder, task="semantic")


def test_it_is_called_as_the_model(exported):
    model = EomtForUniversalSegmentation.from_pretrained(exported.checkpoint).eval()
    segmenter = ExportedSegmenter(exported.folder)
    assert segmenter.config.id2label == model.config.id2label
    pixel_values = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values)
    for fixed in (False, True):  # a graph of one input is called once for each
        segmenter.graph.description["dynamic"] = [] if fixed else ["batch"]
        outputs = segmenter(pixel_values)
        for name in ("masks_queries_logits", "class_queries_logits"):
            assert (outputs[name] - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max()
    with pytest.raises(ValueError, match="takes a height of 64 pixels, got 32"):
        segmenter(torch.zeros(1, 3, 32, 64))


def test_a_graph_that_segments_by_itself_is_no_model(exported, tmp_path):
    _, folder = exported.for_task(tmp_path, "panoptic")
    manifest = json.loads((folder / "export.json").read_text())
    manifest["eomt"]["kind"] = "segmenter"
    (folder / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="gives segments by itself"):
        ExportedSegmenter(folder)

"""The folder that `export_model` writes."""

import json

import numpy as np
import pytest
import torch

from deployment_eomt import export_model
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation


onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path / "model")
    EomtImageProcessor(task="panoptic", size=64).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_an_onnx_file_gives_the_logits_of_the_model(checkpoint, tmp_path):
    folder = export_model(checkpoint, tmp_path / "out")
    assert {"model.onnx", "export.json", "config.json", "preprocessor_config.json"} <= {
        path.name for path in folder.iterdir()
    }
    manifest = json.loads((folder / "export.json").read_text())
    assert manifest["eomt"]["outputs"] == ["masks_queries_logits", "class_queries_logits"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    model = EomtForUniversalSegmentation.from_pretrained(checkpoint)
    for batch_size in (1, 3):
        pixel_values = torch.randn(batch_size, 3, 64, 64)
        with torch.no_grad():
            expected = model(pixel_values)
        for name, logits in zip(
            manifest["eomt"]["outputs"], session.run(None, {"pixel_values": pixel_values.numpy()}), strict=True
        ):
            assert np.abs(logits - expected[name].numpy()).max() <= 1e-5 * expected[name].abs().max()

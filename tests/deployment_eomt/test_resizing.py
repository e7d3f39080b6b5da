"""Graphs resize images to the byte as the decoder does, which is compared with torchvision in `test_decoder`."""

import numpy as np
import pytest
import torch
from torch import nn

from deployment_eomt import decoder
from deployment_eomt.resizing import resize


# Old and new: smaller, larger, one of each, a single pixel, an odd ratio, the same, as many as fill one block or two.
SIZES = [
    ((90, 131), (44, 64)),
    ((23, 31), (48, 64)),
    ((40, 230), (64, 11)),
    ((1, 1), (7, 5)),
    ((301, 7), (64, 1)),
    ((64, 64), (64, 64)),
    ((1000, 33), (17, 16)),
]


def draw(height, width):
    """Noise, half of it black or white, so that cubic weights overshoot."""
    values = np.random.default_rng(height * width).integers(-128, 384, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("resample", [decoder.BILINEAR, decoder.BICUBIC])
@pytest.mark.parametrize("old, new", SIZES)
def test_images_are_resized_to_the_byte(old, new, resample):
    image = draw(*old)
    resized = resize(torch.from_numpy(image), new, resample).numpy()
    np.testing.assert_array_equal(resized, decoder.resize(image, new, resample))


@pytest.mark.slow
@pytest.mark.parametrize("resample", [decoder.BILINEAR, decoder.BICUBIC])
def test_onnxruntime_resizes_to_the_byte(tmp_path, resample):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Resize(nn.Module):
        def forward(self, image, size):
            height, width = size.tolist()
            torch._check(height >= 1)
            torch._check(width >= 1)
            return resize(image, (height, width), resample)

    inputs = (torch.zeros(20, 30, 3, dtype=torch.uint8), torch.tensor([12, 50]))
    shapes = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}, None)
    program = torch.onnx.export(
        Resize().eval(), inputs, dynamic_shapes=shapes, dynamo=True, opset_version=20, verbose=False
    )
    program.save(tmp_path / "resize.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "resize.onnx", providers=["CPUExecutionProvider"])
    for old, new in SIZES:
        image = draw(*old)
        found = session.run(None, {"image": image, "size": np.array(new)})[0]
        np.testing.assert_array_equal(found, decoder.resize(image, new, resample))

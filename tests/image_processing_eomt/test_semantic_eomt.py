import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from image_processing_eomt import segment_semantic, upsampling_eomt
from image_processing_eomt.sizes_eomt import View, view_of


def everything_at_once(mask_logits, class_logits, view, output_size):
    """The definition, with every array in memory as a whole."""
    masks = F.interpolate(mask_logits, size=view.input_size, mode="bilinear").sigmoid()
    scores = torch.einsum("wqc,wqyx->wcyx", class_logits.softmax(-1)[..., :-1], masks)
    height, width = view.content_size
    total, count = torch.zeros(scores.shape[1], height, width), torch.zeros(height, width)
    for window, (top, left) in zip(scores, view.windows):
        place = (..., slice(top, top + view.input_size[0]), slice(left, left + view.input_size[1]))
        target = total[place]
        target += window[:, : target.shape[1], : target.shape[2]]
        count[place] += 1
    return F.interpolate((total / count)[None], size=output_size, mode="bilinear")[0]


SETTINGS = {"do_resize": True, "do_pad": True}


@pytest.mark.parametrize("small_bands", [False, True])
@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("output_size", [(60, 150), (170, 40), (64, 64), (9, 31), (5, 80)])
def test_bands_give_what_the_definition_gives(output_size, is_split, small_bands, monkeypatch):
    if small_bands:
        monkeypatch.setattr(upsampling_eomt, "BAND_NUMEL", {"cpu": 3000, "other": 3000})
    view = view_of(output_size, (32, 32), **SETTINGS, do_split_image=is_split)
    masks, classes = torch.randn(len(view.windows), 6, 8, 8) * 4, torch.randn(len(view.windows), 6, 5) * 3
    result = segment_semantic(masks, classes, view, output_size, return_segmentation_scores=True)
    segmentation, scores = result.segmentation, result.segmentation_scores
    expected = everything_at_once(masks, classes, view, output_size)
    assert torch.allclose(scores, expected, atol=1e-5)
    assert torch.equal(segmentation, scores.argmax(0))
    assert segmentation.dtype == torch.int64
    without = segment_semantic(masks, classes, view, output_size, return_segmentation_scores=False)
    assert torch.equal(without, segmentation)


def test_padding_has_no_say():
    mask_logits = torch.full((1, 2, 8, 8), -9.0)
    mask_logits[0, 0, :4], mask_logits[0, 1, 4:] = 9.0, 9.0
    class_logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    view = View((16, 32), (32, 32))
    segmentation = segment_semantic(mask_logits, class_logits, view, (50, 100), return_segmentation_scores=False)
    assert (segmentation == 0).float().mean() > 0.95  # the other class has only the padding


def test_half_precision_logits_are_fine():
    view = View((16, 16), (16, 16))
    logits = (torch.randn(1, 3, 4, 4).bfloat16(), torch.randn(1, 3, 3).bfloat16())
    result = segment_semantic(*logits, view, (16, 16), return_segmentation_scores=True)
    assert result.segmentation.shape == (16, 16) and result.segmentation_scores.dtype == torch.float32


LARGE_PICTURE = """
import resource, sys, torch
from types import SimpleNamespace
from image_processing_eomt import EomtImageProcessorPil
processor = EomtImageProcessorPil(size=640, task="semantic")
outputs = SimpleNamespace(
    masks_queries_logits=torch.randn(3, 200, 160, 160), class_queries_logits=torch.randn(3, 200, 151)
)
assert processor.post_process(outputs, [(2943, 1435)])[0].shape == (2943, 1435)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.slow
def test_a_large_picture_with_many_classes_takes_less_than_one_and_a_half_gigabytes():
    result = subprocess.run([sys.executable, "-c", LARGE_PICTURE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 1.5e9  # of the whole process; the scores of all classes alone would be 2.5e9

from functools import partial

import pytest
import torch

from image_processing_eomt import TASKS, segment_panoptic
from image_processing_eomt.sizes_eomt import View


DEFAULTS = {name: setting.default for name, setting in TASKS["panoptic"].settings.items()}
segmented = partial(segment_panoptic, **DEFAULTS)
THING, STUFF, NOTHING = 0, 1, 2  # the classes of the hand-made cases; the last one is "no object"


def segment(masks, labels, **kwargs):
    """Segments of `(n, h, w)` 0/1 masks with confident classes, at the masks' own size."""
    masks = torch.tensor(masks, dtype=torch.float32)
    size = tuple(masks.shape[-2:])
    kwargs = {"stuff_classes": [STUFF], **kwargs}
    class_logits = torch.nn.functional.one_hot(torch.tensor(labels), 3).float() * 12
    return segmented((masks - 0.5) * 20, class_logits, View(size, size), size, **kwargs)


def test_things_stay_apart_and_stuff_is_merged():
    result = segment([[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 1]]], [STUFF, THING, STUFF, THING])
    assert result["segmentation"].tolist() == [[0, 1, 0, 2]]
    assert [info["label_id"] for info in result["segments_info"]] == [STUFF, THING, THING]
    assert [info["area"] for info in result["segments_info"]] == [2, 1, 1]
    assert [info["was_fused"] for info in result["segments_info"]] == [True, False, False]
    assert [info["bbox"] for info in result["segments_info"]] == [[0, 0, 3, 1], [1, 0, 1, 1], [3, 0, 1, 1]]


def test_a_merged_segment_has_the_score_of_its_best_query():
    class_logits = torch.tensor([[0.0, 4.0, 0.0], [0.0, 6.0, 0.0]])
    masks = torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]])
    result = segmented(masks, class_logits, View((1, 2), (1, 2)), (1, 2), stuff_classes=[1])
    assert result["segments_info"][0]["score"] == pytest.approx(class_logits[1].softmax(0)[1].item())


@pytest.mark.parametrize(("overlap_threshold", "num_segments"), [(0.5, 2), (0.51, 1)])
def test_a_query_that_keeps_too_little_of_its_mask_is_dropped(overlap_threshold, num_segments):
    # The second mask loses one of its two pixels to the first, whose logits are higher.
    masks = torch.tensor([[[9.0, 9.0, -9.0]], [[-9.0, 3.0, 3.0]]])
    result = segmented(
        masks,
        torch.tensor([[9.0, 0.0, 0.0]]).expand(2, 3),
        View((1, 3), (1, 3)),
        (1, 3),
        overlap_mask_area_threshold=overlap_threshold,
    )
    assert result["segmentation"].tolist() == [[0, 0, 1 if num_segments == 2 else -1]]
    assert len(result["segments_info"]) == num_segments


def test_dropped_queries_leave_no_gap_in_the_ids():
    masks = [[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 1]]]
    result = segment(masks, [THING, THING, NOTHING, THING])
    assert result["segmentation"].tolist() == [[0, 0, -1, 1]]
    assert [info["id"] for info in result["segments_info"]] == [0, 1]


@pytest.mark.parametrize("labels", [[NOTHING, NOTHING], [THING, STUFF]])
def test_nothing_found_is_an_empty_segmentation(labels):
    result = segment([[[0, 0]], [[0, 0]]], labels)
    assert result["segmentation"].tolist() == [[-1, -1]]
    assert result["segmentation"].dtype == torch.int32
    assert result["segments_info"] == []


def test_padding_is_cut_off_before_the_result_gets_its_size():
    masks = torch.full((1, 4, 4), -9.0)
    masks[:, :2, :] = 9.0  # exactly the upper half, and the image is the upper half
    result = segmented(masks, torch.tensor([[9.0, 0.0]]), View((2, 4), (4, 4)), (10, 20), mask_threshold=0.5)
    assert result["segmentation"].shape == (10, 20)
    assert result["segments_info"][0]["area"] == 200


def test_areas_and_boxes_are_those_of_the_segmentation():
    result = segmented(
        torch.randn(20, 8, 8) * 4,
        torch.randn(20, 5) * 4,
        View((32, 24), (32, 32)),
        (50, 37),
        threshold=0.3,
        overlap_mask_area_threshold=0.1,
        stuff_classes=[2, 3],
    )
    segmentation, infos = result["segmentation"], result["segments_info"]
    assert len(infos) > 3
    assert [info["id"] for info in infos] == list(range(len(infos)))
    assert sum(info["area"] for info in infos) == (segmentation >= 0).sum()
    for info in infos:
        y, x = torch.nonzero(segmentation == info["id"], as_tuple=True)
        assert info["area"] == len(y)
        left, top = x.min().item(), y.min().item()
        assert info["bbox"] == [left, top, x.max().item() - left + 1, y.max().item() - top + 1]


def test_half_precision_logits_are_fine():
    result = segmented(
        torch.full((1, 4, 4), 9.0, dtype=torch.bfloat16),
        torch.tensor([[9.0, 0.0]], dtype=torch.bfloat16),
        View((16, 16), (16, 16)),
        (8, 8),
    )
    assert result["segments_info"][0]["area"] == 64


@pytest.mark.parametrize("label", [-1, 2])
def test_a_stuff_class_that_the_model_lacks_is_an_error(label):
    with pytest.raises(ValueError, match=f"Stuff class {label} is out of range"):
        segment([[[1]]], [THING], stuff_classes=[label])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives():
    masks, classes = torch.randn(20, 8, 8) * 4, torch.randn(20, 5) * 4
    sizes, settings = (View((32, 24), (32, 32)), (50, 37)), {"threshold": 0.3, "stuff_classes": [2]}
    cpu = segmented(masks, classes, *sizes, **settings)
    cuda = segmented(masks.cuda(), classes.cuda(), *sizes, **settings)
    assert cuda["segmentation"].is_cuda
    # Interpolation rounds differently on the two: single pixels may change sides.
    assert (cuda["segmentation"].cpu() != cpu["segmentation"]).float().mean() < 1e-2
    assert [info["label_id"] for info in cuda["segments_info"]] == [info["label_id"] for info in cpu["segments_info"]]

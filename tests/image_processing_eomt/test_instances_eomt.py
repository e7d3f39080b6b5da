from functools import partial

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from image_processing_eomt import TASKS, instances_eomt, segment_instances, upsampling_eomt
from image_processing_eomt.sizes_eomt import View


DEFAULTS = {name: setting.default for name, setting in TASKS["instance"].settings.items()}
segmented = partial(segment_instances, **DEFAULTS)
SIZE = (1, 4)
VIEW = View(SIZE, SIZE)


def instances(masks, class_logits, **kwargs):
    """Instances of `(n, 1, 4)` masks of 0 and 1 at the masks' own size."""
    logits = (torch.tensor(masks, dtype=torch.float32) - 0.5) * 20
    return segmented(logits, torch.tensor(class_logits), VIEW, SIZE, **kwargs)


def labels_and_areas(result):
    return [(info["label_id"], info["area"]) for info in result["segments_info"]]


OVERLAPPING = [[[1, 1, 1, 0]], [[0, 1, 1, 1]]], [[4.0, 0.0, 0.0], [0.0, 8.0, 0.0]]


def test_instances_are_sorted_and_the_best_is_on_top():
    result = instances(*OVERLAPPING)
    assert labels_and_areas(result) == [(1, 3), (0, 3)]
    assert [info["id"] for info in result["segments_info"]] == [0, 1]
    assert [info["bbox"] for info in result["segments_info"]] == [[1, 0, 3, 1], [0, 0, 3, 1]]
    assert result["segmentation"].tolist() == [[1, 0, 0, 0]]
    assert result["segmentation"].dtype == torch.int32


def test_overlapping_masks_stay_whole_on_request():
    result = instances(*OVERLAPPING, return_binary_maps=True)
    assert result["segmentation"].int().tolist() == [[[0, 1, 1, 1]], [[1, 1, 1, 0]]]
    encoded = instances(*OVERLAPPING, return_coco_annotation=True)
    assert np.array_equal(coco_mask.decode(encoded["segmentation"]).transpose(2, 0, 1), result["segmentation"].numpy())
    assert encoded["segments_info"] == result["segments_info"] == instances(*OVERLAPPING)["segments_info"]


def test_a_query_may_stand_for_several_classes():
    both = [[[1, 1, 0, 0]]], [[2.0, 2.0, 0.0]]
    result = instances(*both, threshold=0.4, return_binary_maps=True)
    assert sorted(labels_and_areas(result)) == [(0, 2), (1, 2)]
    assert len(instances(*both, threshold=0.4, top_k=1)["segments_info"]) == 1


def test_the_score_is_the_class_score_times_the_mean_probability_of_the_mask():
    mask_logits, class_logits = torch.randn(1, 6, 7) * 2, torch.tensor([[1.0, 3.0, 0.5]])
    result = segmented(mask_logits, class_logits, View((6, 7), (6, 7)), (6, 7), threshold=0.0, top_k=1)
    probability = mask_logits[0].sigmoid()
    expected = class_logits.softmax(1)[0, 1] * probability[mask_logits[0] > 0].mean()
    assert result["segments_info"][0]["score"] == pytest.approx(expected.item(), abs=1e-6)


def test_the_threshold_is_for_the_final_score():
    mask_logits, class_logits = torch.full((1, 2, 2), 0.5), torch.tensor([[9.0, 0.0]])
    score = torch.tensor(0.5).sigmoid().item() * class_logits.softmax(1)[0, 0].item()
    view = View((2, 2), (2, 2))
    assert segmented(mask_logits, class_logits, view, (2, 2), threshold=score + 0.01)["segments_info"] == []
    assert len(segmented(mask_logits, class_logits, view, (2, 2), threshold=score - 0.01)["segments_info"]) == 1


def test_the_mask_threshold_moves_the_border():
    mask_logits = torch.tensor([[[2.0, 1.0, 0.1, -1.0]]])
    for mask_threshold, area in ((0.5, 3), (0.6, 2), (0.0, 4), (1.0, 0)):
        result = segmented(
            mask_logits, torch.tensor([[9.0, 0.0]]), VIEW, SIZE, threshold=0.0, mask_threshold=mask_threshold
        )
        assert result["segments_info"][0]["area"] == area


@pytest.mark.parametrize("form", [{}, {"return_binary_maps": True}, {"return_coco_annotation": True}])
def test_nothing_found_is_empty_in_every_form(form):
    result = instances([[[1, 1, 1, 1]]], [[0.0, 0.0, 9.0]], **form)
    assert result["segments_info"] == []
    segmentation = result["segmentation"]
    if not form:
        assert segmentation.tolist() == [[-1] * 4]
    elif "return_binary_maps" in form:
        assert segmentation.shape == (0, 1, 4) and segmentation.dtype == torch.bool
    else:
        assert segmentation == []


@pytest.mark.parametrize("output_size", [(50, 37), (9, 70)])
def test_bands_and_chunks_change_nothing(output_size, monkeypatch):
    masks, classes = torch.randn(20, 8, 8) * 4, torch.randn(20, 5) * 4
    view = View((32, 24), (32, 32))

    def all_forms():
        forms = ({}, {"return_binary_maps": True}, {"return_coco_annotation": True})
        return [segmented(masks, classes, view, output_size, threshold=0.2, **form) for form in forms]

    whole = all_forms()
    monkeypatch.setattr(upsampling_eomt, "BAND_NUMEL", {"cpu": 500, "other": 500})
    monkeypatch.setattr(instances_eomt, "MASKS_IN_MEMORY", 3)
    parts = all_forms()
    assert len(whole[0]["segments_info"]) > 5
    for one, other in zip(whole, parts):
        for info, same in zip(one["segments_info"], other["segments_info"], strict=True):
            assert info.pop("score") == pytest.approx(same.pop("score"), abs=1e-6)
            assert info == same
    assert torch.equal(whole[0]["segmentation"], parts[0]["segmentation"])
    assert torch.equal(whole[1]["segmentation"], parts[1]["segmentation"])
    assert whole[2]["segmentation"] == parts[2]["segmentation"]
    assert [info["area"] for info in parts[1]["segments_info"]] == parts[1]["segmentation"].sum((1, 2)).tolist()


def test_contradictory_arguments_are_errors():
    with pytest.raises(ValueError, match="exclude each other"):
        instances(*OVERLAPPING, return_binary_maps=True, return_coco_annotation=True)

import inspect
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from image_processing_eomt import (
    TASKS,
    geometry_eomt,
    post_processing_eomt,
    segment_instances,
    segment_panoptic,
    segment_semantic,
)
from image_processing_eomt.geometry_eomt import View, compute_view
from image_processing_eomt.post_processing_eomt import Occupancy, TaskMethod, bounding_box


PANOPTIC = {name: setting.default for name, setting in TASKS["panoptic"].settings.items()}
panoptic = partial(segment_panoptic, **PANOPTIC)
THING, STUFF, NOTHING = 0, 1, 2  # the classes of the hand-made cases; the last one is "no object"


def confident_panoptic(masks, labels, **kwargs):
    """Segments of `(n, h, w)` 0/1 masks with confident classes, at the masks' own size."""
    masks = torch.tensor(masks, dtype=torch.float32)
    size = tuple(masks.shape[-2:])
    kwargs = {"stuff_classes": [STUFF], **kwargs}
    class_logits = torch.nn.functional.one_hot(torch.tensor(labels), 3).float() * 12
    return panoptic((masks - 0.5) * 20, class_logits, View(size, size), size, **kwargs)


def test_things_stay_apart_and_stuff_is_merged():
    result = confident_panoptic(
        [[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 1]]], [STUFF, THING, STUFF, THING]
    )
    assert result["segmentation"].tolist() == [[0, 1, 0, 2]]
    assert [info["label_id"] for info in result["segments_info"]] == [STUFF, THING, THING]
    assert [info["area"] for info in result["segments_info"]] == [2, 1, 1]
    assert [info["was_fused"] for info in result["segments_info"]] == [True, False, False]
    assert [info["bbox"] for info in result["segments_info"]] == [[0, 0, 3, 1], [1, 0, 1, 1], [3, 0, 1, 1]]


def test_a_merged_segment_has_the_score_of_its_best_query():
    class_logits = torch.tensor([[0.0, 4.0, 0.0], [0.0, 6.0, 0.0]])
    masks = torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]])
    result = panoptic(masks, class_logits, View((1, 2), (1, 2)), (1, 2), stuff_classes=[1])
    assert result["segments_info"][0]["score"] == pytest.approx(class_logits[1].softmax(0)[1].item())


@pytest.mark.parametrize(("overlap_threshold", "num_segments"), [(0.5, 2), (0.51, 1)])
def test_a_query_that_keeps_too_little_of_its_mask_is_dropped(overlap_threshold, num_segments):
    # The second mask loses one of its two pixels to the first, whose logits are higher.
    masks = torch.tensor([[[9.0, 9.0, -9.0]], [[-9.0, 3.0, 3.0]]])
    result = panoptic(
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
    result = confident_panoptic(masks, [THING, THING, NOTHING, THING])
    assert result["segmentation"].tolist() == [[0, 0, -1, 1]]
    assert [info["id"] for info in result["segments_info"]] == [0, 1]


@pytest.mark.parametrize("labels", [[NOTHING, NOTHING], [THING, STUFF]])
def test_nothing_found_is_an_empty_segmentation(labels):
    result = confident_panoptic([[[0, 0]], [[0, 0]]], labels)
    assert result["segmentation"].tolist() == [[-1, -1]]
    assert result["segmentation"].dtype == torch.int32
    assert result["segments_info"] == []


def test_padding_is_cut_off_before_the_result_gets_its_size():
    masks = torch.full((1, 4, 4), -9.0)
    masks[:, :2, :] = 9.0  # exactly the upper half, and the image is the upper half
    result = panoptic(masks, torch.tensor([[9.0, 0.0]]), View((2, 4), (4, 4)), (10, 20), mask_threshold=0.5)
    assert result["segmentation"].shape == (10, 20)
    assert result["segments_info"][0]["area"] == 200


def test_areas_and_boxes_are_those_of_the_segmentation():
    result = panoptic(
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
    result = panoptic(
        torch.full((1, 4, 4), 9.0, dtype=torch.bfloat16),
        torch.tensor([[9.0, 0.0]], dtype=torch.bfloat16),
        View((16, 16), (16, 16)),
        (8, 8),
    )
    assert result["segments_info"][0]["area"] == 64


@pytest.mark.parametrize("label", [-1, 2])
def test_a_stuff_class_that_the_model_lacks_is_an_error(label):
    with pytest.raises(ValueError, match=f"Stuff class {label} is out of range"):
        confident_panoptic([[[1]]], [THING], stuff_classes=[label])


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives():
    masks, classes = torch.randn(20, 8, 8) * 4, torch.randn(20, 5) * 4
    sizes, settings = (View((32, 24), (32, 32)), (50, 37)), {"threshold": 0.3, "stuff_classes": [2]}
    cpu = panoptic(masks, classes, *sizes, **settings)
    cuda = panoptic(masks.cuda(), classes.cuda(), *sizes, **settings)
    assert cuda["segmentation"].is_cuda
    # Interpolation rounds differently on the two: single pixels may change sides.
    assert (cuda["segmentation"].cpu() != cpu["segmentation"]).float().mean() < 1e-2
    assert [info["label_id"] for info in cuda["segments_info"]] == [info["label_id"] for info in cpu["segments_info"]]


INSTANCE = {name: setting.default for name, setting in TASKS["instance"].settings.items()}
scored_instances = partial(segment_instances, **INSTANCE)
SIZE = (1, 4)
VIEW = View(SIZE, SIZE)


def instances(masks, class_logits, **kwargs):
    """Instances of `(n, 1, 4)` masks of 0 and 1 at the masks' own size."""
    logits = (torch.tensor(masks, dtype=torch.float32) - 0.5) * 20
    return scored_instances(logits, torch.tensor(class_logits), VIEW, SIZE, **kwargs)


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
    result = scored_instances(mask_logits, class_logits, View((6, 7), (6, 7)), (6, 7), threshold=0.0, top_k=1)
    probability = mask_logits[0].sigmoid()
    expected = class_logits.softmax(1)[0, 1] * probability[mask_logits[0] > 0].mean()
    assert result["segments_info"][0]["score"] == pytest.approx(expected.item(), abs=1e-6)


def test_the_threshold_is_for_the_final_score():
    mask_logits, class_logits = torch.full((1, 2, 2), 0.5), torch.tensor([[9.0, 0.0]])
    score = torch.tensor(0.5).sigmoid().item() * class_logits.softmax(1)[0, 0].item()
    view = View((2, 2), (2, 2))
    assert scored_instances(mask_logits, class_logits, view, (2, 2), threshold=score + 0.01)["segments_info"] == []
    assert len(scored_instances(mask_logits, class_logits, view, (2, 2), threshold=score - 0.01)["segments_info"]) == 1


def test_the_mask_threshold_moves_the_border():
    mask_logits = torch.tensor([[[2.0, 1.0, 0.1, -1.0]]])
    for mask_threshold, area in ((0.5, 3), (0.6, 2), (0.0, 4), (1.0, 0)):
        result = scored_instances(
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
        return [scored_instances(masks, classes, view, output_size, threshold=0.2, **form) for form in forms]

    whole = all_forms()
    monkeypatch.setattr(geometry_eomt, "BAND_NUMEL", {"cpu": 500, "other": 500})
    monkeypatch.setattr(post_processing_eomt, "MASKS_IN_MEMORY", 3)
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


RESIZED = {"do_resize": True, "do_pad": True}


@pytest.mark.parametrize("small_bands", [False, True])
@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("output_size", [(60, 150), (170, 40), (64, 64), (9, 31), (5, 80)])
def test_bands_give_what_the_definition_gives(output_size, is_split, small_bands, monkeypatch):
    if small_bands:
        monkeypatch.setattr(geometry_eomt, "BAND_NUMEL", {"cpu": 3000, "other": 3000})
    view = compute_view(output_size, (32, 32), **RESIZED, do_split_image=is_split)
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


def test_half_precision_logits_give_classes_too():
    view = View((16, 16), (16, 16))
    logits = (torch.randn(1, 3, 4, 4).bfloat16(), torch.randn(1, 3, 3).bfloat16())
    result = segment_semantic(*logits, view, (16, 16), return_segmentation_scores=True)
    assert result.segmentation.shape == (16, 16) and result.segmentation_scores.dtype == torch.float32


LARGE_IMAGE = """
import resource, sys, torch
from pathlib import Path
from types import SimpleNamespace
from image_processing_eomt import EomtImageProcessorPil
processor = EomtImageProcessorPil(size=640, task="semantic")
outputs = SimpleNamespace(
    masks_queries_logits=torch.randn(3, 200, 160, 160), class_queries_logits=torch.randn(3, 200, 151)
)
assert processor.post_process(outputs, [(2943, 1435)])[0].shape == (2943, 1435)
status = Path("/proc/self/status")
if status.is_file():  # on Linux a new process begins with what its parent had in ru_maxrss
    print(int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.slow
def test_a_large_image_with_many_classes_takes_less_than_one_and_a_half_gigabytes():
    result = subprocess.run([sys.executable, "-c", LARGE_IMAGE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 1.5e9  # of the whole process; the scores of all classes alone would be 2.5e9


def test_areas_and_boxes_of_a_map_in_bands():
    regions = torch.randint(0, 4, (13, 17))
    regions[regions == 2] = 0  # a region without a pixel
    occupancy = Occupancy(4, (13, 17), regions.device)
    for rows in (slice(0, 5), slice(5, 6), slice(6, 13)):
        occupancy.add_map(rows, regions[rows])
    compare(occupancy, [regions == region for region in range(4)])


def test_areas_and_boxes_of_masks_that_overlap_in_bands():
    masks = torch.rand(5, 13, 17) > 0.97
    masks[3] = False
    occupancy = Occupancy(5, (13, 17), masks.device)
    for rows in (slice(0, 5), slice(5, 13)):
        occupancy.add_masks(rows, masks[:, rows])
    compare(occupancy, masks)


def compare(occupancy, masks):
    areas, *edges = occupancy.areas_and_edges()
    for mask, area, box in zip(masks, areas.tolist(), torch.stack(edges, dim=1).tolist(), strict=True):
        y, x = torch.nonzero(mask, as_tuple=True)
        assert area == len(y)
        if area:
            left, top = x.min().item(), y.min().item()
            assert bounding_box([box]) == [left, top, x.max().item() - left + 1, y.max().item() - top + 1]
        else:
            assert bounding_box([box]) == [0, 0, 0, 0]


def test_a_box_around_several_regions():
    assert bounding_box([[2, 3, 4, 5], [0, 4, 1, 9]]) == [0, 3, 5, 7]


class Processor:
    threshold, mask_threshold, top_k = 0.8, 0.5, 100

    def __init__(self, task):
        self.task = task

    post_process_instance_segmentation = TaskMethod("instance", lambda *image, **settings: settings)

    size, do_resize, do_pad, do_split_image = 64, True, True, False


OUTPUTS = SimpleNamespace(masks_queries_logits=torch.zeros(1, 5, 8, 8), class_queries_logits=torch.zeros(1, 5, 3))


def test_a_method_gets_all_settings_of_its_task():
    stored = {"threshold": 0.8, "mask_threshold": 0.5, "top_k": 100}
    forms = {"return_binary_maps": False, "return_coco_annotation": False}
    processor = Processor("instance")
    method = processor.post_process_instance_segmentation
    assert method(OUTPUTS) == [{**stored, **forms}]
    given = {"threshold": 0.25, "top_k": 3, "return_binary_maps": True}
    assert method(OUTPUTS, [(5, 6)], 0.25, size=32, top_k=3, return_binary_maps=True) == [{**stored, **forms, **given}]
    assert list(inspect.signature(method).parameters) == [
        *("outputs", "target_sizes", "threshold", "mask_threshold", "top_k", "size"),
        *("return_binary_maps", "return_coco_annotation", "overlap_mask_area_threshold"),
    ]
    processor.threshold, processor.top_k = None, None
    with pytest.raises(ValueError, match="The processor's threshold is None: set it to a number from 0 to 1"):
        method(OUTPUTS)
    assert method(OUTPUTS, threshold=0.3)[0]["top_k"] is None  # a value of its own


def test_arguments_that_are_unknown_or_wrong_are_errors():
    method = Processor("instance").post_process_instance_segmentation
    with pytest.raises(ValueError, match="segmentation has no setting 'topk'; the closest is 'top_k'"):
        method(OUTPUTS, topk=3)
    with pytest.raises(ValueError, match="top_k must be a whole number, at least 1, got 0"):
        method(OUTPUTS, top_k=0)


def test_a_method_exists_unless_the_processors_task_comes_earlier():
    assert hasattr(Processor("panoptic"), "post_process_instance_segmentation")
    assert not hasattr(Processor("semantic"), "post_process_instance_segmentation")
    with pytest.raises(
        AttributeError, match="segmentation is not for task='semantic': set the processor's task to 'p"
    ):
        Processor("semantic").post_process_instance_segmentation(3)


def test_the_class_has_the_method_with_its_documentation():
    method = Processor.post_process_instance_segmentation
    assert method(Processor("semantic"), OUTPUTS, threshold=0.3)[0]["threshold"] == 0.3
    assert "top_k" in method.__doc__ and method.__name__ == "post_process_instance_segmentation"

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from image_processing_eomt.settings_eomt import (
    TASKS,
    check_finite,
    check_names,
    check_outputs,
    check_settings,
    check_spelling,
    check_target_sizes,
    check_task_settings,
)


@pytest.mark.parametrize(
    ("name", "value", "checked"),
    [
        ("threshold", np.float32(0.5), 0.5),
        ("threshold", 1, 1.0),
        ("do_pad", np.bool_(True), True),
        ("top_k", np.int64(7), 7),
        ("stuff_classes", torch.tensor([1, 2]), [1, 2]),
        ("stuff_classes", range(3), [0, 1, 2]),
        ("image_std", [1, 0.5, 0.25], (1.0, 0.5, 0.25)),
        ("image_mean", 0, 0.0),
        ("size", np.int64(32), 32),
        ("size", {"height": 32, "width": 48, "longest_edge": None}, {"height": 32, "width": 48}),
        ("resample", 3, 3),
        ("threshold", None, None),
        ("processor_class", "anything", "anything"),
    ],
)
def test_settings_become_plain_values(name, value, checked):
    result = check_settings({name: value})[name]
    assert result == checked and type(result) is type(checked)


def test_filters_of_torchvision_become_those_of_pil():
    from torchvision.transforms.v2 import InterpolationMode

    assert check_settings({"resample": InterpolationMode.BICUBIC}) == {"resample": 3}


WRONG = {
    "do_resize": [1, "True", [], 0.0],
    "threshold": [-0.1, 1.1, "0.5", float("nan"), True, [0.5]],
    "image_std": [0, [0.2, 0.0, 0.2], [-1.0], float("nan"), [], "std", {"a": 1}],
    "image_mean": [float("inf"), ["a"], [[0.5]], "0.5"],
    "rescale_factor": [0, -1, float("inf"), "1/255", 5e-324],
    "ignore_index": [0.5, "255", True, []],
    "stuff_classes": ["all", [-1], [0.5], [True], 3, {1: 2}],
    "top_k": [0, -1, 2.5, "10", True],
    "size": [0, -32, "640", 3.5, True, (32,), [32, 0], {"height": 32}, {"height": 32, "width": "a"}, 10**9, object()],
    "resample": [6, -1, "bilinear", 2.0, True],
    "task": ["pose", 5, ["semantic"]],
    "device": ["gpu", 1.5],
    "return_tensors": ["tf2", 1],
    "input_data_format": ["last", 1],
    "data_format": ["channels_last"],
    "do_center_crop": [True, 1],
    "timeout": [0, -1, "1"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_values_that_a_setting_does_not_take_are_errors_that_name_it(name, value):
    with pytest.raises(ValueError, match=f"^{name}"):
        check_settings({name: value})


def test_a_long_wrong_value_is_cut():
    with pytest.raises(ValueError) as error:
        check_settings({"threshold": "x" * 10_000})
    assert len(str(error.value)) < 300


def test_an_unknown_setting_is_an_error_that_names_the_closest():
    check_names(["threshold"], ["threshold", "top_k"], "It")
    with pytest.raises(ValueError, match="It has no setting 'treshold'; the closest is 'threshold'"):
        check_names(["treshold"], ["threshold", "top_k"], "It")


def test_only_what_is_nearly_a_setting_is_misspelt():
    check_spelling(["attn_implementation", "dtype", "threshold"], ["threshold", "top_k"], "It")
    with pytest.raises(ValueError, match="'thresholds'; the closest is 'threshold'"):
        check_spelling(["thresholds"], ["threshold", "top_k"], "It")


def test_a_setting_of_another_task_is_an_error_that_names_the_task():
    check_task_settings(["threshold", "top_k", "timeout"], TASKS["instance"])
    with pytest.raises(ValueError, match="top_k is a setting of instance segmentation, and this is panoptic"):
        check_task_settings(["threshold", "top_k"], TASKS["panoptic"])


def test_a_task_that_does_not_exist_is_an_error_that_lists_those_that_do():
    assert check_settings({"task": "semantic"}) == {"task": "semantic"}
    with pytest.raises(ValueError, match="task must be one of 'panoptic', 'instance', 'semantic', got 'pose'"):
        check_settings({"task": "pose"})


MASKS, CLASSES = torch.zeros(2, 5, 8, 8), torch.zeros(2, 5, 4)


def outputs(masks=MASKS, classes=CLASSES):
    return SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes)


def test_logits_and_those_of_windows_in_a_list_are_outputs():
    check_outputs(outputs())
    check_outputs(outputs(list(MASKS)))
    check_outputs(outputs(MASKS.bfloat16(), CLASSES.half()))
    check_outputs(outputs(MASKS[:0], CLASSES[:0]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (5, "int has no masks_queries_logits"),
        (SimpleNamespace(masks_queries_logits=MASKS), "has no class_queries_logits"),
        (outputs(classes=CLASSES[0]), r"class_queries_logits must be .* got \(5, 4\) of torch.float32"),
        (outputs(classes=CLASSES.long()), "torch.int64"),
        (outputs(classes=CLASSES[..., :1]), "num_classes"),
        (outputs(classes=None), "NoneType"),
        (outputs(MASKS[:1]), r"masks_queries_logits must be .* \(2, 5\), got \(1, 5, 8, 8\)"),
        (outputs(MASKS[:, :4]), r"got \(2, 4, 8, 8\)"),
        (outputs(MASKS[..., :0]), r"got \(2, 5, 8, 0\)"),
        (outputs(MASKS[0]), r"got \(5, 8, 8\)"),
        (outputs(torch.tensor(1.0)), "masks_queries_logits must be"),
        (outputs(MASKS.bool()), "torch.bool"),
        (outputs([1, 2]), "got list"),
    ],
)
def test_other_outputs_are_errors_that_say_what_was_given(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_outputs(wrong)


@pytest.mark.parametrize("sizes", [[(3, 4)], [[3, 4]], torch.tensor([[3, 4]]), [torch.tensor([3, 4])], [(3.0, 4.0)]])
def test_sizes_are_pairs_of_whole_numbers(sizes):
    assert check_target_sizes(sizes) == [(3, 4)]


@pytest.mark.parametrize(
    "sizes",
    [
        5,
        [5],
        ["ab"],
        "ab",
        [None],
        [(3,)],
        [(0, 4)],
        [(3, -4)],
        [(3.5, 4)],
        [(float("nan"), 4)],
        [(True, 4)],
        [("3", "4")],
        [(10**9, 10**9)],
        [(3, 4), None],
        torch.tensor([3, 4]),
        {"a": 1},
    ],
)
def test_other_sizes_are_errors(sizes):
    with pytest.raises(ValueError, match=r"arget.sizes? .*must be"):
        check_target_sizes(sizes)


def test_predictions_that_are_no_numbers_are_errors():
    scores, masks = torch.rand(5), torch.randn(3, 4, 4)
    check_finite(scores, masks)
    check_finite(scores, masks[:0])
    check_finite(scores, torch.full((200, 160, 160), 60_000.0).half())  # the sum of which is beyond half precision
    for value in (float("nan"), float("inf"), -float("inf")):
        for broken in ((scores.clone(), masks), (scores, masks.clone())):
            broken[0 if broken[1] is masks else 1].view(-1)[2] = value
            with pytest.raises(ValueError, match="predictions are not finite"):
                check_finite(*broken)

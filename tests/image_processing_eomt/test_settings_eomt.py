import inspect

import numpy as np
import pytest
import torch

from image_processing_eomt.settings_eomt import (
    TASKS,
    check_names,
    check_settings,
    check_spelling,
    check_task_settings,
    post_processing,
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


class Processor:
    threshold, mask_threshold, top_k = 0.8, 0.5, 100

    def __init__(self, task):
        self.task = task

    @post_processing("instance")
    def post_process_instance_segmentation(self, outputs, target_sizes=None, size=None, **settings):
        """Its documentation."""
        return outputs, target_sizes, size, settings


def test_a_method_gets_all_settings_of_its_task():
    stored = {"threshold": 0.8, "mask_threshold": 0.5, "top_k": 100}
    forms = {"return_binary_maps": False, "return_coco_annotation": False}
    method = Processor("instance").post_process_instance_segmentation
    assert method(5) == (5, None, None, {**stored, **forms})
    assert method(5, 6, 0.25, size=7, top_k=3, return_binary_maps=True) == (
        5,
        6,
        7,
        {**stored, **forms, "threshold": 0.25, "top_k": 3, "return_binary_maps": True},
    )
    assert list(inspect.signature(method).parameters) == [
        *("outputs", "target_sizes", "threshold", "mask_threshold", "top_k", "size"),
        *("return_binary_maps", "return_coco_annotation"),
    ]
    processor = Processor("instance")
    processor.threshold, processor.top_k = None, None
    with pytest.raises(ValueError, match="The processor's threshold is None: set it to a number from 0 to 1"):
        processor.post_process_instance_segmentation(5)
    assert processor.post_process_instance_segmentation(5, threshold=0.3)[3]["top_k"] is None  # a value of its own


def test_arguments_that_are_unknown_or_wrong_are_errors():
    method = Processor("instance").post_process_instance_segmentation
    with pytest.raises(
        ValueError, match="post_process_instance_segmentation has no setting 'topk'; the closest is 't"
    ):
        method(5, topk=3)
    with pytest.raises(ValueError, match="top_k must be a whole number, at least 1, got 0"):
        method(5, top_k=0)


def test_a_method_exists_unless_the_processors_task_comes_earlier():
    assert hasattr(Processor("panoptic"), "post_process_instance_segmentation")
    assert not hasattr(Processor("semantic"), "post_process_instance_segmentation")
    with pytest.raises(
        AttributeError, match="segmentation is not for task='semantic': set the processor's task to 'p"
    ):
        Processor("semantic").post_process_instance_segmentation(3)


def test_the_class_has_the_method_with_its_documentation():
    method = Processor.post_process_instance_segmentation
    assert method(Processor("semantic"), 3)[0] == 3
    assert method.__doc__ == "Its documentation."


def test_a_task_that_does_not_exist_is_an_error_that_lists_those_that_do():
    assert check_settings({"task": "semantic"}) == {"task": "semantic"}
    with pytest.raises(ValueError, match="task must be one of 'panoptic', 'instance', 'semantic', got 'pose'"):
        check_settings({"task": "pose"})

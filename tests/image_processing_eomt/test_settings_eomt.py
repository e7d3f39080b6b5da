import numpy as np
import pytest
import torch

from image_processing_eomt.settings_eomt import check_names, check_spelling, checked_arguments, checked_settings


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
    result = checked_settings({name: value})[name]
    assert result == checked and type(result) is type(checked)


def test_filters_of_torchvision_become_those_of_pil():
    from torchvision.transforms.v2 import InterpolationMode

    assert checked_settings({"resample": InterpolationMode.BICUBIC}) == {"resample": 3}


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
        checked_settings({name: value})


def test_a_long_wrong_value_is_cut():
    with pytest.raises(ValueError) as error:
        checked_settings({"threshold": "x" * 10_000})
    assert len(str(error.value)) < 300


def test_an_unknown_setting_is_an_error_that_names_the_closest():
    check_names(["threshold"], ["threshold", "top_k"], "It")
    with pytest.raises(ValueError, match="It has no setting 'treshold'; the closest is 'threshold'"):
        check_names(["treshold"], ["threshold", "top_k"], "It")


def test_only_what_is_nearly_a_setting_is_misspelt():
    check_spelling(["attn_implementation", "dtype", "threshold"], ["threshold", "top_k"], "It")
    with pytest.raises(ValueError, match="'thresholds'; the closest is 'threshold'"):
        check_spelling(["thresholds"], ["threshold", "top_k"], "It")


def test_an_unknown_argument_is_an_error_that_names_the_closest():
    class Adder:
        @checked_arguments
        def add(self, first, second=1):
            """Adds."""
            return first + second

    assert Adder().add(1, second=2) == 3 and Adder.add.__doc__ == "Adds."
    with pytest.raises(ValueError, match="add has no setting 'secnd'; the closest is 'second'"):
        Adder().add(1, secnd=2)

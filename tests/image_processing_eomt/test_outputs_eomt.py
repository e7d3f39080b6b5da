from types import SimpleNamespace

import pytest
import torch

from image_processing_eomt.outputs_eomt import check_finite, check_outputs, checked_sizes


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


@pytest.mark.parametrize("sizes", [[(3, 4)], [[3, 4]], torch.tensor([[3, 4]]), [torch.tensor([3, 4])], [(3.0, 4.0)]])
def test_sizes_are_pairs_of_whole_numbers(sizes):
    assert checked_sizes(sizes) == [(3, 4)]


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
        checked_sizes(sizes)

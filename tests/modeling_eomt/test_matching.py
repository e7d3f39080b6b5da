"""Queries are matched to targets as a search through every assignment would (small cases; see also the loss)."""

import importlib.util
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from modeling_eomt import loss_eomt
from modeling_eomt.loss_eomt import match_queries, pairwise_cross_entropy, pairwise_dice, sample_points


WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}
NUM_POINTS = 4096


def test_samples_are_bilinear_and_zero_outside():
    ramp = torch.arange(4.0).view(1, 1, 1, 4)  # pixel centres at 1/8, 3/8, 5/8 and 7/8 of the width
    points = torch.tensor([[[3 / 8, 0.5], [0.5, 0.5], [2.0, 0.5]]])
    torch.testing.assert_close(sample_points(ramp, points), torch.tensor([[[1.0, 1.5, 0.0]]]))


def test_maps_that_share_their_points_are_sampled_like_each_alone():
    maps, points = torch.randn(3, 2, 5, 7), torch.rand(1, 11, 2)
    assert sample_points(maps, points).equal(sample_points(maps, points.expand(3, -1, -1)))


def test_pairwise_costs_are_those_of_each_pair():
    logits, targets = torch.randn(3, 50), torch.rand(2, 50).round()
    for i, logit in enumerate(logits):
        for j, target in enumerate(targets):
            cross_entropy = F.binary_cross_entropy_with_logits(logit, target)
            torch.testing.assert_close(pairwise_cross_entropy(logits, targets)[i, j], cross_entropy)
            probability = logit.sigmoid()
            dice = 1 - (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)
            torch.testing.assert_close(pairwise_dice(logits, targets)[i, j], dice)


@pytest.mark.parametrize("num_targets", [0, 2, 4, 6], ids=["none", "fewer", "as many", "more targets than queries"])
def test_the_assignment_is_the_cheapest_of_all(num_targets):
    """Constant masks cost the same at every point, so the costs are known exactly."""
    num_queries, num_labels = 4, 3
    mask_logits = torch.randn(num_queries, 1, 1).expand(-1, 8, 8)
    class_logits = torch.randn(num_queries, num_labels + 1)
    masks = (torch.arange(num_targets) % 2).float()[:, None, None].expand(-1, 8, 8)
    labels = torch.randint(num_labels, (num_targets,))
    points = torch.rand(1, NUM_POINTS, 2)
    found = match_queries(mask_logits[None, None], class_logits[None, None], masks, [labels], points, **WEIGHTS)

    logits, targets = mask_logits[:, :1, 0].expand(-1, NUM_POINTS), masks[:, :1, 0].expand(-1, NUM_POINTS)
    cost = 5 * pairwise_cross_entropy(logits, targets) + 5 * pairwise_dice(logits, targets)
    cost -= 2 * class_logits.softmax(-1)[:, labels]

    matched = [(query, target) for target, query in enumerate(found[0].tolist()) if query >= 0]
    assert len(matched) == len({query for query, _ in matched}) == min(num_queries, num_targets)
    smaller, larger = sorted((num_queries, num_targets))
    table = cost if num_queries <= num_targets else cost.T
    cheapest = min(
        sum(table[i, j].item() for i, j in enumerate(order)) for order in permutations(range(larger), smaller)
    )
    # Samples at the border mix with the zeros outside, for queries and targets alike.
    assert sum(cost[pair].item() for pair in matched) == pytest.approx(cheapest, abs=1e-4)


def test_images_and_predictions_do_not_mix():
    mask_logits, class_logits = torch.randn(2, 2, 5, 1, 1).expand(-1, -1, -1, 8, 8), torch.randn(2, 2, 5, 4)
    masks = (torch.arange(5) % 2).float()[:, None, None].expand(-1, 8, 8)
    labels = [torch.tensor([0, 2]), torch.tensor([1, 1, 0])]
    points = torch.rand(2, NUM_POINTS, 2)
    together = match_queries(mask_logits, class_logits, masks, labels, points, **WEIGHTS)
    for prediction in range(2):
        for image, part in enumerate((slice(0, 2), slice(2, 5))):
            alone = match_queries(
                mask_logits[prediction, image][None, None],
                class_logits[prediction, image][None, None],
                masks[part],
                [labels[image]],
                points[image, None],
                **WEIGHTS,
            )
            assert together[prediction, part].equal(alone[0])


def test_a_copy_of_the_file_does_not_take_this_ones_operator_away():
    # As when a checkpoint is loaded with its own code; torch destroys an operator that is registered a second time.
    spec = importlib.util.spec_from_file_location("modeling_eomt.copy_of_loss_eomt", loss_eomt.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert repr(copy.match_queries) != repr(match_queries)
    inputs = torch.randn(1, 1, 3, 4, 4), torch.randn(1, 1, 3, 2), torch.ones(1, 4, 4), [torch.tensor([0])]
    for operator in (match_queries, copy.match_queries):
        assert operator(*inputs, torch.rand(1, NUM_POINTS, 2), **WEIGHTS).shape == (1, 1)

"""Bipartite matching of queries and targets: each target gets the query that fits it best.

Reference: "Masked-attention Mask Transformer for Universal Image Segmentation", https://arxiv.org/abs/2112.01527,
sections 3.3 and 4.1: the costs are the loss terms, masks are compared at random points.
"""

import re
from typing import Any, Sequence  # noqa: UP035 - the one that torch 2.6 takes in a custom operator

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .random_eomt import MATCHING_POINTS, uniform


class NonFinitePredictionsError(FloatingPointError):
    """A prediction with nan or inf in it.

    Args:
        images: indices, within the batch, of the images whose predictions are not finite.
    """

    def __init__(self, images: list[int]):
        super().__init__(images)
        self.images = images

    def __str__(self) -> str:
        return (
            f"The model's predictions for {'image' if len(self.images) == 1 else 'images'} "
            f"{', '.join(map(str, self.images))} of the batch (counted from 0) are not finite (nan or inf), so they "
            "cannot be matched to the targets. A lower learning rate, gradient clipping or bf16 instead of fp16 "
            "usually helps."
        )


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of maps at points; outside of a map there is 0.

    Args:
        maps: `(batch, channels, height, width)` float.
        points: `(batch, num_points, 2)`, x and y as fractions of width and height; `(1, num_points, 2)` if all maps
            are sampled at the same points.

    Returns:
        `(batch, channels, num_points)`.
    """
    grid = points[:, None].mul(2.0).sub_(1.0)  # (batch, 1, num_points, 2)
    grid = grid.expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]


# The assignment runs on the CPU and in scipy, which a compiler cannot trace: to it all of this is one operator. Every
# checkpoint loaded with its own code has a copy of this file; PyTorch would destroy an operator that another copy
# registers again, so each has its own name.
@torch.library.custom_op("eomt::match_queries_" + re.sub(r"\W", "_", __name__), mutates_args=())
@torch.no_grad()
def match_queries(
    mask_logits: Tensor,
    class_logits: Tensor,
    masks: Tensor,
    class_labels: Sequence[Tensor],
    image_seeds: Tensor,
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
    num_points: int,
) -> Tensor:
    """
    Assigns a query to each target, one query to one target at most, for several predictions of the same images.

    Args:
        mask_logits: `(predictions, batch, num_queries, mask_height, mask_width)` float32.
        class_logits: `(predictions, batch, num_queries, num_labels + 1)` float32.
        masks: the targets of all images in a row, `(all_targets, height, width)` float32.
        class_labels: per image `(num_targets,)` int64.
        image_seeds: `(batch,)` int64, from which the points of each image follow.
        class_weight, mask_weight, dice_weight: weights of the three costs.
        num_points: number of random points at which the masks of an image are compared.

    Returns:
        `(predictions, all_targets)` int64: the query of each target, -1 for a target that got none because its image
        has more targets than there are queries.

    Raises:
        ValueError: a class that the model does not have.
        NonFinitePredictionsError: predictions that are not finite, of images with or without targets.
    """
    num_predictions, _, num_queries = mask_logits.shape[:3]
    num_labels = class_logits.shape[-1] - 1
    device = mask_logits.device
    counts = [len(labels) for labels in class_labels]
    costs = []
    image_points = uniform(image_seeds, MATCHING_POINTS, (num_points, 2)).split(1)
    for image, (image_masks, labels, points) in enumerate(
        zip(masks.split(counts), class_labels, image_points, strict=True)
    ):
        # (predictions * num_queries, num_points) and (num_targets, num_points)
        logits = sample_points(mask_logits[:, image].flatten(0, 1)[:, None], points)[:, 0]
        targets = sample_points(image_masks[:, None], points)[:, 0]
        probabilities = class_logits[:, image].flatten(0, 1).softmax(-1)
        cost = (
            mask_weight * pairwise_cross_entropy(logits, targets)
            + dice_weight * pairwise_dice(logits, targets)
            - class_weight * probabilities[:, labels.to(device).clamp(0, num_labels - 1)]
        )
        costs.append(cost.flatten())
    all_labels = torch.cat([labels.to(device) for labels in class_labels])
    is_label = (all_labels >= 0) & (all_labels < num_labels)
    are_finite = _are_finite(mask_logits) & _are_finite(class_logits)
    # The one transfer of a step: every matching cost, whether the labels are valid and the predictions finite.
    parts = [*costs, is_label.float(), are_finite.float()]
    *image_costs, label_is_valid, image_is_finite = torch.cat(parts).cpu().split([len(part) for part in parts])
    _check_labels(label_is_valid.bool(), counts, num_labels)
    # Logits that are merely huge can have costs that are not finite.
    images = [
        image
        for image, (cost, is_finite) in enumerate(zip(image_costs, image_is_finite.tolist(), strict=True))
        if not (is_finite and cost.isfinite().all())
    ]
    if images:
        raise NonFinitePredictionsError(images)

    query_of_target = torch.full((num_predictions, len(all_labels)), -1, dtype=torch.int64)
    for cost, assignment in zip(image_costs, query_of_target.split(counts, dim=1), strict=True):
        per_prediction = cost.view(num_predictions, num_queries, assignment.shape[1]).numpy()
        for prediction, prediction_cost in enumerate(per_prediction):
            queries, targets = (torch.from_numpy(indices) for indices in linear_sum_assignment(prediction_cost))
            assignment[prediction, targets] = queries
    return query_of_target.to(device, non_blocking=True)


@match_queries.register_fake
def _(mask_logits: Tensor, class_logits: Tensor, masks: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return mask_logits.new_empty((mask_logits.shape[0], masks.shape[0]), dtype=torch.int64)


def _are_finite(logits: Tensor) -> Tensor:
    """Whether all logits `(predictions, batch, ...)` of an image are finite, `(batch,)` bool."""
    others = [dim for dim in range(logits.ndim) if dim != 1]
    # The extremes are nan where anything is, and need no temporary of the size of the logits.
    return logits.amax(others).isfinite() & logits.amin(others).isfinite()


def _check_labels(is_valid: Tensor, counts: list[int], num_labels: int) -> None:
    """Names the first target, of those of all images in a row, whose class the model does not have."""
    for image, valid in enumerate(is_valid.split(counts)):
        if not valid.all():
            target = int((~valid).nonzero()[0])
            raise ValueError(
                f"class_labels[{image}][{target}] is out of range: the model has {num_labels} classes, "
                f"0 to {num_labels - 1}."
            )


def pairwise_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross entropy of every mask `(num_masks, points)` with every target `(num_targets, points)`."""
    # softplus(x) - x * t is the cross entropy of the logit x, so the sum over points is one matrix product.
    return (F.softplus(logits).sum(1)[:, None] - logits @ targets.T) / logits.shape[1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of every mask `(num_masks, points)` with every target `(num_targets, points)`."""
    probabilities = logits.sigmoid()
    total = probabilities.sum(1)[:, None] + targets.sum(1)[None, :]
    return 1.0 - (2.0 * (probabilities @ targets.T) + 1.0) / (total + 1.0)

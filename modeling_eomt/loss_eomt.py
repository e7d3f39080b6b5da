"""The set loss of EoMT: queries are matched to targets, then classification and mask losses compare them.

Matching and loss of all predictions of a step (one per query block and the last one) are computed in one go, with a
single transfer from the device: the matching costs. All predictions and masks of an image share its random points.

Reference: "Masked-attention Mask Transformer for Universal Image Segmentation", https://arxiv.org/abs/2112.01527,
sections 3.3 and 4.1, whose loss EoMT uses unchanged; the points are PointRend's, https://arxiv.org/abs/1912.08193.
"""

import re
from typing import Any, NamedTuple, Sequence  # noqa: UP035 - the one that torch 2.6 takes in a custom operator

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .configuration_eomt import EomtConfig
from .random_eomt import CANDIDATE_POINTS, MATCHING_POINTS, UNIFORM_POINTS, StepRandomness


class NonFinitePredictionsError(FloatingPointError):
    """Predictions with nan or inf in them; `images` are the indices of their images within the batch."""

    def __init__(self, images: list[int]):
        super().__init__(images)
        self.images = images

    def __str__(self) -> str:
        names = f"{'image' if len(self.images) == 1 else 'images'} {', '.join(map(str, self.images))}"
        return (
            f"The model's predictions for {names} of the batch (counted from 0) are not finite (nan or inf), so they "
            "cannot be matched to the targets. A lower learning rate, gradient clipping or bf16 instead of fp16 "
            "usually helps."
        )


class Targets(NamedTuple):
    """Targets of all images in a row: `(all_targets, height, width)` float, and `(all_targets,)` int64 twice."""

    masks: Tensor
    labels: Tensor
    images: Tensor

    @classmethod
    def join(cls, mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor], device: torch.device) -> "Targets":
        """Joins what the images of a batch have, `(num_targets, height, width)` and `(num_targets,)` each."""
        images = [torch.full((len(labels),), image, device=device) for image, labels in enumerate(class_labels)]
        return cls(
            torch.cat([masks.to(device) for masks in mask_labels]).float(),
            torch.cat([labels.to(device) for labels in class_labels]).long(),
            torch.cat(images),
        )


class EomtLoss(nn.Module):
    """Matches queries to targets and computes the loss, in float32 whatever the model's dtype.

    Args:
        config: has the weights and numbers of points, and their defaults; changing it changes matching and loss alike.
    """

    empty_weight: Tensor

    def __init__(self, config: EomtConfig):
        super().__init__()
        self.config = config
        # The class weights of Transformers' own EoMT, for checkpoints; here the configuration is asked.
        self.register_buffer("empty_weight", self.initial_empty_weight())

    @classmethod
    def from_config(cls, config: EomtConfig) -> "EomtLoss":
        """Creates the loss of a configuration."""
        return cls(config)

    def initial_empty_weight(self) -> Tensor:
        """Weights of the classes in the cross entropy, `(num_labels + 1,)`."""
        return torch.tensor([1.0] * (self.config.num_labels or 0) + [self.config.no_object_weight])

    def _save_to_state_dict(self, *args: Any) -> None:
        with torch.no_grad():  # the configuration may have changed
            self.empty_weight.copy_(self.initial_empty_weight())
        super()._save_to_state_dict(*args)

    def forward(
        self,
        masks_queries_logits: Tensor,
        class_queries_logits: Tensor,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        random: StepRandomness | None = None,
    ) -> dict[str, Tensor]:
        """
        Computes the three unweighted terms of one prediction.

        Args:
            masks_queries_logits: `(batch, num_queries, mask_height, mask_width)`.
            class_queries_logits: `(batch, num_queries, num_labels + 1)`.
            mask_labels: per image `(num_targets, height, width)`, bool, uint8 or float.
            class_labels: per image `(num_targets,)` int64, each in `[0, num_labels)`.
            random: places the points at which masks are compared; by default a new one.

        Returns:
            Scalars `loss_mask`, `loss_dice` and `loss_cross_entropy`.

        Raises:
            ValueError: targets that contradict each other or the configuration.
            NonFinitePredictionsError: predictions that are not finite.
        """
        prediction = {"masks_queries_logits": masks_queries_logits, "class_queries_logits": class_queries_logits}
        return self.for_predictions([prediction], mask_labels, class_labels, random=random)[0]

    def weighted_sum(self, terms: Sequence[dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its unweighted terms by name: `_0`, `_1`... is appended for all predictions but the last."""
        weights = {
            "loss_mask": self.config.mask_weight,
            "loss_dice": self.config.dice_weight,
            "loss_cross_entropy": self.config.class_weight,
        }
        loss = sum(weights[name] * value for term in terms for name, value in term.items())
        loss_dict = dict(terms[-1])
        for index, term in enumerate(terms[:-1]):
            loss_dict.update({f"{name}_{index}": value for name, value in term.items()})
        return loss, loss_dict  # type: ignore[return-value]

    def for_predictions(
        self,
        predictions: Sequence[dict[str, Tensor]],
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        num_items: Tensor | None = None,
        random: StepRandomness | None = None,
    ) -> list[dict[str, Tensor]]:
        """
        Computes the terms of several predictions for the same targets; arguments and errors as in `forward`.

        Args:
            predictions: `masks_queries_logits` and `class_queries_logits` each.
            num_items: `(2,)`, what the terms are averaged over, see [`count_items`]. By default the items of this
                batch; in training the mean of the processes' batches, so that each query and each mask counts the
                same wherever it is. (In evaluation processes may have different numbers of batches, so they do not
                wait for each other.)
        """
        device = predictions[0]["masks_queries_logits"].device
        with torch.autocast(device.type, enabled=False):
            # (predictions, batch, num_queries, mask_height, mask_width) and (..., num_queries, num_labels + 1)
            mask_logits = torch.stack([prediction["masks_queries_logits"] for prediction in predictions]).float()
            class_logits = torch.stack([prediction["class_queries_logits"] for prediction in predictions]).float()
            batch_size, num_queries = mask_logits.shape[1:3]
            check_targets(mask_labels, class_labels, batch_size)
            random = StepRandomness(None, batch_size, device) if random is None else random.to(device)
            targets = Targets.join(mask_labels, class_labels, device)
            matched_queries = self.match(mask_logits, class_logits, targets.masks, class_labels, random)
            num_images, num_masks = self.count(num_items, class_labels, num_queries).to(device, torch.float32)
            num_unmatched = num_images * num_queries - num_masks
            total_class_weight = num_masks + num_unmatched * self.config.no_object_weight
            cross_entropy = self.classification_loss(class_logits, targets, matched_queries) / total_class_weight
            mask_loss, dice_loss = self.mask_losses(mask_logits, targets, matched_queries, random)
            num_masks = num_masks.clamp(min=1e-6)
            values = (mask_loss / num_masks).unbind(), (dice_loss / num_masks).unbind(), cross_entropy.unbind()
        names = "loss_mask", "loss_dice", "loss_cross_entropy"
        return [dict(zip(names, terms, strict=True)) for terms in zip(*values, strict=True)]

    def match(
        self,
        mask_logits: Tensor,
        class_logits: Tensor,
        masks: Tensor,
        class_labels: Sequence[Tensor],
        random: StepRandomness,
    ) -> Tensor:
        """[`match_queries`] with the weights and number of points of the configuration."""
        return match_queries(
            mask_logits,
            class_logits,
            masks,
            list(class_labels),
            random.points(MATCHING_POINTS, self.config.train_num_points),
            class_weight=self.config.class_weight,
            mask_weight=self.config.mask_weight,
            dice_weight=self.config.dice_weight,
        )

    def count(self, num_items: Tensor | None, class_labels: Sequence[Tensor], num_queries: int) -> Tensor:
        """The items that a loss is averaged over, `(2,)`: the given ones, or the default of `for_predictions`."""
        if num_items is None:
            num_items = count_items(class_labels, num_queries)
            if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
                num_items = num_items.to(self.empty_weight.device)
                torch.distributed.all_reduce(num_items)
                num_items = num_items / torch.distributed.get_world_size()
        if not isinstance(num_items, Tensor) or num_items.shape != (2,):
            raise ValueError(
                "num_items_in_batch must be a tensor of two numbers, images and masks (see count_items), got "
                f"{num_items}."
            )
        return num_items

    def classification_loss(self, class_logits: Tensor, targets: Targets, matched_queries: Tensor) -> Tensor:
        """
        Weighted sum of all queries' cross entropies, `(predictions,)`; unmatched queries should say "no object".

        Args:
            class_logits: `(predictions, batch, num_queries, num_labels + 1)`.
            targets: the targets of all images.
            matched_queries: `(predictions, all_targets)` int64, -1 where unmatched.
        """
        num_predictions, batch_size, num_queries, num_classes = class_logits.shape
        no_object = num_classes - 1
        # One more query takes what the unmatched targets write.
        expected = targets.labels.new_full((num_predictions, batch_size, num_queries + 1), no_object)
        prediction = torch.arange(num_predictions, device=class_logits.device)[:, None]
        labels = targets.labels.expand_as(matched_queries)
        expected[prediction, targets.images, matched_queries % (num_queries + 1)] = labels
        expected = expected[:, :, :num_queries].flatten(1)  # (predictions, batch * num_queries)
        losses = F.cross_entropy(class_logits.flatten(1, 2).transpose(1, 2), expected, reduction="none")
        weights = torch.where(expected == no_object, self.config.no_object_weight, 1.0)
        return (losses * weights).sum(1)

    def mask_losses(
        self, mask_logits: Tensor, targets: Targets, matched_queries: Tensor, random: StepRandomness
    ) -> tuple[Tensor, Tensor]:
        """
        Binary cross entropy and dice loss at sampled points, each `(predictions,)`, summed over the matched masks.

        Args:
            mask_logits: `(predictions, batch, num_queries, mask_height, mask_width)`.
            targets: the targets of all images.
            matched_queries: `(predictions, all_targets)` int64, -1 where unmatched.
            random: places the points.
        """
        num_predictions, num_targets = matched_queries.shape
        matched = (matched_queries >= 0).float()
        if num_targets == 0:  # keeps the graph, so that every process has gradients for every parameter
            nothing = mask_logits.flatten(1).sum(1) * 0.0
            return nothing, nothing
        prediction = torch.arange(num_predictions, device=mask_logits.device)[:, None]
        # (all_targets, predictions, mask_height, mask_width)
        logits = mask_logits[prediction, targets.images, matched_queries.clamp(min=0)].transpose(0, 1)
        points = self.uncertain_points(logits.detach(), targets.images, random)
        # All points of a target in one call, so that its full-size mask is never copied per prediction.
        expected = sample_points(targets.masks[:, None], points.flatten(1, 2)).view(num_targets, num_predictions, -1)
        sampled = sample_points(logits.flatten(0, 1)[:, None], points.flatten(0, 1))
        sampled = sampled.view(num_targets, num_predictions, -1)
        cross_entropy = F.binary_cross_entropy_with_logits(sampled, expected, reduction="none").mean(-1)
        probabilities = sampled.sigmoid()
        intersection = (probabilities * expected).sum(-1)
        dice = 1.0 - (2.0 * intersection + 1.0) / (probabilities.sum(-1) + expected.sum(-1) + 1.0)
        # (all_targets, predictions) -> (predictions,)
        return (cross_entropy * matched.T).sum(0), (dice * matched.T).sum(0)

    @torch.no_grad()
    def uncertain_points(self, logits: Tensor, images: Tensor, random: StepRandomness) -> Tensor:
        """
        Chooses the points at which masks are compared, most of them where the prediction is uncertain. All masks of an
        image choose among the same candidates, so a target's predictions are sampled as the channels of one map.

        Args:
            logits: `(all_targets, predictions, mask_height, mask_width)`.
            images: `(all_targets,)` int64, the image of each target.
            random: places the candidates.

        Returns:
            `(all_targets, predictions, num_points, 2)`.
        """
        num_points = self.config.train_num_points
        num_uncertain = int(self.config.importance_sample_ratio * num_points)
        num_drawn = int(self.config.oversample_ratio * num_points)
        # (all_targets, num_drawn, 2) and (all_targets, num_points - num_uncertain, 2)
        drawn = random.points(CANDIDATE_POINTS, num_drawn)[images]
        others = random.points(UNIFORM_POINTS, num_points - num_uncertain)[images]
        certainty = sample_points(logits, drawn).abs()  # (all_targets, predictions, num_drawn)
        uncertain = certainty.topk(num_uncertain, dim=2, largest=False, sorted=False).indices
        uncertain_points = drawn[:, None].take_along_dim(uncertain[..., None], dim=2)
        return torch.cat([uncertain_points, others[:, None].expand(-1, logits.shape[1], -1, -1)], dim=2)


def count_items(class_labels: Sequence[Tensor], num_queries: int) -> Tensor:
    """
    Counts what the loss of a batch is averaged over: its images and the masks that will be matched.

    Several micro-batches whose loss shall be that of one large batch are each given the sum of all their counts as
    `num_items_in_batch`; the sum of their losses then is the loss of the large batch.

    Args:
        class_labels: per image `(num_targets,)`.
        num_queries: number of queries, the most masks of an image that can be matched.

    Returns:
        `(2,)` float32: number of images, number of matched masks.
    """
    return torch.tensor(
        [float(len(class_labels)), float(sum(min(len(labels), num_queries) for labels in class_labels))]
    )


def check_targets(mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor], batch_size: int) -> None:
    """Raises a ValueError for targets that contradict each other."""
    if not len(mask_labels) == len(class_labels) == batch_size:
        raise ValueError(
            f"A batch of {batch_size} images needs as many entries of mask_labels and class_labels, got "
            f"{len(mask_labels)} and {len(class_labels)}."
        )
    for index, (masks, labels) in enumerate(zip(mask_labels, class_labels, strict=True)):
        if masks.ndim != 3 or labels.ndim != 1 or len(masks) != len(labels):
            raise ValueError(
                f"mask_labels[{index}] must be (num_targets, height, width) and class_labels[{index}] "
                f"(num_targets,), got {tuple(masks.shape)} and {tuple(labels.shape)}."
            )
        if masks.shape[1:] != mask_labels[0].shape[1:]:
            raise ValueError(
                f"All masks of a batch must have the same size: mask_labels[0] has {tuple(mask_labels[0].shape[1:])}, "
                f"mask_labels[{index}] {tuple(masks.shape[1:])}."
            )


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """
    Samples maps `(batch, channels, height, width)` bilinearly, with 0 outside, at points `(batch, num_points, 2)`, x
    and y as fractions of width and height, or all at `(1, num_points, 2)`. Returns `(batch, channels, num_points)`.
    """
    grid = points[:, None].mul(2.0).sub_(1.0).expand(len(maps), -1, -1, -1)  # (batch, 1, num_points, 2)
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
    points: Tensor,
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
) -> Tensor:
    """
    Assigns a query to each target, one query to one target at most, for several predictions of the same images.

    Args:
        mask_logits: `(predictions, batch, num_queries, mask_height, mask_width)` float32.
        class_logits: `(predictions, batch, num_queries, num_labels + 1)` float32.
        masks: the targets of all images in a row, `(all_targets, height, width)` float32.
        class_labels: per image `(num_targets,)` int64.
        points: `(batch, num_points, 2)`, where the masks of an image are compared.
        class_weight, mask_weight, dice_weight: weights of the three costs, which are the terms of the loss.

    Returns:
        `(predictions, all_targets)` int64: the query of each target, -1 for a target that got none because its image
        has more targets than there are queries.

    Raises:
        ValueError: a class that the model does not have.
        NonFinitePredictionsError: predictions that are not finite, of images with or without targets.
    """
    counts = [len(labels) for labels in class_labels]
    costs = []
    for image, (image_masks, labels) in enumerate(zip(masks.split(counts), class_labels, strict=True)):
        # (predictions * num_queries, num_points) and (num_targets, num_points)
        logits = sample_points(mask_logits[:, image].flatten(0, 1)[:, None], points[image, None])[:, 0]
        targets = sample_points(image_masks[:, None], points[image, None])[:, 0]
        probabilities = class_logits[:, image].flatten(0, 1).softmax(-1)
        classes = labels.to(masks.device).clamp(0, probabilities.shape[-1] - 2)
        costs.append(
            mask_weight * pairwise_cross_entropy(logits, targets)
            + dice_weight * pairwise_dice(logits, targets)
            - class_weight * probabilities[:, classes]
        )
    costs = _transfer(costs, mask_logits, class_logits, class_labels)
    num_predictions, num_queries = mask_logits.shape[0], mask_logits.shape[2]
    matched_queries = torch.full((num_predictions, sum(counts)), -1, dtype=torch.int64)
    for cost, assignment in zip(costs, matched_queries.split(counts, dim=1), strict=True):
        per_prediction = cost.view(num_predictions, num_queries, assignment.shape[1]).numpy()
        for prediction, prediction_cost in enumerate(per_prediction):
            queries, targets = (torch.from_numpy(indices) for indices in linear_sum_assignment(prediction_cost))
            assignment[prediction, targets] = queries
    return matched_queries.to(mask_logits.device, non_blocking=True)


@match_queries.register_fake
def _(mask_logits: Tensor, class_logits: Tensor, masks: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return mask_logits.new_empty((mask_logits.shape[0], masks.shape[0]), dtype=torch.int64)


def _transfer(
    costs: list[Tensor], mask_logits: Tensor, class_logits: Tensor, class_labels: Sequence[Tensor]
) -> list[Tensor]:
    """Transfers the costs of each image to the CPU, flattened, and checks labels and predictions with them."""
    num_labels = class_logits.shape[-1] - 1
    labels = torch.cat([labels.to(mask_logits.device) for labels in class_labels])
    is_label = (labels >= 0) & (labels < num_labels)
    are_finite = _are_finite(mask_logits) & _are_finite(class_logits)
    # The one transfer of a step.
    parts = [*(cost.flatten() for cost in costs), is_label.float(), are_finite.float()]
    *costs, is_label, are_finite = torch.cat(parts).cpu().split([len(part) for part in parts])
    for image, valid in enumerate(is_label.bool().split([len(labels) for labels in class_labels])):
        if not valid.all():
            raise ValueError(
                f"class_labels[{image}][{int((~valid).nonzero()[0])}] is out of range: the model has {num_labels} "
                f"classes, 0 to {num_labels - 1}."
            )
    # Logits that are merely huge can have costs that are not finite.
    finite = [bool(is_finite) and bool(cost.isfinite().all()) for cost, is_finite in zip(costs, are_finite)]
    if not all(finite):
        raise NonFinitePredictionsError([image for image, is_finite in enumerate(finite) if not is_finite])
    return costs


def _are_finite(logits: Tensor) -> Tensor:
    """Whether all logits `(predictions, batch, ...)` of an image are finite, `(batch,)` bool."""
    others = [dim for dim in range(logits.ndim) if dim != 1]
    # The extremes are nan where anything is, and need no temporary of the size of the logits.
    return logits.amax(others).isfinite() & logits.amin(others).isfinite()


def pairwise_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross entropy of every mask `(num_masks, points)` with every target `(num_targets, points)`."""
    # softplus(x) - x * t is the cross entropy of the logit x, so the sum over points is one matrix product.
    return (F.softplus(logits).sum(1)[:, None] - logits @ targets.T) / logits.shape[1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of every mask `(num_masks, points)` with every target `(num_targets, points)`."""
    probabilities = logits.sigmoid()
    total = probabilities.sum(1)[:, None] + targets.sum(1)[None, :]
    return 1.0 - (2.0 * (probabilities @ targets.T) + 1.0) / (total + 1.0)

"""The set loss of EoMT: queries are matched to targets, then classification and mask losses compare them.

Matching and loss of all predictions of a step (one per query block and the last one) are computed in one go, with a
single transfer from the device: the matching costs. All predictions and masks of an image share the random points that
follow from the image's seed, so an image has the same loss in whatever batch it is.

Reference: "Masked-attention Mask Transformer for Universal Image Segmentation", https://arxiv.org/abs/2112.01527,
sections 3.3 and 4.1, whose loss EoMT uses unchanged; the points are those of PointRend,
https://arxiv.org/abs/1912.08193.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_eomt import EomtConfig
from .matching_eomt import match_queries, sample_points
from .random_eomt import CANDIDATE_POINTS, UNIFORM_POINTS, image_seeds_or_new, uniform


class EomtLoss(nn.Module):
    """Matches queries to targets and computes the three loss terms, in float32 whatever the model's dtype.

    Args:
        num_labels: number of classes; "no object" comes after them.
        class_weight, mask_weight, dice_weight: weights of the three terms in the matching cost.
        no_object_weight: weight of "no object" in the cross entropy.
        num_points: number of points at which masks are compared.
        oversample_ratio, importance_sample_ratio: `num_points * oversample_ratio` points are drawn per image, and the
            most uncertain ones of them become `importance_sample_ratio` of a mask's points; the rest is drawn
            uniformly.
    """

    def __init__(
        self,
        num_labels: int,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
    ):
        super().__init__()
        self.num_labels = num_labels
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.register_buffer("empty_weight", self.initial_empty_weight())
        self.empty_weight: Tensor

    @classmethod
    def from_config(cls, config: EomtConfig) -> "EomtLoss":
        """The loss with the weights and point counts of a configuration."""
        return cls(
            num_labels=config.num_labels or 0,
            class_weight=config.class_weight,
            mask_weight=config.mask_weight,
            dice_weight=config.dice_weight,
            no_object_weight=config.no_object_weight,
            num_points=config.train_num_points,
            oversample_ratio=config.oversample_ratio,
            importance_sample_ratio=config.importance_sample_ratio,
        )

    def initial_empty_weight(self) -> Tensor:
        """Weights of the classes in the cross entropy, `(num_labels + 1,)`."""
        return torch.cat([torch.ones(self.num_labels), torch.tensor([self.no_object_weight])])

    def forward(
        self,
        masks_queries_logits: Tensor,
        class_queries_logits: Tensor,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        image_seeds: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        The three unweighted terms of one prediction.

        Args:
            masks_queries_logits: `(batch, num_queries, mask_height, mask_width)`.
            class_queries_logits: `(batch, num_queries, num_labels + 1)`.
            mask_labels: per image `(num_targets, height, width)`, bool, uint8 or float.
            class_labels: per image `(num_targets,)` int64, each in `[0, num_labels)`.
            image_seeds: `(batch,)` int64, from which the random points of each image follow; by default new ones.

        Returns:
            Scalars `loss_mask`, `loss_dice` and `loss_cross_entropy`.

        Raises:
            ValueError: targets that contradict each other or the configuration.
            NonFinitePredictionsError: predictions that are not finite.
        """
        predictions = [(masks_queries_logits, class_queries_logits)]
        return self.for_predictions(predictions, mask_labels, class_labels, image_seeds=image_seeds)[0]

    def for_predictions(
        self,
        predictions: Sequence[tuple[Tensor, Tensor]],
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        num_items: Tensor | None = None,
        image_seeds: Tensor | None = None,
    ) -> list[dict[str, Tensor]]:
        """
        The terms of several predictions for the same targets; arguments and errors as in `forward`.

        Args:
            num_items: `(2,)`, what the terms are averaged over, see [`count_items`]. By default the items of this
                batch; in training the mean of the processes' batches, so that each query and each mask counts the
                same wherever it is. (In evaluation processes may have different numbers of batches, so they do not
                wait for each other.)
        """
        # (predictions, batch, num_queries, mask_height, mask_width) and (predictions, batch, num_queries, labels + 1)
        with torch.autocast(predictions[0][0].device.type, enabled=False):
            mask_logits = torch.stack([masks for masks, _ in predictions]).float()
            class_logits = torch.stack([classes for _, classes in predictions]).float()
            self._check_targets(mask_labels, class_labels, batch_size=mask_logits.shape[1])
            image_seeds = image_seeds_or_new(image_seeds, mask_logits.shape[1], mask_logits.device)
            masks, labels, image_of_target = flatten_targets(mask_labels, class_labels, mask_logits.device)
            query_of_target = self.match(mask_logits, class_logits, masks, class_labels, image_seeds)
            if num_items is None:
                num_items = self.mean_over_processes(count_items(class_labels, num_queries=mask_logits.shape[2]))
            if not isinstance(num_items, Tensor) or num_items.shape != (2,):
                raise ValueError(
                    f"num_items_in_batch must be a tensor of two numbers, images and masks (see count_items), got "
                    f"{num_items}."
                )
            num_images, num_masks = num_items.to(mask_logits.device, torch.float32)
            num_unmatched = num_images * mask_logits.shape[2] - num_masks
            total_class_weight = num_masks + num_unmatched * self.no_object_weight
            cross_entropy = self.classification_loss(class_logits, labels, image_of_target, query_of_target)
            mask_loss, dice_loss = self.mask_losses(mask_logits, masks, image_of_target, query_of_target, image_seeds)
            cross_entropy = cross_entropy / total_class_weight
            mask_loss, dice_loss = mask_loss / num_masks.clamp(min=1e-6), dice_loss / num_masks.clamp(min=1e-6)
        return [
            {"loss_mask": mask, "loss_dice": dice, "loss_cross_entropy": classification}
            for mask, dice, classification in zip(
                mask_loss.unbind(), dice_loss.unbind(), cross_entropy.unbind(), strict=True
            )
        ]

    def _check_targets(self, mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor], batch_size: int) -> None:
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
                    f"All masks of a batch must have the same size: mask_labels[0] has "
                    f"{tuple(mask_labels[0].shape[1:])}, mask_labels[{index}] {tuple(masks.shape[1:])}."
                )

    def match(
        self,
        mask_logits: Tensor,
        class_logits: Tensor,
        masks: Tensor,
        class_labels: Sequence[Tensor],
        image_seeds: Tensor,
    ) -> Tensor:
        """[`match_queries`] with the weights and number of points of this loss."""
        return match_queries(
            mask_logits,
            class_logits,
            masks,
            list(class_labels),
            image_seeds,
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            num_points=self.num_points,
        )

    def classification_loss(
        self, class_logits: Tensor, labels: Tensor, image_of_target: Tensor, query_of_target: Tensor
    ) -> Tensor:
        """
        Cross entropy of all queries, weighted sum; unmatched queries should say "no object".

        Args:
            class_logits: `(predictions, batch, num_queries, num_labels + 1)`.
            labels, image_of_target: `(all_targets,)` int64.
            query_of_target: `(predictions, all_targets)` int64, -1 where unmatched.

        Returns:
            `(predictions,)`.
        """
        num_predictions, batch_size, num_queries, _ = class_logits.shape
        # One more query takes what the unmatched targets write.
        expected = labels.new_full((num_predictions, batch_size, num_queries + 1), self.num_labels)
        prediction = torch.arange(num_predictions, device=labels.device)[:, None]
        expected[prediction, image_of_target, query_of_target % (num_queries + 1)] = labels.expand_as(query_of_target)
        expected = expected[:, :, :num_queries].flatten(1)  # (predictions, batch * num_queries)
        losses = F.cross_entropy(class_logits.flatten(1, 2).transpose(1, 2), expected, reduction="none")
        weights = torch.where(expected == self.num_labels, self.no_object_weight, 1.0)
        return (losses * weights).sum(1)

    def mask_losses(
        self,
        mask_logits: Tensor,
        masks: Tensor,
        image_of_target: Tensor,
        query_of_target: Tensor,
        image_seeds: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """
        Binary cross entropy and dice loss at sampled points, summed over the matched masks.

        Args:
            mask_logits: `(predictions, batch, num_queries, mask_height, mask_width)`.
            masks: `(all_targets, height, width)` float.
            image_of_target: `(all_targets,)` int64.
            query_of_target: `(predictions, all_targets)` int64, -1 where unmatched.
            image_seeds: `(batch,)` int64.

        Returns:
            Two tensors `(predictions,)`.
        """
        num_predictions, num_targets = query_of_target.shape
        matched = (query_of_target >= 0).float()
        if num_targets == 0:  # keeps the graph, so that every process has gradients for every parameter
            nothing = mask_logits.flatten(1).sum(1) * 0.0
            return nothing, nothing
        prediction = torch.arange(num_predictions, device=masks.device)[:, None]
        # (all_targets, predictions, mask_height, mask_width)
        logits = mask_logits[prediction, image_of_target, query_of_target.clamp(min=0)].transpose(0, 1)
        points = self.uncertain_points(logits.detach(), image_of_target, image_seeds)
        # All points of a target in one call, so that its full-size mask is never copied per prediction.
        targets = sample_points(masks[:, None], points.flatten(1, 2)).view(num_targets, num_predictions, -1)
        sampled = sample_points(logits.flatten(0, 1)[:, None], points.flatten(0, 1))
        sampled = sampled.view(num_targets, num_predictions, -1)
        cross_entropy = F.binary_cross_entropy_with_logits(sampled, targets, reduction="none").mean(-1)
        probabilities = sampled.sigmoid()
        intersection = (probabilities * targets).sum(-1)
        dice = 1.0 - (2.0 * intersection + 1.0) / (probabilities.sum(-1) + targets.sum(-1) + 1.0)
        # (all_targets, predictions) -> (predictions,)
        return (cross_entropy * matched.T).sum(0), (dice * matched.T).sum(0)

    @torch.no_grad()
    def uncertain_points(self, logits: Tensor, image_of_target: Tensor, image_seeds: Tensor) -> Tensor:
        """
        Points at which to compare masks, most of them where the prediction is unsure.

        All masks of an image choose among the same candidates, so that these are placed on a target's predictions, the
        channels of one map, at once.

        Args:
            logits: `(all_targets, predictions, mask_height, mask_width)`.
            image_of_target: `(all_targets,)` int64.
            image_seeds: `(batch,)` int64.

        Returns:
            `(all_targets, predictions, num_points, 2)`, x and y as fractions of width and height.
        """
        num_predictions = logits.shape[1]
        num_uncertain = int(self.importance_sample_ratio * self.num_points)
        num_drawn = int(self.oversample_ratio * self.num_points)
        # (all_targets, num_drawn, 2) and (all_targets, num_points - num_uncertain, 2)
        drawn = uniform(image_seeds, CANDIDATE_POINTS, (num_drawn, 2))[image_of_target]
        others = uniform(image_seeds, UNIFORM_POINTS, (self.num_points - num_uncertain, 2))[image_of_target]
        certainty = sample_points(logits, drawn).abs()  # (all_targets, predictions, num_drawn)
        uncertain = certainty.topk(num_uncertain, dim=2, largest=False, sorted=False).indices
        # (all_targets, predictions, num_uncertain, 2)
        uncertain_points = (
            drawn[:, None].expand(-1, num_predictions, -1, -1).gather(2, uncertain[..., None].expand(-1, -1, -1, 2))
        )
        return torch.cat([uncertain_points, others[:, None].expand(-1, num_predictions, -1, -1)], dim=2)

    def mean_over_processes(self, num_items: Tensor) -> Tensor:
        """The items of a batch, or in distributed training the mean of all processes' batches."""
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            num_items = num_items.to(self.empty_weight.device)
            torch.distributed.all_reduce(num_items)
            num_items = num_items / torch.distributed.get_world_size()
        return num_items


def count_items(class_labels: Sequence[Tensor], num_queries: int) -> Tensor:
    """
    What the loss of a batch is averaged over: its images and the masks that will be matched.

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


def flatten_targets(
    mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of all images in a row: masks `(all_targets, height, width)` float, labels and image indices."""
    masks = torch.cat([masks.to(device) for masks in mask_labels]).float()
    labels = torch.cat([labels.to(device) for labels in class_labels]).long()
    images = [torch.full((len(labels),), image, device=device) for image, labels in enumerate(class_labels)]
    return masks, labels, torch.cat(images)

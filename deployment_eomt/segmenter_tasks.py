"""
Post-processing as part of a graph: from the logits of one image to panoptic and instance segmentation.

The results are those of `segment_panoptic` and `segment_instances` of `image_processing_eomt`, which loop over
segments in Python, count with `bincount` and sort stably; a graph can do neither. Here, queries are chosen first, one
after the other is upsampled ([`fold`]), and what is left is arithmetic on a few matrices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from image_processing_eomt import VOID


UNBEATEN = 2.0  # more than any score: no query wins a pixel that is padding


class Frame(NamedTuple):
    """
    Where the model's input comes from and how large the result is. Every size is `(height, width)` in pixels, and may
    be symbolic.

    input_size: one input of the model.
    output_size: the result.
    content_size: the image once resized, at the top left of the input or cut into several; None where the result has
        the input's size, padding included.
    is_split: whether the image is cut into windows.
    inside: where the result is of the image rather than of padding: bool, `(height, width)` or a single True.
    """

    input_size: tuple[int, int]
    output_size: tuple[int, int]
    content_size: tuple[int, int] | None
    is_split: bool
    inside: Tensor

    @property
    def sizes(self) -> tuple[Any, Any, Any]:
        """What [`upsample`] needs."""
        return self.input_size, self.output_size, self.content_size


def upsample(mask_logits: Tensor, input_size: Any, output_size: Any, content_size: Any) -> Tensor:
    """Upsamples `(rows, columns)` at any scale to the result's size: to the input's, padding cut off, then on."""
    logits = F.interpolate(mask_logits[None, None], size=input_size, mode="bilinear")
    if content_size is not None:
        height, width = content_size
        logits = F.interpolate(logits[..., :height, :width], size=output_size, mode="bilinear")
    return logits[0, 0]


Tensors = tuple[Tensor, ...]


def fold(
    step: Callable[[Tensors, Tensors, Any], tuple[Tensors, Tensors]],
    state: Tensors,
    items: Tensors,
    constants: Any,
    is_unrolled: bool,
) -> tuple[Tensors, Tensors]:
    """
    Goes through the rows of some tensors, of which there is at least one.

    Args:
        step: takes the state, a row of each of the `items`, and the constants; returns the next state and outputs. It
            uses no other tensors or symbolic sizes.
        state: the first one.
        items: `(num_rows, ...)` each.
        constants: what every step needs: sizes, tensors, and tuples of them. OpenVINO's loops can have no tensor of
            that kind: there it goes along as state.
        is_unrolled: whether the graph repeats the step for each row, whose number is then fixed. Otherwise it holds a
            loop (ONNX: `Scan`).

    Returns:
        The last state, and each output of all rows, stacked.
    """
    if is_unrolled:
        outputs = []
        for row in range(items[0].shape[0]):
            state, output = step(state, tuple(item[row] for item in items), constants)
            outputs.append(output)
        return state, tuple(torch.stack(rows) for rows in zip(*outputs))
    leaves, structure = tree_flatten(constants)
    is_variable = [isinstance(leaf, Tensor | torch.SymInt) for leaf in leaves]

    def combine(*arguments: Any) -> list[Tensor]:
        old_state, rest = arguments[: len(state)], arguments[len(state) :]
        rows, variables = rest[: len(items)], iter(rest[len(items) :])
        known = [next(variables) if variable else leaf for leaf, variable in zip(leaves, is_variable)]
        new_state, outputs = step(old_state, rows, tree_unflatten(known, structure))
        return [*new_state, *outputs]

    torch._check(items[0].shape[0] != 0)
    variables = tuple(leaf for leaf, variable in zip(leaves, is_variable) if variable)
    # Of PyTorch's loops the one that torch.onnx exports and that stacks results. As a function it compiles its step
    # first, which fails for sizes that depend on data; the operator does not.
    results = torch.ops.higher_order.scan(combine, list(state), list(items), variables)
    return tuple(results[: len(state)]), tuple(results[len(state) :])


def segment_panoptic(
    mask_logits: Tensor,
    class_logits: Tensor,
    frame: Frame,
    *,
    threshold: float,
    mask_threshold: float,
    overlap_mask_area_threshold: float,
    stuff_classes: Sequence[int] | None,
    max_segments: int | None,
) -> dict[str, Tensor]:
    """
    Panoptic segmentation of one image, see `image_processing_eomt.segment_panoptic`.

    Args:
        mask_logits: `(num_queries, rows, columns)`.
        class_logits: `(num_queries, num_classes + 1)`, the last one for "no object".
        frame: how the image lies in the model's input.
        threshold, mask_threshold, overlap_mask_area_threshold, stuff_classes: the image processor's settings.
        max_segments: None, or the fixed number of queries with the highest scores that are looked at.

    Returns:
        See [`Segmenter`].
    """
    num_queries, num_classes = class_logits.shape[0], class_logits.shape[1] - 1
    height, width = frame.output_size
    device = class_logits.device
    scores, labels = class_logits.float().softmax(dim=-1).max(dim=-1)
    is_kept = (labels != num_classes) & (scores > threshold)
    if max_segments is None:
        kept = torch.nonzero(is_kept).squeeze(1)
    else:
        best = torch.where(is_kept, scores, -1.0).topk(min(max_segments, num_queries)).indices
        # in the order of the queries, those that are not kept last
        kept = best[(best + num_queries * (~is_kept[best]).long()).sort().indices]
    # The last one stands for no segment, and has the pixels that no other has.
    void = kept.shape[0]
    nothing = torch.zeros(1, device=device)
    scores = torch.cat([scores[kept], nothing])
    labels = torch.cat([labels[kept], nothing.long() + num_classes])
    is_kept = torch.cat([is_kept[kept], nothing > 0])
    queries = torch.cat([kept, nothing.long()])
    order = torch.arange(void + 1, device=device)

    def compare(state: Tensors, row: Tensors, sizes: Any) -> tuple[Tensors, Tensors]:
        """Gives a query the pixels where its score x mask probability is higher than that of all before."""
        (best, winner, is_covered), (logits, score, number) = state, row
        probability = upsample(logits, *sizes).sigmoid()
        covered = (probability >= mask_threshold) & (best < UNBEATEN)
        value = score * probability
        is_better = value > best
        winner = torch.where(is_better, number, winner)
        is_covered = (is_better & covered) | (~is_better & is_covered)
        return (torch.maximum(value, best), winner, is_covered), (count_pixels(covered),)

    nowhere = torch.full((height, width), False, device=device)
    start = (
        torch.where(frame.inside, -1.0, UNBEATEN).expand(height, width).clone(),
        torch.where(nowhere, 0, void).to(torch.int32),
        nowhere,
    )
    items = (mask_logits[queries].float(), torch.where(is_kept, scores, -1.0), order.to(torch.int32))
    (_, winner, is_covered), (mask_area,) = fold(compare, start, items, frame.sizes, max_segments is not None)
    won_area = count_regions(winner.long().flatten(), void + 1)
    query_map = torch.where(is_covered, winner.long(), void)
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    row_counts, column_counts = (
        count_regions((query_map * length + place).flatten(), (void + 1) * length).reshape(void + 1, length)
        for length, place in ((height, y[:, None]), (width, x))
    )
    area = row_counts.sum(dim=1)

    # Queries that become segments, and which of them are one.
    is_valid = is_kept & (area > 0) & (won_area.double() / mask_area.double() >= overlap_mask_area_threshold)
    is_stuff = torch.tensor([label in (stuff_classes or ()) for label in range(num_classes + 1)], device=device)[
        labels
    ]
    is_same = ((labels[:, None] == labels) & is_stuff) | (order[:, None] == order)
    is_same = is_same & is_valid & is_valid[:, None]
    first = torch.where(is_same, order, void).amin(dim=1)
    is_first = is_valid & (first == order)
    segment_of_query = torch.where(is_valid, (is_first.long().cumsum(dim=0) - 1)[first], VOID)

    if max_segments is None:
        segments = torch.nonzero(is_first).squeeze(1)
    else:
        segments = (order + (void + 1) * (~is_first).long()).sort().indices[:-1]
    members = (is_same & is_first[:, None])[segments]  # (num_segments, void + 1)
    edges = [
        reduce(torch.where(members, edge, none), 1)
        for length, counts in ((width, column_counts), (height, row_counts))
        for reduce, edge, none in zip((torch.amin, torch.amax), find_edges(counts > 0), (length, -1))
    ]
    return {
        "segmentation": segment_of_query[query_map].to(torch.int32),
        "labels": torch.where(is_first, labels, VOID)[segments],
        "scores": torch.where(members, scores, 0.0).amax(dim=1),
        "areas": torch.where(members, area, 0).sum(dim=1),
        "boxes": make_boxes(*edges),
        **({} if max_segments is None else {"num_segments": is_first.long().sum()}),
    }


def segment_instances(
    mask_logits: Tensor,
    class_logits: Tensor,
    frame: Frame,
    *,
    threshold: float,
    mask_threshold: float,
    top_k: int | None,
    max_segments: int | None,
) -> dict[str, Tensor]:
    """
    Instances in one image, best first, see `image_processing_eomt.segment_instances`.

    Args:
        mask_logits, class_logits, frame: as for `segment_panoptic`.
        threshold, mask_threshold, top_k: the image processor's settings.
        max_segments: None, or the fixed number of pairs of a query and a class that are looked at, if `top_k` is not
            less.

    Returns:
        See [`Segmenter`].
    """
    class_scores = class_logits.float().softmax(dim=-1)[:, :-1]
    num_queries, num_classes = class_scores.shape
    limits = (num_queries * num_classes, top_k, max_segments)
    candidates = min(limit for limit in limits if limit is not None)
    scores, pairs = class_scores.flatten().topk(candidates)
    if max_segments is None:
        possible = torch.nonzero(scores >= threshold).squeeze(1)
        scores, pairs = scores[possible], pairs[possible]
    labels = pairs % num_classes
    queries = pairs // num_classes
    if max_segments is None:
        # One mask per query, and one more, of no pair.
        is_used = torch.zeros(num_queries, dtype=torch.int64, device=pairs.device).scatter(0, queries, 1)
        mask_of_pair = (is_used.cumsum(dim=0) - 1)[queries]
        queries = torch.cat([torch.nonzero(is_used).squeeze(1), torch.zeros_like(is_used[:1])])
    else:
        mask_of_pair = torch.arange(candidates, device=pairs.device)
    # of which the probability is the threshold
    is_finite = 0 < mask_threshold < 1
    logit_threshold = (
        math.log(mask_threshold / (1 - mask_threshold)) if is_finite else math.inf * (mask_threshold - 0.5)
    )

    def cover(state: Tensors, row: Tensors, sizes: Any) -> tuple[Tensors, Tensors]:
        """Returns the mask of a query, the sum of its probabilities in it, and its pixels in each row and column."""
        (inside,), (logits,) = state, row
        logits = upsample(logits, *sizes)
        mask = (logits > logit_threshold) & inside
        covered = mask.float()
        outputs = (mask, (logits.sigmoid() * covered).sum(), covered.sum(dim=1), covered.sum(dim=0))
        return (inside.clone(),), outputs

    items = (mask_logits[queries].float(),)
    _, (masks, probability_sum, *counts) = fold(cover, (frame.inside,), items, frame.sizes, max_segments is not None)
    row_counts, column_counts = (values.long() for values in counts)
    area = row_counts.sum(dim=1)

    scores = scores * (probability_sum / area.clamp(min=1))[mask_of_pair]
    scores, order = scores.sort(descending=True)
    is_found = scores >= threshold
    if max_segments is None:
        found = torch.nonzero(is_found).squeeze(1)
        scores, order = scores[found], order[found]
    chosen = mask_of_pair[order]
    boxes = make_boxes(*find_edges(column_counts > 0), *find_edges(row_counts > 0))
    result = {
        "masks": masks[chosen],
        "labels": labels[order],
        "scores": scores,
        "areas": area[chosen],
        "boxes": boxes[chosen],
    }
    if max_segments is None:
        return result
    return {
        "masks": result["masks"] & is_found[:, None, None],
        "labels": torch.where(is_found, result["labels"], VOID),
        "scores": torch.where(is_found, scores, 0.0),
        "areas": torch.where(is_found, result["areas"], 0),
        "boxes": torch.where(is_found[:, None], result["boxes"], 0),
        "num_segments": is_found.long().sum(),
    }


def count_pixels(mask: Tensor) -> Tensor:
    """Counts the True ones of `(height, width)`; exact, since a sum of a row fits into float32."""
    return mask.float().sum(dim=1).long().sum()


def count_regions(regions: Tensor, num_regions: int) -> Tensor:
    """As `torch.bincount` of `(num_pixels,)` int64, `(num_regions,)` int64."""
    counts = torch.zeros(num_regions, dtype=torch.int64, device=regions.device)
    return counts.scatter_add(0, regions, torch.ones_like(regions))


def find_edges(is_occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first and the last True place of `(n, length)`, `(n,)` int64 each; the length and -1 without any."""
    length = is_occupied.shape[1]
    places = torch.arange(length, device=is_occupied.device)
    first, last = torch.where(is_occupied, places, length), torch.where(is_occupied, places, -1)
    return first.amin(dim=1), last.amax(dim=1)


def make_boxes(left: Tensor, right: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """Returns `(n, 4)`: x, y, width and height in pixels; zeros where there is no pixel."""
    width, height = (right - left + 1).clamp(min=0), (bottom - top + 1).clamp(min=0)
    is_empty = (width == 0)[:, None]
    return torch.where(is_empty, 0, torch.stack([left, top, width, height], dim=1))

"""
Post-processing as part of a graph: from the logits of one image to panoptic, instance and semantic segmentation.

The results are those of `segment_panoptic`, `segment_instances` and `segment_semantic` of `image_processing_eomt`,
which loop over segments in Python, count with `bincount` and sort stably; a graph can do neither. Here, queries are
chosen first, one after the other is upsampled ([`fold`]), and what is left is arithmetic on a few matrices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from image_processing_eomt import VOID


MAX_BAND_ROWS = 32  # of a window, of which the masks of all queries are there at a time
UNBEATEN = 2.0  # more than any score: no query wins a pixel that is padding
OUTPUT_ROWS = 8  # of the result, of which the scores of all classes are there at a time


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

    def upsample(self, mask_logits: Tensor) -> Tensor:
        """Upsamples `(rows, columns)` at any scale to the result's size: to the input's, padding cut off, then on."""
        logits = F.interpolate(mask_logits[None, None], size=self.input_size, mode="bilinear")
        if self.content_size is not None:
            height, width = self.content_size
            logits = F.interpolate(logits[..., :height, :width], size=self.output_size, mode="bilinear")
        return logits[0, 0]


Step = Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


def fold(
    step: Step,
    state: tuple[Tensor, ...],
    items: tuple[Tensor, ...],
    constants: tuple[Any, ...],
    is_unrolled: bool,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """
    Goes through the rows of some tensors, of which there is at least one.

    Args:
        step: takes the state, a row of each of the `items` and the constants, a tuple each; returns the next state and
            outputs. It uses no other tensors or symbolic sizes.
        state: the first one.
        items: `(num_rows, ...)` each.
        constants: what every step needs: tensors, sizes, and tuples of them. OpenVINO's loops can have no tensor of
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

    def compare(state: Any, row: Any, frame: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Gives a query the pixels where its score x mask probability is higher than that of all before."""
        (best, winner, is_covered), (logits, score, number) = state, row
        probability = frame.upsample(logits).sigmoid()
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
    rows = (mask_logits[queries].float(), torch.where(is_kept, scores, -1.0), order.to(torch.int32))
    sizes = frame._replace(inside=None)
    (_, winner, is_covered), (mask_area,) = fold(compare, start, rows, sizes, max_segments is not None)
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
    members = is_same[segments]  # (num_segments, void + 1)
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
    logit_threshold = (
        math.log(mask_threshold / (1 - mask_threshold))
        if 0 < mask_threshold < 1
        else math.inf * (mask_threshold - 0.5)
    )

    def cover(state: Any, row: Any, frame: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns the mask of a query, the sum of its probabilities in it, and its pixels in each row and column."""
        (inside,), (logits,) = state, row
        logits = frame.upsample(logits)
        mask = (logits > logit_threshold) & inside
        covered = mask.float()
        outputs = (mask, (logits.sigmoid() * covered).sum(), covered.sum(dim=1), covered.sum(dim=0))
        return (inside.clone(),), outputs

    rows, sizes = (mask_logits[queries].float(),), frame._replace(inside=None)
    _, (masks, probability_sum, *counts) = fold(cover, (frame.inside,), rows, sizes, max_segments is not None)
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


def segment_semantic(
    mask_logits: Tensor, class_logits: Tensor, frame: Frame, *, is_resized: bool, is_unrolled: bool
) -> dict[str, Tensor]:
    """
    Semantic segmentation of one image, see `image_processing_eomt.segment_semantic`.

    The scores of all classes are there for the windows only, and for a few rows of the result at a time.

    Args:
        mask_logits: `(num_windows, num_queries, rows, columns)`.
        class_logits: `(num_windows, num_queries, num_classes + 1)`, the last one for "no object".
        frame: how the image lies in the model's inputs.
        is_resized: whether the result has another size than the content.
        is_unrolled: see [`fold`].

    Returns:
        See [`Segmenter`].
    """
    input_height, input_width = frame.input_size
    num_windows, mask_height = mask_logits.shape[0], mask_logits.shape[2]
    device = mask_logits.device
    class_scores = class_logits.float().softmax(dim=-1)[..., :-1]  # (num_windows, num_queries, num_classes)
    num_rows = max(rows for rows in range(1, MAX_BAND_ROWS + 1) if input_height % rows == 0)
    num_bands = input_height // num_rows

    def score_band(state: Any, row: Any, is_final: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns the scores in some rows of a window, `(num_rows, input_width, num_classes)`, or their classes."""
        (count,), (logits, class_scores, above, below, weight) = state, row
        logits = mix(logits.index_select(0, above), logits.index_select(0, below), weight[:, None, None])
        masks = F.interpolate(logits[:, :, None], size=(1, input_width), mode="bilinear")[:, :, 0].sigmoid()
        scores = masks.transpose(1, 2) @ class_scores
        return (count + 1,), (scores.argmax(dim=-1).to(torch.int32) if is_final else scores,)

    # What each band mixes: a few rows of the mask logits, from the first on that it needs.
    above, below, weight = (
        values.unflatten(0, (num_bands, num_rows)) for values in neighbours(input_height, mask_height, device)
    )
    first = above[:, :1]
    needed = (first + torch.arange(num_rows * mask_height // input_height + 3, device=device)).clamp(
        max=mask_height - 1
    )
    mask_rows = mask_logits.float().transpose(1, 2)[
        :, needed
    ]  # (num_windows, num_bands, num_needed, num_queries, columns)
    bands = (mask_rows, class_scores[:, None], above - first, below - first, weight)
    items = tuple(
        values.expand(num_windows, num_bands, *values.shape[-dims:]).flatten(0, 1)
        for values, dims in zip(bands, (3, 2, 1, 1, 1))
    )
    start = (torch.zeros((), dtype=torch.int64, device=device),)
    _, (bands,) = fold(score_band, start, items, frame.content_size is None, is_unrolled)
    if frame.content_size is None:
        return {"segmentation": torch.where(frame.inside, bands.flatten(0, 1), VOID)}
    pixel_scores = bands.flatten(0, 2)  # (num_windows * input_height * input_width, num_classes)

    # Each pixel of the content is in one window or in two: indices into `pixel_scores` are sums for row and column.
    (content_height, content_width), (height, width) = frame.content_size, frame.output_size
    window_pixels = input_height * input_width
    rows, columns = (
        tuple(
            window * window_pixels + place * stride
            for window, place in find_windows(length, edge, frame.is_split, device)
        )
        for length, edge, stride in (
            (content_height, input_height, input_width),
            (content_width, input_width, 1),
        )
    )

    def classify_band(state: Any, row: Any, constants: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns the classes in some rows of the result, `(num_rows, width)`."""
        (count,), (above, below, weight) = state, row
        pixel_scores, rows, columns, (left, right, column_weight) = constants
        # (num_rows, content_width, num_classes)
        upper, lower = (
            average([pixel_scores[row[indices][:, None] + column] for row, column in zip(rows, columns)])
            for indices in (above, below)
        )
        scores = mix(upper, lower, weight[:, None, None])
        scores = mix(scores.index_select(1, left), scores.index_select(1, right), column_weight[:, None])
        return (count + 1,), (scores.argmax(dim=-1).to(torch.int32),)

    if not is_resized:
        scores = average([pixel_scores[row[:, None] + column] for row, column in zip(rows, columns)])
        return {"segmentation": scores.argmax(dim=-1).to(torch.int32)}
    num_bands = (height + OUTPUT_ROWS - 1) // OUTPUT_ROWS
    in_bands = torch.arange(num_bands * OUTPUT_ROWS, device=device).clamp(max=height - 1)
    items = tuple(
        values.index_select(0, in_bands).reshape(-1, OUTPUT_ROWS)
        for values in neighbours(height, content_height, device)
    )
    constants = (pixel_scores, rows, columns, neighbours(width, content_width, device))
    _, (bands,) = fold(classify_band, start, items, constants, is_unrolled)
    return {"segmentation": bands.flatten(0, 1)[:height]}


def average(values: list[Tensor]) -> Tensor:
    """Returns the mean of one or two tensors."""
    return values[0] if len(values) == 1 else (values[0] + values[1]) / 2


def mix(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """As `torch.lerp`."""
    return first + (second - first) * weight


def neighbours(length: int, source_length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """
    Returns what linear interpolation to `length` pixels mixes: indices of the pixels before and after, `(length,)`
    int64, and the weight of the latter, float32.
    """
    places = torch.arange(length, device=device).double()
    places = ((places + 0.5) * source_length / length - 0.5).clamp(min=0)
    before = places.long()
    return before, (before + 1).clamp(max=source_length - 1), (places - before).float()


def find_windows(length: int, window: int, is_split: bool, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """
    Returns the windows that each of `length` pixels is in, along one side: one, or the last and the last but one,
    which are the same where there is only one. No more than two overlap.

    Returns:
        A list of pairs of `(length,)` int64: the window, and the pixel's place in it.
    """
    pixels = torch.arange(length, device=device)
    if not is_split:
        return [(torch.zeros_like(pixels), pixels)]
    starts = window_starts(length, window, device)
    last = (starts <= pixels[:, None]).long().sum(dim=1) - 1
    before = (last - 1).clamp(min=0)
    before = torch.where(starts[before] + window > pixels, before, last)
    return [(index, pixels - starts[index]) for index in (last, before)]


def window_starts(length: int, window: int, device: torch.device) -> Tensor:
    """Returns the first pixel of each window, `(num_windows,)` int64, see `geometry_eomt.place_windows`."""
    num_windows = (length + window - 1) // window
    gaps = torch.arange(num_windows, device=device)
    return gaps * (length - window) // gaps.amax(dim=0).clamp(min=1)

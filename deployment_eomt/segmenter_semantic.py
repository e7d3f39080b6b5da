"""Post-processing as part of a graph: from the logits of an image, whole or in windows, to semantic segmentation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from image_processing_eomt import VOID

from .segmenter_tasks import Frame, Tensors, fold


MAX_BAND_ROWS = 32  # of a window, of which the masks of all queries are there at a time
OUTPUT_ROWS = 8  # of the result, of which the scores of all classes are there at a time


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

    def score_band(state: Tensors, row: Tensors, is_final: Any) -> tuple[Tensors, Tensors]:
        """Returns the scores in some rows of a window, `(num_rows, input_width, num_classes)`, or their classes."""
        (count,), (logits, class_scores, above, below, weight) = state, row
        logits = mix(logits.index_select(0, above), logits.index_select(0, below), weight[:, None, None])
        masks = F.interpolate(logits[:, :, None], size=(1, input_width), mode="bilinear")[:, :, 0].sigmoid()
        scores = masks.transpose(1, 2) @ class_scores
        return (count + 1,), (scores.argmax(dim=-1).to(torch.int32) if is_final else scores,)

    # What each band mixes: a few rows of the mask logits, from the first that it needs on.
    above, below, weight = (
        values.unflatten(0, (num_bands, num_rows)) for values in neighbours(input_height, mask_height, device)
    )
    first = above[:, :1]
    places = torch.arange(num_rows * mask_height // input_height + 3, device=device)
    needed = (first + places).clamp(max=mask_height - 1)
    mask_rows = mask_logits.float().transpose(1, 2)[:, needed]  # (..., num_bands, num_needed, num_queries, columns)
    per_band = (mask_rows, class_scores[:, None], above - first, below - first, weight)
    items = tuple(
        values.expand(num_windows, num_bands, *values.shape[-dims:]).flatten(0, 1)
        for values, dims in zip(per_band, (3, 2, 1, 1, 1))
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

    if not is_resized:
        scores = average([pixel_scores[row[:, None] + column] for row, column in zip(rows, columns)])
        return {"segmentation": scores.argmax(dim=-1).to(torch.int32)}

    def classify_band(state: Tensors, row: Tensors, constants: Any) -> tuple[Tensors, Tensors]:
        """Returns the classes in some rows of the result, `(num_rows, width)`."""
        (count,), (above, below, weight) = state, row
        pixel_scores, rows, columns, (left, right, column_weight) = constants
        upper, lower = (  # (num_rows, content_width, num_classes)
            average([pixel_scores[row[indices][:, None] + column] for row, column in zip(rows, columns)])
            for indices in (above, below)
        )
        scores = mix(upper, lower, weight[:, None, None])
        scores = mix(scores.index_select(1, left), scores.index_select(1, right), column_weight[:, None])
        return (count + 1,), (scores.argmax(dim=-1).to(torch.int32),)

    # More than are needed, and never one: nothing is left to prove about an open height.
    num_bands = height // OUTPUT_ROWS + 2
    in_bands = torch.arange(num_bands * OUTPUT_ROWS, device=device).clamp(max=height - 1)
    items = tuple(
        values.index_select(0, in_bands).reshape(-1, OUTPUT_ROWS)
        for values in neighbours(height, content_height, device)
    )
    constants = (pixel_scores, rows, columns, neighbours(width, content_width, device))
    _, (bands,) = fold(classify_band, start, items, constants, is_unrolled)
    return {"segmentation": bands.flatten(0, 1).index_select(0, torch.arange(height, device=device))}


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
    # Window i begins at i * rest // gaps: the last one that begins before a pixel or with it, without a table of both.
    gaps, rest = starts.shape[0] - 1, starts.amax(dim=0)
    last = (((pixels + 1) * gaps - 1).clamp(min=0) // rest.clamp(min=1)).clamp(max=gaps)
    before = (last - 1).clamp(min=0)
    before = torch.where(starts[before] + window > pixels, before, last)
    return [(index, pixels - starts[index]) for index in (last, before)]


def window_starts(length: int, window: int, device: torch.device) -> Tensor:
    """Returns the first pixel of each window, `(num_windows,)` int64, see `geometry_eomt.place_windows`."""
    num_windows = (length + window - 1) // window
    gaps = torch.arange(num_windows, device=device)
    return gaps * (length - window) // gaps.amax(dim=0).clamp(min=1)

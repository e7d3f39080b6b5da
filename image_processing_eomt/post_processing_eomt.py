"""From a model's queries to segments, on the device that the logits are on."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def panoptic_segments(
    mask_logits: Tensor,
    class_logits: Tensor,
    output_size: tuple[int, int],
    *,
    padded_size: tuple[int, int],
    content_size: tuple[int, int],
    threshold: float = 0.8,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    stuff_classes: tuple[int, ...] | list[int] = (),
) -> dict[str, Any]:
    """
    Panoptic segmentation of one image: every pixel in at most one segment, one segment per stuff class.

    Each pixel goes to the query with the highest class score x mask probability, if that query's mask covers it.
    Queries that lose too much of their mask to others that way are dropped. Follows `to_per_pixel_preds_panoptic` in
    the reference implementation's `lightning_module.py`, but upsamples only the queries that can be kept.

    Args:
        mask_logits: `(num_queries, height / 4, width / 4)`.
        class_logits: `(num_queries, num_classes + 1)`, the last one for "no object".
        output_size: `(height, width)` of the result in pixels.
        padded_size: `(height, width)` the model saw, padding included.
        content_size: `(height, width)` of the image within it, at the top left.
        threshold: a query needs a class score above this.
        mask_threshold: a mask covers the pixels where its probability is at least this.
        overlap_mask_area_threshold: a query needs to win at least this share of the area of its mask.
        stuff_classes: classes whose queries are merged into one segment.

    Returns:
        `segmentation`: `(height, width)` int32, the segment's id or -1 where there is none; `segments_info`: one dict
        per segment, ids consecutive from 0 in the order of their first query: `id`, `label_id`, `score` (of a merged
        segment, its best query's), `area` in pixels, `bbox` as `[x, y, width, height]` in pixels and `was_fused`
        (whether its class is a stuff class).

    Raises:
        ValueError: a stuff class is not a class of the model.
    """
    num_classes = class_logits.shape[-1] - 1
    for label in stuff_classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"Stuff class {label} is out of range: the model has the classes 0 to {num_classes - 1}.")

    scores, labels = class_logits.float().softmax(dim=-1).max(dim=-1)
    kept = torch.nonzero((labels != num_classes) & (scores > threshold)).squeeze(1)
    num_kept = len(kept)
    if num_kept == 0:
        void = torch.full(output_size, -1, dtype=torch.int32, device=mask_logits.device)
        return {"segmentation": void, "segments_info": []}
    scores, labels = scores[kept], labels[kept]
    probabilities = _upsample(mask_logits[kept], padded_size, content_size, output_size).sigmoid()

    # Query of each pixel: the one that wins it, and `num_kept` where the winner's mask does not cover it.
    winner = (scores[:, None, None] * probabilities).argmax(dim=0)
    covered = probabilities >= mask_threshold
    query_map = torch.where(covered.gather(0, winner[None])[0], winner, num_kept)

    mask_area = covered.flatten(1).sum(dim=1)
    won_area = torch.bincount(winner.flatten(), minlength=num_kept)
    area = torch.bincount(query_map.flatten(), minlength=num_kept + 1)[:num_kept]
    # The only transfer from the device whose size depends on the queries.
    statistics = torch.stack([labels, mask_area, won_area, area]).tolist()

    segments: list[dict[str, Any]] = []
    segment_of_query = [-1] * (num_kept + 1)
    stuff_segments: dict[int, dict[str, Any]] = {}
    for query, (score, label, mask_pixels, won_pixels, pixels) in enumerate(zip(scores.tolist(), *statistics)):
        if pixels == 0 or won_pixels / mask_pixels < overlap_mask_area_threshold:
            continue
        segment = stuff_segments.get(label)
        if segment is None:
            segment = {"id": len(segments), "label_id": label, "score": score, "area": 0}
            segments.append(segment)
            if label in stuff_classes:
                stuff_segments[label] = segment
        segment["score"] = max(segment["score"], score)
        segment["area"] += pixels
        segment_of_query[query] = segment["id"]

    lookup = torch.tensor(segment_of_query, dtype=torch.int32, device=query_map.device)
    segmentation = lookup[query_map]
    for segment, box in zip(segments, _boxes(segmentation, len(segments))):
        segment["bbox"] = box
        segment["was_fused"] = segment["label_id"] in stuff_classes
    return {"segmentation": segmentation, "segments_info": segments}


def _upsample(
    mask_logits: Tensor, padded_size: tuple[int, int], content_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """`(n, h, w)` logits as `(n, *output_size)`: up to what the model saw, padding cut off, then to the output."""
    logits = F.interpolate(mask_logits[None].float(), size=padded_size, mode="bilinear")
    logits = logits[..., : content_size[0], : content_size[1]]
    return F.interpolate(logits, size=output_size, mode="bilinear")[0]


def _boxes(segmentation: Tensor, num_segments: int) -> list[list[int]]:
    """`[x, y, width, height]` of the segments 0 to `num_segments - 1`, each of which has a pixel."""
    ids = (segmentation + 1).long()
    rows, columns = (
        torch.zeros(num_segments + 1, length, dtype=torch.bool, device=ids.device) for length in segmentation.shape
    )
    y, x = (torch.arange(length, device=ids.device) for length in segmentation.shape)
    rows[ids, y[:, None]] = True
    columns[ids, x[None, :]] = True
    (top, height), (left, width) = (_extent(occupied[1:]) for occupied in (rows, columns))
    boxes: list[list[int]] = torch.stack([left, top, width, height], dim=1).tolist()
    return boxes


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First position and length of the span of True in each row of `(n, length)`."""
    first = occupied.int().argmax(dim=1)
    last = occupied.shape[1] - 1 - occupied.int().flip(1).argmax(dim=1)
    return first, last - first + 1

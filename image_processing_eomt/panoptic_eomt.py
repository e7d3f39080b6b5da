"""Panoptic segmentation: from a model's queries to segments that share no pixel."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .boxes_eomt import Occupancy, bounding_box
from .outputs_eomt import check_finite
from .sizes_eomt import View
from .upsampling_eomt import upsampled_masks


def segment_panoptic(
    mask_logits: Tensor,
    class_logits: Tensor,
    view: View,
    output_size: tuple[int, int],
    *,
    threshold: float,
    mask_threshold: float,
    overlap_mask_area_threshold: float,
    stuff_classes: Sequence[int] | None,
) -> dict[str, Any]:
    """
    Panoptic segmentation of one image: every pixel in at most one segment, one segment per stuff class.

    Each pixel goes to the query with the highest class score x mask probability, if that query's mask covers it.
    Queries that lose too much of their mask to others that way are dropped. Follows `to_per_pixel_preds_panoptic` in
    the reference implementation's `lightning_module.py`, but upsamples only the queries that can be kept, a band of
    rows at a time, and never waits for the device for the sake of a single query.

    Args:
        mask_logits: `(num_queries, height / 4, width / 4)`.
        class_logits: `(num_queries, num_classes + 1)`, the last one for "no object".
        view: what the model saw of the image, not split.
        output_size: `(height, width)` of the result in pixels.
        threshold: a query needs a class score above this.
        mask_threshold: a mask covers the pixels where its probability is at least this.
        overlap_mask_area_threshold: a query needs to win at least this share of the area of its mask.
        stuff_classes: classes whose queries are merged into one segment; None for none.

    Returns:
        `segmentation`: `(height, width)` int32, the segment's id or -1 where there is none; `segments_info`: one dict
        per segment, ids consecutive from 0 in the order of their first query: `id`, `label_id`, `score` (of a merged
        segment, its best query's), `area` in pixels, `bbox` as `[x, y, width, height]` in pixels and `was_fused`
        (whether its class is a stuff class).

    Raises:
        ValueError: a stuff class is not a class of the model, or the predictions are not finite.
    """
    stuff_classes = stuff_classes or ()
    num_classes = class_logits.shape[-1] - 1
    for label in stuff_classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"Stuff class {label} is out of range: the model has the classes 0 to {num_classes - 1}.")

    scores, labels = class_logits.float().softmax(dim=-1).max(dim=-1)
    kept = torch.nonzero((labels != num_classes) & (scores > threshold)).squeeze(1)
    num_kept = len(kept)
    device = mask_logits.device
    mask_logits = mask_logits[kept]
    check_finite(scores, mask_logits)
    if num_kept == 0:
        return {"segmentation": torch.full(output_size, -1, dtype=torch.int32, device=device), "segments_info": []}
    scores, labels = scores[kept], labels[kept]

    # Query of each pixel: the one that wins it, and `num_kept` where the winner's mask does not cover it.
    query_map = torch.empty(output_size, dtype=torch.int32, device=device)
    mask_area = torch.zeros(num_kept, dtype=torch.int64, device=device)
    won_area = torch.zeros(num_kept, dtype=torch.int64, device=device)
    occupancy = Occupancy(num_kept + 1, output_size, device)
    for rows, logits in upsampled_masks(mask_logits, view, output_size):
        probabilities = logits.sigmoid()
        covered = probabilities >= mask_threshold
        winner = (scores[:, None, None] * probabilities).max(dim=0).indices  # several times faster than argmax
        query_of_pixel = torch.where(covered.gather(0, winner[None])[0], winner, num_kept)
        mask_area += covered.flatten(1).sum(dim=1)
        won_area += torch.bincount(winner.flatten(), minlength=num_kept)
        occupancy.add(rows, query_of_pixel)
        query_map[rows] = query_of_pixel

    # The only transfer from the device whose size depends on the queries.
    statistics = torch.stack([labels, mask_area, won_area, *(values[:-1] for values in occupancy.areas_and_edges())])
    segments: list[dict[str, Any]] = []
    segment_of_query = [-1] * (num_kept + 1)
    stuff_segments: dict[int, dict[str, Any]] = {}
    for query, (score, numbers) in enumerate(zip(scores.tolist(), statistics.T.tolist())):
        label, mask_pixels, won_pixels, pixels, *edges = numbers
        if pixels == 0 or won_pixels / mask_pixels < overlap_mask_area_threshold:
            continue
        segment = stuff_segments.get(label)
        if segment is None:
            segment = {"id": len(segments), "label_id": label, "score": score, "area": 0, "edges": []}
            segments.append(segment)
            if label in stuff_classes:
                stuff_segments[label] = segment
        segment["score"] = max(segment["score"], score)
        segment["area"] += pixels
        segment["edges"].append(edges)
        segment_of_query[query] = segment["id"]

    for segment in segments:
        segment["bbox"] = bounding_box(segment.pop("edges"))
        segment["was_fused"] = segment["label_id"] in stuff_classes
    lookup = torch.tensor(segment_of_query, dtype=torch.int32, device=device)
    return {"segmentation": lookup[query_map], "segments_info": segments}

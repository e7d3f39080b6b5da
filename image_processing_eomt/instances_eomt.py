"""Instance segmentation: from a model's queries to scored masks that may overlap."""

import math
from typing import Any

import torch
from torch import Tensor

from .boxes_eomt import Occupancy, bounding_box
from .outputs_eomt import check_finite
from .run_lengths_eomt import encode_masks
from .sizes_eomt import View
from .upsampling_eomt import upsampled_masks


MASKS_IN_MEMORY = 16  # masks of the image's size at a time, where they are not what is returned


def segment_instances(
    mask_logits: Tensor,
    class_logits: Tensor,
    view: View,
    output_size: tuple[int, int],
    *,
    threshold: float,
    mask_threshold: float,
    top_k: int | None,
    return_binary_maps: bool,
    return_coco_annotation: bool,
) -> dict[str, Any]:
    """
    Instances in one image, best first. Their masks may overlap, and a query may stand for several classes.

    The best pairs of a query and a class are candidates. Their score is the class score x the mean probability of the
    mask where it covers something (`eval_step` in the reference implementation's `mask_classification_instance.py`).
    Since that cannot exceed the class score, pairs whose class score is too low are dropped before their masks are
    upsampled.

    Args:
        mask_logits: `(num_queries, height / 4, width / 4)`.
        class_logits: `(num_queries, num_classes + 1)`, the last one for "no object".
        view: what the model saw of the image, not split.
        output_size: `(height, width)` of the result in pixels.
        threshold: an instance needs a score of at least this; that of an empty mask is 0.
        mask_threshold: a mask covers the pixels where its probability is above this.
        top_k: at most this many pairs of query and class are candidates; None for all.
        return_binary_maps: return each instance's own mask.
        return_coco_annotation: return each instance's own mask, run-length encoded as COCO does.

    Returns:
        `segmentation`: `(height, width)` int32, the id of the best instance at each pixel or -1 where there is none;
        with `return_binary_maps`, `(num_instances, height, width)` bool; with `return_coco_annotation` a list of
        `{"size": [height, width], "counts": str}`. `segments_info`: one dict per instance, best first: `id` (from 0),
        `label_id`, `score`, `area` of the mask in pixels, its `bbox` as `[x, y, width, height]` in pixels and
        `was_fused` (False).

    Raises:
        ValueError: binary maps and COCO annotations are both asked for, or the predictions are not finite.
    """
    if return_binary_maps and return_coco_annotation:
        raise ValueError("return_binary_maps and return_coco_annotation exclude each other: choose one.")
    device = mask_logits.device
    class_scores = class_logits.float().softmax(dim=-1)[:, :-1]
    num_classes = class_scores.shape[1]
    candidates = class_scores.numel() if top_k is None else min(top_k, class_scores.numel())
    scores, pairs = class_scores.flatten().topk(candidates)
    possible = scores >= threshold
    scores, pairs = scores[possible], pairs[possible]
    labels = pairs % num_classes
    queries, query_of_pair = torch.unique(pairs // num_classes, return_inverse=True)  # one mask per query
    mask_logits = mask_logits[queries]
    check_finite(class_scores, mask_logits)
    logit_threshold = _logit(mask_threshold)

    probability_sum = torch.zeros(len(queries), device=device)
    occupancy = Occupancy(len(queries), output_size, device)
    for rows, logits in upsampled_masks(mask_logits, view, output_size):
        covered = logits > logit_threshold
        probability_sum += (logits.sigmoid_() * covered).flatten(1).sum(dim=1)
        occupancy.add_masks(rows, covered)
    area, *edges = occupancy.areas_and_edges()
    scores = scores * (probability_sum / area.clamp(min=1))[query_of_pair]
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= threshold]
    query_of_pair = query_of_pair[order]

    numbers = torch.stack([labels[order], *(values[query_of_pair] for values in (area, *edges))])
    segments = [
        {
            "id": index,
            "label_id": label,
            "score": score,
            "area": pixels,
            "bbox": bounding_box([box]),
            "was_fused": False,
        }
        for index, (score, (label, pixels, *box)) in enumerate(zip(scores[order].tolist(), numbers.T.tolist()))
    ]

    def masks(chosen: Tensor) -> Tensor:
        """`(n, height, width)` bool of some pairs' queries."""
        result = torch.empty(len(chosen), *output_size, dtype=torch.bool, device=device)
        for rows, logits in upsampled_masks(mask_logits[chosen], view, output_size):
            torch.gt(logits, logit_threshold, out=result[:, rows])
        return result

    segmentation: Any
    if return_binary_maps:
        segmentation = masks(query_of_pair)
    elif return_coco_annotation:
        segmentation = [rle for chunk in query_of_pair.split(MASKS_IN_MEMORY) for rle in encode_masks(masks(chunk))]
    else:
        segmentation = torch.full(output_size, -1, dtype=torch.int32, device=device)
        for rows, logits in upsampled_masks(mask_logits[query_of_pair], view, output_size) if segments else ():
            # max gives the first, which is the best, of those that cover a pixel
            covered, best = (logits > logit_threshold).max(dim=0)
            segmentation[rows] = torch.where(covered, best, -1)
    return {"segmentation": segmentation, "segments_info": segments}


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))

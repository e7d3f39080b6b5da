"""Semantic segmentation: from a model's queries to one class per pixel."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput

from .outputs_eomt import check_finite
from .sizes_eomt import View
from .upsampling_eomt import bands, interpolate_rows, rows_of


def segment_semantic(
    mask_logits: Tensor | Sequence[Tensor],
    class_logits: Tensor,
    view: View,
    output_size: tuple[int, int],
    *,
    return_segmentation_scores: bool,
) -> Tensor | SemanticSegmentationPostProcessorOutput:
    """
    Semantic segmentation of one image: the class with the highest score at every pixel.

    The score of a class is the sum over queries of its class score x mask probability, averaged where windows overlap
    (`to_per_pixel_logits_semantic` and `revert_window_logits_semantic` in the reference implementation's
    `lightning_module.py`). A band of rows is finished at a time, so that the scores are never in memory as a whole
    unless they are asked for.

    Args:
        mask_logits: `(num_windows, num_queries, height / 4, width / 4)`, or a tensor for each window.
        class_logits: `(num_windows, num_queries, num_classes + 1)`, the last one for "no object".
        view: what the model saw of the image.
        output_size: `(height, width)` of the result in pixels.
        return_segmentation_scores: whether to return the scores too.

    Returns:
        `(height, width)` int64 classes; with scores an object of `segmentation` and `segmentation_scores`,
        `(num_classes, height, width)` float32.

    Raises:
        ValueError: the predictions are not finite.
    """
    device = class_logits.device
    # (num_windows, num_classes, num_queries)
    class_scores = class_logits.float().softmax(dim=-1)[..., :-1].transpose(1, 2).contiguous()
    num_queries, num_classes = class_scores.shape[2], class_scores.shape[1]
    for logits, classes in zip(mask_logits, class_scores):
        check_finite(classes, logits)
    (input_height, input_width), (content_height, content_width) = view.input_size, view.content_size

    def content_scores(rows: Tensor) -> Tensor:
        """Rows of the scores at the size of the content, `(num_classes, num_rows, content_width)`."""
        scores = torch.zeros(num_classes, len(rows), content_width, device=device)
        counts = torch.zeros(len(rows), content_width, device=device)
        for logits, classes, (top, left) in zip(mask_logits, class_scores, view.windows):
            inside = torch.searchsorted(rows, torch.tensor([top, top + input_height])).tolist()
            if inside[0] == inside[1]:
                continue
            window_rows = rows[slice(*inside)] - top
            masks = interpolate_rows(rows_of(logits), logits.shape[1], window_rows, view.input_size).sigmoid_()
            place = (..., slice(*inside), slice(left, left + input_width))
            target = scores[place]
            masks = masks[..., : target.shape[-1]]
            target += (classes @ masks.reshape(num_queries, -1)).view_as(target)
            counts[place] += 1
        return scores.div_(counts) if len(view.windows) > 1 else scores

    segmentation = torch.empty(output_size, dtype=torch.int64, device=device)
    all_scores = torch.empty(num_classes, *output_size, device=device) if return_segmentation_scores else None
    numel_per_row = max(
        num_queries * input_width, num_classes * max(content_width, output_size[1])
    )  # of the largest of the arrays that are in memory together
    for band, rows in bands(output_size[0], numel_per_row, device):
        scores = interpolate_rows(content_scores, content_height, rows, output_size)
        segmentation[band] = scores.max(dim=0).indices
        if all_scores is not None:
            all_scores[:, band] = scores
    if all_scores is None:
        return segmentation
    data = {"segmentation": segmentation, "segmentation_scores": all_scores}
    return SemanticSegmentationPostProcessorOutput(data)

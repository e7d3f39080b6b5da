"""From a model's queries to segments: panoptic, instance and semantic segmentation."""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput

from .geometry_eomt import (
    View,
    encode_masks,
    interpolate_rows,
    match_views,
    select_rows,
    split_rows,
    upsample_masks,
)
from .settings_eomt import STORED, TASKS, check_finite, check_names, check_outputs, check_settings, check_target_sizes


VOID = -1
"""In a map of segment ids or label ids: no segment, no class."""
MASKS_IN_MEMORY = 16  # masks of the image's size at a time, where they are not part of the result


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
        view: the model's view of the image, not split.
        output_size: `(height, width)` of the result in pixels.
        threshold: a query needs a class score above this.
        mask_threshold: a mask covers the pixels where its probability is at least this.
        overlap_mask_area_threshold: a query needs to win at least this share of the area of its mask.
        stuff_classes: classes whose queries are merged into one segment; None for none.

    Returns:
        `segmentation`: `(height, width)` int32, the segment's id or `VOID`; `segments_info`: one dict per segment, ids
        consecutive from 0 in the order of their first query: `id`, `label_id`, `score` (of a merged segment, its best
        query's), `area` in pixels, `bbox` as `[x, y, width, height]` in pixels and `was_fused` (whether its class is a
        stuff class).

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
        return {"segmentation": torch.full(output_size, VOID, dtype=torch.int32, device=device), "segments_info": []}
    scores, labels = scores[kept], labels[kept]

    # Query of each pixel: the one that wins it, and `num_kept` where the winner's mask does not cover it.
    query_map = torch.empty(output_size, dtype=torch.int32, device=device)
    mask_area, won_area = torch.zeros(2, num_kept, dtype=torch.int64, device=device)
    occupancy = Occupancy(num_kept + 1, output_size, device)
    for rows, logits in upsample_masks(mask_logits, view, output_size):
        probabilities = logits.sigmoid()
        covered = probabilities >= mask_threshold
        winner = (scores[:, None, None] * probabilities).max(dim=0).indices  # several times faster than argmax
        query_of_pixel = torch.where(covered.gather(0, winner[None])[0], winner, num_kept)
        mask_area += covered.flatten(1).sum(dim=1)
        won_area += torch.bincount(winner.flatten(), minlength=num_kept)
        occupancy.add_map(rows, query_of_pixel)
        query_map[rows] = query_of_pixel

    # The only transfer from the device whose size depends on the queries.
    statistics = torch.stack([labels, mask_area, won_area, *(values[:-1] for values in occupancy.areas_and_edges())])
    segments: list[dict[str, Any]] = []
    segment_of_query = [VOID] * (num_kept + 1)
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
    mask inside it (`eval_step` in the reference implementation's `mask_classification_instance.py`). Since that cannot
    exceed the class score, pairs whose class score is too low are dropped before their masks are upsampled.

    Args:
        mask_logits: `(num_queries, height / 4, width / 4)`.
        class_logits: `(num_queries, num_classes + 1)`, the last one for "no object".
        view: the model's view of the image, not split.
        output_size: `(height, width)` of the result in pixels.
        threshold: an instance needs a score of at least this; that of an empty mask is 0.
        mask_threshold: a mask covers the pixels where its probability is above this.
        top_k: at most this many pairs of query and class are candidates; None for all.
        return_binary_maps: return each instance's own mask.
        return_coco_annotation: return each instance's own mask, run-length encoded as COCO does.

    Returns:
        `segmentation`: `(height, width)` int32, the id of the best instance at each pixel or `VOID`; with
        `return_binary_maps`, `(num_instances, height, width)` bool; with `return_coco_annotation` a list of
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
    mask_threshold = torch.tensor(mask_threshold, dtype=torch.float64).logit().item()

    probability_sum = torch.zeros(len(queries), device=device)
    occupancy = Occupancy(len(queries), output_size, device)
    for rows, logits in upsample_masks(mask_logits, view, output_size):
        covered = logits > mask_threshold
        probability_sum += (logits.sigmoid_() * covered).flatten(1).sum(dim=1)
        occupancy.add_masks(rows, covered)
    area, *edges = occupancy.areas_and_edges()
    scores = scores * (probability_sum / area.clamp(min=1))[query_of_pair]
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= threshold]
    query_of_pair = query_of_pair[order]

    numbers = torch.stack([labels[order], *(values[query_of_pair] for values in (area, *edges))]).T.tolist()
    segments = [
        {"id": id_, "label_id": label, "score": score, "area": area, "bbox": bounding_box([box]), "was_fused": False}
        for id_, (score, (label, area, *box)) in enumerate(zip(scores[order].tolist(), numbers))
    ]

    def compute_masks(chosen: Tensor) -> Tensor:
        """Returns the masks of some pairs' queries, `(n, height, width)` bool."""
        masks = torch.empty(len(chosen), *output_size, dtype=torch.bool, device=device)
        for rows, logits in upsample_masks(mask_logits[chosen], view, output_size):
            torch.gt(logits, mask_threshold, out=masks[:, rows])
        return masks

    segmentation: Any
    if return_binary_maps:
        segmentation = compute_masks(query_of_pair)
    elif return_coco_annotation:
        chunks = query_of_pair.split(MASKS_IN_MEMORY)
        segmentation = [rle for chunk in chunks for rle in encode_masks(compute_masks(chunk))]
    else:
        segmentation = torch.full(output_size, VOID, dtype=torch.int32, device=device)
        for rows, logits in upsample_masks(mask_logits[query_of_pair], view, output_size) if segments else ():
            # max gives the first, which is the best, of those that cover a pixel
            covered, best = (logits > mask_threshold).max(dim=0)
            segmentation[rows] = torch.where(covered, best, VOID)
    return {"segmentation": segmentation, "segments_info": segments}


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
        view: the model's view of the image, which may be split.
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
        """Returns rows of the scores at the size of the content, `(num_classes, num_rows, content_width)`."""
        scores = torch.zeros(num_classes, len(rows), content_width, device=device)
        counts = torch.zeros(len(rows), content_width, device=device)
        for logits, classes, (top, left) in zip(mask_logits, class_scores, view.windows):
            inside = torch.searchsorted(rows, torch.tensor([top, top + input_height])).tolist()
            if inside[0] == inside[1]:
                continue
            window_rows = rows[slice(*inside)] - top
            masks = interpolate_rows(select_rows(logits), logits.shape[1], window_rows, view.input_size).sigmoid_()
            place = (..., slice(*inside), slice(left, left + input_width))
            target = scores[place]
            masks = masks[..., : target.shape[-1]]
            target += (classes @ masks.reshape(num_queries, -1)).view_as(target)
            counts[place] += 1
        return scores.div_(counts) if len(view.windows) > 1 else scores

    segmentation = torch.empty(output_size, dtype=torch.int64, device=device)
    all_scores = torch.empty(num_classes, *output_size, device=device) if return_segmentation_scores else None
    # of the largest of the arrays that are in memory together
    numel_per_row = max(num_queries * input_width, num_classes * max(content_width, output_size[1]))
    for band, rows in split_rows(output_size[0], numel_per_row, device):
        scores = interpolate_rows(content_scores, content_height, rows, output_size)
        segmentation[band] = scores.max(dim=0).indices
        if all_scores is not None:
            all_scores[:, band] = scores
    if all_scores is None:
        return segmentation
    data = {"segmentation": segmentation, "segmentation_scores": all_scores}
    return SemanticSegmentationPostProcessorOutput(data)


class Occupancy:
    """
    The number of pixels in each row and in each column of each of several regions, counted a band of rows at a time.

    Args:
        num_regions: number of regions.
        size: `(height, width)` of the image in pixels.
    """

    def __init__(self, num_regions: int, size: tuple[int, int], device: torch.device):
        self.rows, self.columns = (
            torch.zeros(num_regions, length, dtype=torch.int64, device=device) for length in size
        )

    def add_map(self, rows: slice, regions: Tensor) -> None:
        """Counts rows of a map of regions: `(num_rows, width)` int64, the region of each pixel."""
        num_regions = len(self.rows)
        height, width = regions.shape
        y, x = torch.arange(height, device=regions.device), torch.arange(width, device=regions.device)
        for counts, cells in (
            (self.rows[:, rows], regions * height + y[:, None]),
            (self.columns, regions * width + x),
        ):
            counts += torch.bincount(cells.flatten(), minlength=num_regions * counts.shape[1]).view(num_regions, -1)

    def add_masks(self, rows: slice, masks: Tensor) -> None:
        """Counts rows of masks that may overlap: `(num_regions, num_rows, width)` bool."""
        self.rows[:, rows] += masks.sum(dim=2)
        self.columns += masks.sum(dim=1)

    def areas_and_edges(self) -> tuple[Tensor, ...]:
        """Returns `(num_regions,)` int64 each: area, first column and row, last column and row, in pixels."""
        edges = []
        for counts in (self.columns, self.rows):
            occupied = (counts > 0).int()
            last = occupied.shape[1] - 1 - occupied.flip(1).argmax(dim=1)
            edges.append((occupied.argmax(dim=1), torch.where(occupied.any(dim=1), last, -1)))
        (left, right), (top, bottom) = edges
        return self.rows.sum(dim=1), left, top, right, bottom


def bounding_box(edges: Sequence[Sequence[int]]) -> list[int]:
    """Returns `[x, y, width, height]` around regions given by their first column and row and last column and row."""
    left, top, right, bottom = zip(*edges)
    x, y = min(left), min(top)
    return [x, y, max(right) - x + 1, max(bottom) - y + 1]


class TaskMethod:
    """
    The post-processing method of image processors for a task; its arguments are the task's settings.

    A processor has the method unless its own task comes earlier in `TASKS`: Transformers' own pipeline, which takes
    the first that it finds, then takes that of the processor's task.

    Args:
        task: the task's name.
        segment: segments one image, given its logits, its `View`, the size of its result and the task's settings.
    """

    DOCUMENTATION = """
    Segments the images of a batch, each as `{segment}` does, which describes the settings and the results.

    Args:
        outputs: the model's output: `masks_queries_logits` `(batch, num_queries, height / 4, width / 4)`,
            `class_queries_logits` `(batch, num_queries, num_classes + 1)` and, of split images, `patch_offsets`.
        target_sizes: `(height, width)` in pixels of each original image, as a list or a `(batch, 2)` tensor. None
            leaves the results at the size the model saw, padding included, and is not possible for split images.
        {settings}: the stored settings by default.
        size: the `size` the images were pre-processed with, if not the stored one.

    Returns:
        A list with the result of each image.

    Raises:
        ValueError: `target_sizes` does not fit the batch or is missing, an argument is unknown or out of range, or the
            outputs are not a model's or not finite.
    """

    def __init__(self, task: str, segment: Callable[..., Any]):
        self.task, self.segment = TASKS[task], segment
        stored, forms = ([name for name in self.task.settings if (name in STORED) == is_in] for is_in in (True, False))
        names = ["target_sizes", *stored, "size", *forms]
        if self.task.has_segments and "overlap_mask_area_threshold" not in names:
            names.append("overlap_mask_area_threshold")  # not used; Transformers' own pipeline passes it to any method
        kind = Parameter.POSITIONAL_OR_KEYWORD
        optional = [Parameter(name, kind, default=None) for name in names]
        self.signature = Signature([Parameter("self", kind), Parameter("outputs", kind), *optional])

        def method(*args: Any, **kwargs: Any) -> list[Any]:
            return self.run(*args, **kwargs)

        method.__name__ = self.task.method
        method.__signature__ = self.signature  # type: ignore[attr-defined]
        method.__doc__ = self.DOCUMENTATION.format(segment=segment.__name__, settings=", ".join(self.task.settings))
        self.method = method

    def __get__(self, processor: Any, owner: type) -> Any:
        if processor is None:
            return self.method
        allowed = list(TASKS)[: list(TASKS).index(self.task.name) + 1]
        if processor.task not in allowed:
            raise AttributeError(
                f"{self.task.method} is not for task={processor.task!r}: set the processor's task to "
                f"{' or '.join(map(repr, allowed))}, or call post_process(..., task=...)."
            )
        return MethodType(self.method, processor)

    def run(self, processor: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Checks the arguments and segments the images."""
        check_names(kwargs, [*self.signature.parameters][1:], self.task.method)
        arguments = check_settings(self.signature.bind(processor, *args, **kwargs).arguments)
        settings = {}
        for name, setting in self.task.settings.items():
            settings[name] = arguments.get(name)
            if settings[name] is None:  # the stored one may have been set since it was checked
                settings.update(check_settings({name: getattr(processor, name, setting.default)}))
            if settings[name] is None and not setting.may_be_none:
                raise ValueError(f"The processor's {name} is None: set it to {setting.rule.expected}.")
        outputs, sizes = arguments["outputs"], arguments.get("target_sizes")
        check_outputs(outputs)
        views = match_views(
            outputs,
            None if sizes is None else check_target_sizes(sizes),
            processor.size if arguments.get("size") is None else arguments["size"],
            **{name: bool(getattr(processor, name)) for name in ("do_resize", "do_pad", "do_split_image")},
        )
        if self.task.has_segments and any(len(view.windows) > 1 for view, _ in views):
            raise ValueError(
                "Queries of different windows are different objects, so the windows of a split image cannot be put "
                "together: pre-process with do_split_image=False and do_pad=True."
            )
        results, first = [], 0
        for view, output_size in views:
            inputs: Any = first if self.task.has_segments else slice(first, first + len(view.windows))
            logits = outputs.masks_queries_logits[inputs], outputs.class_queries_logits[inputs]
            results.append(self.segment(*logits, view, output_size, **settings))
            first += len(view.windows)
        return results


class EomtPostProcessing:
    """The post-processing methods of an image processor."""

    task: Any

    post_process_panoptic_segmentation = TaskMethod("panoptic", segment_panoptic)
    post_process_instance_segmentation = TaskMethod("instance", segment_instances)
    post_process_semantic_segmentation = TaskMethod("semantic", segment_semantic)

    def post_process(
        self, outputs: Any, target_sizes: Any = None, task: str | None = None, **kwargs: Any
    ) -> list[Any]:
        """
        Calls the post-processing method of a task, by default the stored one.

        Raises:
            ValueError: there is no such task, and what the method raises.
        """
        name = check_settings({"task": self.task if task is None else task})["task"]
        # from the class, which has the methods of all tasks
        method: Callable[..., list[Any]] = getattr(type(self), TASKS[name].method)
        return method(self, outputs, target_sizes, **kwargs)

"""
What stands before and behind a graph of EoMT, in NumPy alone: an image becomes pixel values, logits become segments.

Same pixel values and same segments as the project's image processor, settings read from the same two files. Exported
folders carry this file as `eomt_decoder.py`. Sizes are `(height, width)` in pixels.

Resizing has the fixed-point arithmetic of torchvision where it resizes bytes (bicubic everywhere; bilinear on
processors with AVX2 and on 64-bit ARM), or that of Pillow. On other processors torchvision resizes bilinearly in
floating point, which makes up to a fifth of the values one level higher or lower.

Nothing is upsampled that cannot matter. An upsampled logit lies between the logits around it, so the result is made a
tile at a time, and in each tile of those queries only that can win there or whose masks end there.
"""

import colorsys
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


VOID = -1  # in a map of segment ids: no segment
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers of filters
PILLOW_PRECISION = 22  # bits behind the point of Pillow's weights
MAX_SPLIT_PIXELS = 2**25  # of an image that is cut into windows, once it is resized
TILE = 64  # pixels of a side, of what is upsampled at a time
MARGIN = 1e-5  # by which bounds are widened, relative: more than rounding amounts to
GOLDEN_RATIO = 0.618033988749895


@dataclass
class Settings:
    """
    The settings of an image processor, as in its `preprocessor_config.json`, and the names of a model's classes.

    pillow: whether images are resized with Pillow's arithmetic rather than with torchvision's. Files do not say it:
        which of the two an image processor takes is decided where it is loaded, torchvision by default.
    """

    size: Any = 640
    task: str | None = None
    do_resize: bool = True
    do_split_image: bool | None = None
    do_pad: bool | None = None
    do_rescale: bool = True
    do_normalize: bool = True
    resample: int = BILINEAR
    rescale_factor: float = 1 / 255
    image_mean: Sequence[float] | float = (0.485, 0.456, 0.406)
    image_std: Sequence[float] | float = (0.229, 0.224, 0.225)
    threshold: float = 0.8
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.8
    stuff_classes: Sequence[int] | None = None
    top_k: int | None = 100
    pillow: bool = False
    id2label: Mapping[int, str] | None = None

    def __post_init__(self) -> None:
        self.size = parse_size(self.size)
        if self.task is None:
            self.task = "semantic" if self.do_split_image else "panoptic"
        if self.task not in ("panoptic", "instance", "semantic"):
            raise ValueError(f"task must be 'panoptic', 'instance' or 'semantic', got {self.task!r}.")
        is_semantic = self.task == "semantic"
        if self.do_split_image is None:
            self.do_split_image = is_semantic
        if self.do_pad is None:
            self.do_pad = not self.do_split_image
        if self.do_split_image and not is_semantic:  # the queries stand for things in the whole image
            self.do_split_image, self.do_pad = False, True
        if self.resample not in (BILINEAR, BICUBIC):
            raise ValueError(f"resample must be 2 (bilinear) or 3 (bicubic), got {self.resample!r}.")

    @classmethod
    def read(cls, folder: Any) -> "Settings":
        """
        Reads `preprocessor_config.json` and `config.json` of a folder.

        Raises:
            OSError: one of the two cannot be read.
            ValueError: one holds no settings, or a setting that images cannot be processed with.
        """
        stored, config = (_read_json(Path(folder, name)) for name in ("preprocessor_config.json", "config.json"))
        # None stands for the default, except that all pairs are candidates.
        known = {field.name for field in fields(cls)} - {"pillow", "id2label"}
        given = {name: stored[name] for name in known & stored.keys() if stored[name] is not None or name == "top_k"}
        id2label = {int(label): str(name) for label, name in (config.get("id2label") or {}).items()}
        return cls(**given, id2label=id2label)

    def name(self, label_id: int) -> str:
        """Returns the name of a class, as Transformers makes one up where there is none."""
        return (self.id2label or {}).get(label_id, f"LABEL_{label_id}")


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object of settings, got {content!r:.100}.")
    return content


class View(NamedTuple):
    """
    The part of an image that the model sees in each input.

    content_size: the image after resizing.
    input_size: one input of the model, in which the image is padded or of which it fills several.
    windows: `(top, left)` within the content of each input that the image becomes.
    """

    content_size: tuple[int, int]
    input_size: tuple[int, int]
    windows: tuple[tuple[int, int], ...] = ((0, 0),)


def parse_size(size: Any) -> tuple[int, int]:
    """Returns the size of what the model sees from an image processor's `size`, in each of its forms."""
    edges = size
    if isinstance(size, Mapping):
        known = {name: edge for name, edge in size.items() if edge is not None}
        for names in (("height", "width"), ("shortest_edge", "longest_edge"), ("shortest_edge",)):
            if known.keys() == set(names):
                edges = [known[name] for name in names]
    edges = [edges] if isinstance(edges, int) else edges
    if not isinstance(edges, Sequence) or len(edges) not in (1, 2) or not all(type(edge) is int for edge in edges):
        raise ValueError(f"size must be an int, (height, width) or a dict of one or two edges, got {size!r}.")
    return edges[0], edges[-1]


def compute_view(image_size: tuple[int, int], settings: Settings) -> View:
    """
    Returns how an image of a size enters the model.

    Raises:
        ValueError: the image has no pixel, or does not fit or cannot be split with these settings.
    """
    target = settings.size
    if min(image_size) < 1:
        raise ValueError(f"An image of {image_size} (height, width) has no pixel.")
    content = image_size
    if settings.do_resize:
        choose = max if settings.do_split_image else min  # cover the target, or fit in it
        scale = choose(target[0] / image_size[0], target[1] / image_size[1])
        content = (max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale)))
    is_higher, is_wider = content[0] > target[0], content[1] > target[1]
    if not settings.do_split_image:
        if settings.do_pad and (is_higher or is_wider):
            raise ValueError(f"An image of {image_size} does not fit in {target} (height, width): set do_resize.")
        return View(content, target if settings.do_pad else content)
    is_smaller = content[0] < target[0] or content[1] < target[1]
    if (is_higher and is_wider) or (is_smaller and not settings.do_pad):
        raise ValueError(f"An image of {image_size} does not fill windows of {target} (height, width): set do_resize.")
    if (is_higher or is_wider) and math.prod(content) > MAX_SPLIT_PIXELS:
        raise ValueError(
            f"An image of {image_size} (height, width) would become {content}, and one that is cut into windows may "
            f"become at most {MAX_SPLIT_PIXELS:,} pixels: one side is too long for the other. Cut it first."
        )
    tops, lefts = (_place_windows(length, window) for length, window in zip(content, target))
    return View(content, target, tuple((top, left) for top in tops for left in lefts))


def _place_windows(length: int, window: int) -> list[int]:
    """Returns the starts of windows that cover `length` pixels: as few as possible, evenly overlapping."""
    num_gaps = max(0, math.ceil(length / window) - 1)
    return [0, *(index * (length - window) // num_gaps for index in range(1, num_gaps + 1))]


def preprocess(image: np.ndarray, settings: Settings) -> Iterator[np.ndarray]:
    """
    Yields the inputs that an image makes, `(1, 3, height, width)` float32, in the order of its view's windows.

    Args:
        image: `(height, width, 3)` uint8, RGB, upright.

    Raises:
        ValueError: the image is not such an array, or does not fit or cannot be split with these settings.
    """
    view = compute_view(check_image(image), settings)
    content = resize(image, view.content_size, settings.resample, settings.pillow)
    levels = np.arange(256, dtype=np.float32)
    levels = levels / np.float32(1 / settings.rescale_factor) if settings.do_rescale else levels
    tables = np.broadcast_to(levels, (3, 256))
    if settings.do_normalize:
        mean, std = (
            np.asarray(values, dtype=np.float32).reshape(-1, 1) for values in (settings.image_mean, settings.image_std)
        )
        tables = (tables - mean) / std
    for top, left in view.windows:
        window = pad(content[top : top + view.input_size[0], left : left + view.input_size[1]], view.input_size)
        yield np.stack([table[window[..., channel]] for channel, table in enumerate(tables)])[None]


def check_image(image: np.ndarray) -> tuple[int, int]:
    """Returns the `(height, width)` of an image. Raises a `ValueError` if it is not `(height, width, 3)` uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"An image must be (height, width, 3) uint8, got {image.shape} of {image.dtype}.")
    return image.shape[0], image.shape[1]


def pad(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pads `(height, width, 3)` with black at the bottom and on the right."""
    if image.shape[:2] == size:
        return image
    padded = np.zeros((*size, image.shape[2]), dtype=image.dtype)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def resize_nearest(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes `(..., height, width)` to the nearest pixel."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)
        for old, new in zip(label_map.shape[-2:], size)
    )
    return label_map if label_map.shape[-2:] == size else label_map[..., rows, :][..., columns]


def resize(image: np.ndarray, size: tuple[int, int], resample: int, pillow: bool = False) -> np.ndarray:
    """
    Resizes with antialiasing in two passes with bytes between, the width first.

    Args:
        image: `(height, width, channels)` uint8.
        size: `(height, width)` of the result.
        resample: `BILINEAR` or `BICUBIC`.
        pillow: whether to do it as Pillow does, with weights of 22 bits and, as from version 13 on, the height first
            where it loses more than twice as many pixels as the width; else as torchvision, with weights of 16 bits.
    """
    (height, width), precision = size, PILLOW_PRECISION if pillow else None
    is_height_first = pillow and len(image) - height > max(0, 2 * (image.shape[1] - width))
    if is_height_first:
        image = _resize_rows(image, height, resample, precision)
    if image.shape[1] != width:
        narrowed = np.empty((len(image), width, image.shape[2]), dtype=np.uint8)
        for top in range(0, len(image), TILE):
            columns = np.ascontiguousarray(image[top : top + TILE].transpose(1, 2, 0))
            narrowed[top : top + TILE] = _resize_rows(columns, width, resample, precision).transpose(2, 0, 1)
        image = narrowed
    return image if len(image) == height else _resize_rows(image, height, resample, precision)


def _resize_rows(image: np.ndarray, num_rows: int, resample: int, precision: int | None) -> np.ndarray:
    """Resizes the first dimension of an array of uint8: by matrix products, each of a few rows and what they span."""
    starts, weights = _compute_weights(len(image), num_rows, resample, precision)
    taps = np.arange(weights.shape[1])
    result = np.empty((num_rows, *image.shape[1:]), dtype=np.uint8)
    source, target = image.reshape(len(image), -1), result.reshape(num_rows, -1)
    for first in range(0, num_rows, 16):
        rows = starts[first : first + 16, None] - starts[first]
        matrix = np.zeros((len(rows), int(rows[-1, 0]) + len(taps)))
        np.put_along_axis(matrix, rows + taps, weights[first : first + 16], axis=1)
        span = source[starts[first] : starts[first] + matrix.shape[1]].astype(np.float64)
        values = matrix[:, : len(span)] @ span  # exact: fixed-point numbers of 30 bits
        values += 0.5
        target[first : first + 16] = np.clip(values, 0, 255, out=values)
    return result


def _compute_weights(
    length: int, new_length: int, resample: int, precision: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns where the pixels begin that make each new pixel, and their weights.

    Returns:
        `(new_length,)` int64 and `(new_length, num_taps)` float64, multiples of 2^-precision.
    """
    scale = length / new_length
    stretch = max(scale, 1.0)
    support = stretch * (1 if resample == BILINEAR else 2)
    center = scale * (np.arange(new_length) + 0.5)
    start = np.maximum((center - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((center + support + 0.5).astype(np.int64), length)
    taps = np.arange((stop - start).max())
    distance = np.abs((taps + start[:, None] - center[:, None] + 0.5) * (1 / stretch))
    if resample == BILINEAR:
        weights = np.maximum(1 - distance, 0)
    else:  # Keys' cubic convolution with a = -0.5
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights[taps >= (stop - start)[:, None]] = 0
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # summed in order, as compiled code does
    if precision is None:
        precision = next(p for p in range(23) if p == 22 or int(0.5 + weights.max() * 2 ** (p + 1)) >= 2**15)
    return start, np.trunc(weights * 2**precision + np.copysign(0.5, weights)) / 2**precision


class Upsampling:
    """
    Bilinear interpolation of one size to another, bit for bit as PyTorch does it on processors with fused
    multiply-add: products in float64 are exact, so one rounding at the end is that of the fused instruction.

    Args:
        size: `(height, width)` of what is interpolated.
        new_size: `(height, width)` of the result.
    """

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int]):
        self.size, self.new_size = size, new_size
        (height, width), (new_height, new_width) = size, new_size
        rows = np.maximum((np.arange(new_height) + 0.5) * (height / new_height) - 0.5, 0)
        scale = np.float32(width) / np.float32(new_width)
        columns = scale * (np.arange(new_width, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
        columns = np.maximum(columns, np.float32(0))
        self.above, self.left = rows.astype(np.int64), columns.astype(np.int64)
        self.below = np.minimum(self.above + 1, height - 1)
        self.right = np.minimum(self.left + 1, width - 1)
        self.row_weight = (rows - self.above).astype(np.float32)[:, None]
        self.column_weight = (columns - self.left.astype(np.float32)).clip(0, 1)

    def span(self, tile: tuple[slice, slice]) -> tuple[slice, slice]:
        """Returns the rows and columns that a tile of the result is made of."""
        rows, columns = tile
        vertical = slice(int(self.above[rows.start]), int(self.below[rows.stop - 1]) + 1)
        horizontal = slice(int(self.left[columns.start]), int(self.right[columns.stop - 1]) + 1)
        return (
            vertical if self.size[0] != self.new_size[0] else rows,
            horizontal if self.size[1] != self.new_size[1] else columns,
        )

    def interpolate(self, values: np.ndarray, tile: tuple[slice, slice]) -> np.ndarray:
        """Returns a tile of the result, `(channels, rows, columns)` float32, from the values in its span."""
        (rows, columns), (top, left) = tile, (axis.start for axis in self.span(tile))
        if self.size[0] != self.new_size[0]:
            above = np.take(values, self.above[rows] - top, axis=1)
            below = np.take(values, self.below[rows] - top, axis=1)
            weight = self.row_weight[rows]
            is_nearer_below = weight >= 0.5
            base = np.where(is_nearer_below, below, above)
            exact = (below - above).astype(np.float64)
            exact *= np.where(is_nearer_below, weight - np.float32(1), weight)
            exact += base
            values = exact.astype(np.float32)
        if self.size[1] != self.new_size[1]:
            weight = self.column_weight[columns]
            exact = np.take(values, self.left[columns] - left, axis=2).astype(np.float64)
            exact *= np.float32(1) - weight
            exact += np.take(values, self.right[columns] - left, axis=2) * weight
            values = exact.astype(np.float32)
        return values


class Masks:
    """
    The masks of an image's queries at the size of the image, a tile at a time: upsampled to the size of the model's
    input, padding cut off, then to the image's size.

    tiles: the rows and columns of tiles that cover the image.
    low, high: `(num_tiles, num_masks)`, between which the logits of each tile are.

    Args:
        logits: `(num_masks, height, width)` float32.
        view: the model's view of the image, not split.
        size: `(height, width)` of the image.
    """

    def __init__(self, logits: np.ndarray, view: View, size: tuple[int, int]):
        self.logits, self.size = logits, size
        self.to_input = Upsampling(logits.shape[1:], view.input_size)
        self.to_image = Upsampling(view.content_size, size)
        self.tiles = list(split(size, TILE * math.ceil(max(size) / 1024)))
        self.low, self.high = np.empty((2, len(self.tiles), len(logits)), dtype=np.float32)
        for index, tile in enumerate(self.tiles):
            around = logits[(..., *self.to_input.span(self.to_image.span(tile)))]
            self.low[index], self.high[index] = around.min(axis=(1, 2)), around.max(axis=(1, 2))
        self.low -= MARGIN * np.abs(self.low)
        self.high += MARGIN * np.abs(self.high)

    def upsample(self, queries: Any, tile: tuple[slice, slice]) -> np.ndarray:
        """Returns the logits of some queries in a tile, `(num_queries, rows, columns)`."""
        content = self.to_image.span(tile)
        logits = self.logits[(..., *self.to_input.span(content))][queries]
        return self.to_image.interpolate(self.to_input.interpolate(logits, content), tile)

    def draw(self, query: int, threshold: float) -> np.ndarray:
        """Returns where a query's logits are above a threshold, `(height, width)` bool."""
        mask = np.zeros(self.size, dtype=bool)
        for tile, high in zip(self.tiles, self.high[:, query]):
            if high > threshold:
                mask[tile] = self.upsample([query], tile)[0] > threshold
        return mask


def split(size: tuple[int, int], side: int) -> Iterator[tuple[slice, slice]]:
    """Yields the rows and columns of tiles that cover `size`."""
    height, width = size
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


class Regions:
    """The number of pixels of several regions, and the boxes around them, counted a tile at a time."""

    def __init__(self, num_regions: int):
        self.areas = np.zeros(num_regions, dtype=np.int64)
        self.first = np.full((num_regions, 2), np.iinfo(np.int64).max)  # row and column
        self.last = np.full((num_regions, 2), -1)

    def add(self, region: int, tile: tuple[slice, slice], mask: np.ndarray) -> None:
        """Counts the pixels of a region in a tile, `(rows, columns)` bool."""
        area = int(np.count_nonzero(mask))
        if area:
            self.areas[region] += area
            for axis, place in enumerate(tile):
                occupied = np.flatnonzero(mask.any(axis=1 - axis))
                self.first[region, axis] = min(self.first[region, axis], place.start + occupied[0])
                self.last[region, axis] = max(self.last[region, axis], place.start + occupied[-1])

    def box(self, regions: Sequence[int]) -> list[int]:
        """Returns `[x, y, width, height]` around regions, as the image processor does where there is no pixel."""
        regions = [region for region in regions if self.areas[region]]
        if not regions:
            return [0, 0, 0, 0]
        (top, left), (bottom, right) = self.first[regions].min(axis=0), self.last[regions].max(axis=0)
        return [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities in float32."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities along the last dimension in float32."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)


def _check_finite(*logits: np.ndarray) -> None:
    if not all(np.isfinite(values).all() for values in logits):
        raise ValueError("The model's predictions are not finite (NaN or infinite): its graph may be damaged.")


def segment_panoptic(
    mask_logits: np.ndarray, class_logits: np.ndarray, size: tuple[int, int], settings: Settings
) -> dict[str, Any]:
    """
    Panoptic segmentation of one image: every pixel in at most one segment, one segment per stuff class.

    Args:
        mask_logits: `(num_queries, height, width)` float32.
        class_logits: `(num_queries, num_classes + 1)`, the last one for "no object".
        size: `(height, width)` of the image.

    Returns:
        `segmentation`: `(height, width)` int32, the segment's id or `VOID`; `segments_info`: one dict per segment,
        with `id`, `label_id`, `score`, `area`, `bbox` (`[x, y, width, height]`) and `was_fused`.

    Raises:
        ValueError: a stuff class is not a class of the model, or the predictions are not finite.
    """
    stuff_classes, num_classes = settings.stuff_classes or (), class_logits.shape[-1] - 1
    for label in stuff_classes:
        if not 0 <= label < num_classes:
            raise ValueError(f"Stuff class {label} is out of range: the model has the classes 0 to {num_classes - 1}.")
    scores, labels = _best_classes(class_logits)
    kept = np.flatnonzero((labels != num_classes) & (scores > settings.threshold))
    _check_finite(class_logits, mask_logits[kept])
    segmentation = np.full(size, VOID, dtype=np.int32)
    segments: list[dict[str, Any]] = []
    if len(kept) == 0:
        return {"segmentation": segmentation, "segments_info": segments}
    scores, labels = scores[kept], labels[kept]
    masks = Masks(mask_logits[kept].astype(np.float32), compute_view(size, settings), size)

    query_map, shares, regions = _assign_pixels(masks, scores, settings.mask_threshold)
    segment_of_query = np.full(len(kept) + 1, VOID, dtype=np.int32)
    queries_of_segment: list[list[int]] = []
    stuff_segments: dict[int, dict[str, Any]] = {}
    for query, (label, score) in enumerate(zip(labels.tolist(), scores.tolist())):
        pixels = int(regions.areas[query])
        if pixels == 0 or shares[query] < settings.overlap_mask_area_threshold:
            continue
        found = stuff_segments.get(label)
        if found is None:
            found = {"id": len(segments), "label_id": label, "score": score, "area": 0}
            segments.append(found)
            queries_of_segment.append([])
            if label in stuff_classes:
                stuff_segments[label] = found
        found["score"] = max(found["score"], score)
        found["area"] += pixels
        queries_of_segment[found["id"]].append(query)
        segment_of_query[query] = found["id"]
    for found, members in zip(segments, queries_of_segment):
        found["bbox"] = regions.box(members)
        found["was_fused"] = found["label_id"] in stuff_classes
    return {"segmentation": segment_of_query[query_map], "segments_info": segments}


def _assign_pixels(masks: Masks, scores: np.ndarray, mask_threshold: float) -> tuple[np.ndarray, np.ndarray, Regions]:
    """
    Gives each pixel to the query with the highest class score x mask probability, if its mask covers the pixel.

    Args:
        masks: those of the queries.
        scores: `(num_queries,)`.

    Returns:
        `(height, width)` int32, the query of each pixel and `num_queries` for none; `(num_queries,)`, the pixels that
        a query wins as a share of its mask; and the queries' regions.
    """
    num_queries = len(scores)
    query_map = np.empty(masks.size, dtype=np.int32)
    mask_area, won_area = np.zeros((2, num_queries), dtype=np.int64)
    regions = Regions(num_queries)
    lowest, highest = sigmoid(masks.low) * (1 - MARGIN), sigmoid(masks.high) * (1 + MARGIN)
    for tile, low, high in zip(masks.tiles, lowest, highest):
        num_pixels = query_map[tile].size
        can_win = high * scores >= (low * scores).max() * (1 - MARGIN)
        has_edge = (high >= mask_threshold) & (low < mask_threshold)
        mask_area += num_pixels * (low >= mask_threshold)
        is_decided = can_win.sum() == 1 and not has_edge[can_win].any()
        queries = np.flatnonzero(has_edge if is_decided else can_win | has_edge)
        if len(queries):
            probabilities = sigmoid(masks.upsample(queries, tile))
            covered = probabilities >= mask_threshold
            mask_area[queries] += has_edge[queries] * np.count_nonzero(covered, axis=(1, 2))
        if is_decided:
            winner = int(np.argmax(can_win))
            won_area[winner] += num_pixels
            query_map[tile] = winner if low[winner] >= mask_threshold else num_queries
        else:
            best = (scores[queries, None, None] * probabilities).argmax(axis=0)
            won_area[queries] += np.bincount(best.ravel(), minlength=len(queries))
            is_covered = np.take_along_axis(covered, best[None], axis=0)[0]
            query_map[tile] = np.where(is_covered, queries[best], num_queries)
        for query in np.flatnonzero(can_win).tolist():
            regions.add(query, tile, query_map[tile] == query)
    return query_map, won_area / np.maximum(mask_area, 1), regions


def _best_classes(class_logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the score and the class of each query, "no object" among the classes."""
    probabilities = softmax(class_logits)
    return probabilities.max(axis=-1), probabilities.argmax(axis=-1)


def segment_instances(
    mask_logits: np.ndarray, class_logits: np.ndarray, size: tuple[int, int], settings: Settings
) -> dict[str, Any]:
    """
    Instances in one image, best first. Their masks may overlap, and a query may stand for several classes.

    Args:
        mask_logits, class_logits, size: as for `segment_panoptic`.

    Returns:
        `segmentation`: for each instance its mask in COCO's run lengths; `segments_info`: as for `segment_panoptic`.

    Raises:
        ValueError: the predictions are not finite.
    """
    class_scores = softmax(class_logits)[:, :-1]
    num_classes = class_scores.shape[1]
    pairs = np.argsort(-class_scores.ravel(), kind="stable")[: settings.top_k]
    scores = class_scores.ravel()[pairs]
    pairs, scores = pairs[scores >= settings.threshold], scores[scores >= settings.threshold]
    queries, query_of_pair = np.unique(pairs // num_classes, return_inverse=True)  # one mask per query
    _check_finite(class_logits, mask_logits[queries])
    with np.errstate(divide="ignore"):
        threshold = float(np.log(settings.mask_threshold) - np.log1p(-settings.mask_threshold))

    masks = Masks(mask_logits[queries].astype(np.float32), compute_view(size, settings), size)
    regions = Regions(len(queries))
    probability_sum = np.zeros(len(queries))
    for tile, high in zip(masks.tiles, masks.high):
        inside = np.flatnonzero(high > threshold)
        if len(inside) == 0:
            continue
        logits = masks.upsample(inside, tile)
        covered = logits > threshold
        probability_sum[inside] += (sigmoid(logits) * covered).sum(axis=(1, 2), dtype=np.float64)
        for query, mask in zip(inside.tolist(), covered):
            regions.add(query, tile, mask)
    quality = (probability_sum / np.maximum(regions.areas, 1)).astype(np.float32)
    scores = scores * quality[query_of_pair]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= settings.threshold]

    segments: list[dict[str, Any]] = []
    segmentation = []
    run_lengths: dict[int, dict[str, Any]] = {}
    for pair, query in zip(order.tolist(), query_of_pair[order].tolist()):
        if query not in run_lengths:
            run_lengths[query] = encode_mask(masks.draw(query, threshold))
        segmentation.append(run_lengths[query])
        segments.append(
            {
                "id": len(segments),
                "label_id": int(pairs[pair] % num_classes),
                "score": float(scores[pair]),
                "area": int(regions.areas[query]),
                "bbox": regions.box([query]),
                "was_fused": False,
            }
        )
    return {"segmentation": segmentation, "segments_info": segments}


def segment_semantic(
    mask_logits: np.ndarray, class_logits: np.ndarray, size: tuple[int, int], settings: Settings
) -> np.ndarray:
    """
    Semantic segmentation of one image: the class with the highest score at every pixel, scores averaged where windows
    overlap.

    Args:
        mask_logits: `(num_windows, num_queries, height, width)` float32.
        class_logits: `(num_windows, num_queries, num_classes + 1)`, the last one for "no object".
        size: `(height, width)` of the image.

    Returns:
        `(height, width)` int64.

    Raises:
        ValueError: the predictions are not finite.
    """
    _check_finite(class_logits, mask_logits)
    view = compute_view(size, settings)
    mask_logits = mask_logits.astype(np.float32)
    class_scores = softmax(class_logits)[..., :-1].swapaxes(1, 2).copy()  # (num_windows, num_classes, num_queries)
    to_input = Upsampling(mask_logits.shape[2:], view.input_size)
    to_image = Upsampling(view.content_size, size)

    def content_scores(content: tuple[slice, slice]) -> np.ndarray:
        """Returns the classes' scores in a part of the content, `(num_classes, rows, columns)`."""
        scores = np.zeros((class_scores.shape[1], *(axis.stop - axis.start for axis in content)), dtype=np.float32)
        counts = np.zeros(scores.shape[1:], dtype=np.float32)
        for logits, classes, window in zip(mask_logits, class_scores, view.windows):
            # the part that is in this window, in its own rows and columns, and where that is in the content's
            rows, columns = (
                slice(max(axis.start - start, 0), min(axis.stop - start, length))
                for axis, start, length in zip(content, window, view.input_size)
            )
            if rows.start >= rows.stop or columns.start >= columns.stop:
                continue
            top, left = (start - axis.start for start, axis in zip(window, content))
            place = slice(rows.start + top, rows.stop + top), slice(columns.start + left, columns.stop + left)
            part = rows, columns
            probabilities = sigmoid(to_input.interpolate(logits[(..., *to_input.span(part))], part))
            scores[(..., *place)] += np.tensordot(classes, probabilities, axes=1)
            counts[place] += 1
        return scores / counts if len(view.windows) > 1 else scores

    segmentation = np.empty(size, dtype=np.int64)
    side = math.ceil(TILE * max(1, size[0] / view.content_size[0]))
    for tile in split(size, side):
        scores = content_scores(to_image.span(tile))
        low, high = scores.min(axis=(1, 2)), scores.max(axis=(1, 2))
        classes = np.flatnonzero(high >= low.max() * (1 - MARGIN))  # the others cannot win
        segmentation[tile] = classes[to_image.interpolate(scores[classes], tile).argmax(axis=0)]
    return segmentation


def segment(
    mask_logits: np.ndarray, class_logits: np.ndarray, size: tuple[int, int], settings: Settings
) -> list[dict[str, Any]]:
    """
    Returns the segments of one image as JSON can hold them, those of the project's pipeline.

    Args:
        mask_logits: `(num_windows, num_queries, height, width)`, what the graph says of the image's inputs.
        class_logits: `(num_windows, num_queries, num_classes + 1)`.
        size: `(height, width)` of the image.

    Returns:
        For each segment `label`, `label_id`, `score` (None in semantic segmentation), `area` in pixels, `bbox` as
        `[x, y, width, height]` in pixels and `segmentation`, its mask in COCO's run lengths.

    Raises:
        ValueError: a stuff class is not a class of the model, or the predictions are not finite.
    """
    if settings.task == "semantic":
        return describe_classes(segment_semantic(mask_logits, class_logits, size, settings), settings)
    if settings.task == "instance":
        result = segment_instances(mask_logits[0], class_logits[0], size, settings)
        run_lengths = result["segmentation"]
    else:
        result = segment_panoptic(mask_logits[0], class_logits[0], size, settings)
        run_lengths = [encode_mask(result["segmentation"] == info["id"]) for info in result["segments_info"]]
    return [
        describe(settings, info["label_id"], info["score"], info["area"], info["bbox"], mask)
        for info, mask in zip(result["segments_info"], run_lengths)
        if info["area"] > 0
    ]


def describe_classes(class_map: np.ndarray, settings: Settings) -> list[dict[str, Any]]:
    """Returns one segment for each class in a `(height, width)` map, without a score; negative is none."""
    labels = [label for label in np.unique(class_map).tolist() if label >= 0]
    return [describe_mask(class_map == label, label, None, settings) for label in labels]


def describe_mask(mask: np.ndarray, label_id: int, score: float | None, settings: Settings) -> dict[str, Any]:
    """Returns the segment of a mask, `(height, width)` bool."""
    regions = Regions(1)
    regions.add(0, (slice(0, mask.shape[0]), slice(0, mask.shape[1])), mask)
    return describe(settings, label_id, score, int(regions.areas[0]), regions.box([0]), encode_mask(mask))


def describe(
    settings: Settings, label_id: int, score: float | None, area: int, bbox: list[int], run_lengths: dict[str, Any]
) -> dict[str, Any]:
    """Returns a segment as JSON holds it."""
    return {
        "label": settings.name(label_id),
        "label_id": label_id,
        "score": score,
        "area": area,
        "bbox": bbox,
        "segmentation": run_lengths,
    }


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """
    Encodes a mask as COCO's compressed run lengths, which `pycocotools.mask` reads and JSON can hold.

    Args:
        mask: `(height, width)` bool.

    Returns:
        `{"size": [height, width], "counts": str}`.
    """
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    first, stop = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
    pixels = np.concatenate([[False], mask[:, first:stop].T.ravel(), [False]])
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + first * height
    ends = np.append(changes, height * width)
    if len(changes) and changes[-1] == height * width:
        ends = ends[:-1]  # the mask has the last pixel
    return {"size": [height, width], "counts": _compress(np.diff(ends, prepend=0).tolist())}


def _compress(lengths: list[int]) -> str:
    """
    Writes run lengths as text: from the third length on the difference to the last but one, five bits to a character
    from the lowest on, a sixth bit where more follow, counted from the character "0".
    """
    characters = []
    for index, length in enumerate(lengths):
        rest = length - lengths[index - 2] if index > 2 else length
        while True:
            bits, rest = rest & 31, rest >> 5
            is_last = rest == (-1 if bits & 16 else 0)  # only the sign is left, which the highest of the bits repeats
            characters.append(chr(48 + (bits if is_last else bits | 32)))
            if is_last:
                break
    return "".join(characters)


def decode_mask(run_lengths: Mapping[str, Any]) -> np.ndarray:
    """Returns the mask of COCO's compressed run lengths, `(height, width)` bool."""
    lengths: list[int] = []
    length = shift = 0
    for character in run_lengths["counts"]:
        code = ord(character) - 48
        length |= (code & 31) << shift
        shift += 5
        if not code & 32:
            length -= (code & 16) << (shift - 4)  # the sign
            lengths.append(length + (lengths[-2] if len(lengths) > 2 else 0))
            length = shift = 0
    height, width = run_lengths["size"]
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def draw(image: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """
    Paints segments over an image: filled in their class's colour, a shade per instance, and outlined.

    Args:
        image: `(height, width, 3)` uint8.
        segments: as `segment` returns them. Where they overlap, the best score is on top.

    Returns:
        An image of the same size.
    """
    segment_map = np.zeros(image.shape[:2], dtype=np.uint16)
    for index in sorted(range(len(segments)), key=lambda index: (segments[index]["score"] or 0, -index)):
        segment_map[decode_mask(segments[index]["segmentation"])] = index + 1
    num_of_class: dict[int, int] = {}
    palette = np.zeros((len(segments) + 1, 3), dtype=np.uint8)
    for index, found in enumerate(segments, start=1):
        shade = num_of_class[found["label_id"]] = num_of_class.get(found["label_id"], 0) + 1
        palette[index] = _class_color(found["label_id"], shade - 1)
    filled = ((image.astype(np.uint16) + palette[segment_map] + 1) // 2).astype(np.uint8)
    filled[segment_map == 0] = image[segment_map == 0]
    width = max(1, round(math.sqrt(segment_map.size) / 400))  # of the outline, on either side of an edge
    edges = np.zeros(segment_map.shape, dtype=bool)
    for here, there, map_here, map_there in (
        (edges[:-width], edges[width:], segment_map[:-width], segment_map[width:]),
        (edges[:, :-width], edges[:, width:], segment_map[:, :-width], segment_map[:, width:]),
    ):
        is_edge = map_here != map_there
        here |= is_edge
        there |= is_edge
    tints = 255 - (255 - palette) // 2
    tints[0] = 10  # beside the segments, nearly black
    filled[edges] = tints[segment_map[edges]]
    return filled


def _class_color(label_id: int, shade: int) -> tuple[int, int, int]:
    """Returns the colour of a class, the same in every image, and of its second, third, ... instance a shade of it."""
    brightness = (1.0, 0.78, 0.89)[label_id % 3]
    saturation = (0.8, 0.45)[label_id // 3 % 2]
    hue, lightness, saturation = colorsys.rgb_to_hls(
        *colorsys.hsv_to_rgb(label_id * GOLDEN_RATIO % 1.0, saturation, brightness)
    )
    lighter, turn = ((0.0, 0.0), (0.58, 0.03), (-0.44, 0.04), (0.38, -0.05), (-0.54, -0.01))[shade % 5]
    lightness += lighter * (0.9 - lightness if lighter > 0 else lightness - 0.2)
    red, green, blue = (round(255 * channel) for channel in colorsys.hls_to_rgb(hue + turn, lightness, saturation))
    return red, green, blue

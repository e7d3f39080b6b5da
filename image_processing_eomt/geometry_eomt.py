"""
Images, label maps and masks on their way into the model and back: sizes, windows, resampling and encodings.

Pre- and post-processing share this arithmetic. Every size is `(height, width)` in pixels.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


MAX_EDGE = 16384  # pixels of a side of what the model sees
# An image that is cut into windows has at most this many pixels once it is resized. With 200 queries the masks of all
# windows then take 1.7 GB: 82 windows of 640x640 pixels, the aspect ratio 82 to 1.
MAX_SPLIT_PIXELS = 2**25
# Numbers in a band of rows: few enough for a CPU's cache, enough to keep a GPU busy.
BAND_NUMEL = {"cpu": 1 << 22, "other": 1 << 26}

MAX_IDS = 10_000  # in one label map; every id has a mask of the image's size


class TooManyWindowsError(ValueError):
    """An image would be cut into windows of more than `MAX_SPLIT_PIXELS` together."""


class View(NamedTuple):
    """
    The part of an image that the model sees in each input.

    content_size: the image after resizing.
    input_size: one input of the model, in which the image is padded or of which it fills several.
    windows: `(top, left)` within the content of each input that the image becomes; `((0, 0),)` unless it is split.
    """

    content_size: tuple[int, int]
    input_size: tuple[int, int]
    windows: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First pixel and the one after the last of each window, along the side that is split."""
        axis = 0 if self.content_size[0] > self.input_size[0] else 1
        return [(window[axis], window[axis] + self.input_size[axis]) for window in self.windows]

    def crop(self, image: Tensor, index: int) -> Tensor:
        """Returns the part of `(..., height, width)` content that is in window `index`."""
        top, left = self.windows[index]
        return image[..., top : top + self.input_size[0], left : left + self.input_size[1]]

    def pad(self, image: Tensor) -> Tensor:
        """Pads `(..., height, width)` with zeros at the bottom and on the right, at least to the size of an input."""
        height, width = self.input_size
        return F.pad(image, (0, max(0, width - image.shape[-1]), 0, max(0, height - image.shape[-2])))


def compute_view(
    image_size: tuple[int, int], size: Any, *, do_resize: bool, do_pad: bool, do_split_image: bool, **_: Any
) -> View:
    """
    Returns how an image of `image_size` enters the model with an image processor's settings.

    Raises:
        TooManyWindowsError: it would be cut into windows of more than `MAX_SPLIT_PIXELS` together, a `ValueError`.
        ValueError: the image has no pixel, or is not resized and does not fit or cannot be split.
    """
    target_size = parse_size(size)
    if min(image_size) < 1:
        raise ValueError(f"An image of {image_size} (height, width) has no pixel.")
    if not do_split_image:
        content_size = fit_size(image_size, target_size) if do_resize else image_size
        if not do_pad:
            return View(content_size, content_size)
        if content_size[0] > target_size[0] or content_size[1] > target_size[1]:
            raise ValueError(f"An image of {image_size} does not fit in {target_size} (height, width): set do_resize.")
        return View(content_size, target_size)
    content_size = cover_size(image_size, target_size) if do_resize else image_size
    if not do_pad and (content_size[0] < target_size[0] or content_size[1] < target_size[1]):
        raise ValueError(
            f"An image of {image_size} does not fill a window of {target_size} (height, width): set do_resize or "
            "do_pad."
        )
    if content_size[0] > target_size[0] and content_size[1] > target_size[1]:
        raise ValueError(
            f"An image of {image_size} is both higher and wider than a window of {target_size} (height, width), and "
            "windows follow each other along one side only: set do_resize."
        )
    num_windows = math.prod(math.ceil(length / window) for length, window in zip(content_size, target_size))
    if num_windows > 1 and math.prod(content_size) > MAX_SPLIT_PIXELS:
        raise TooManyWindowsError(
            f"An image of {image_size} (height, width) would become {content_size} pixels, {num_windows} windows of "
            f"{target_size}, and an image that is split may become at most {MAX_SPLIT_PIXELS:,} pixels: one side is "
            "too long for the other. Cut it into shorter images, or set do_split_image=False and do_pad=True."
        )
    tops, lefts = (place_windows(*lengths) for lengths in zip(content_size, target_size))
    return View(content_size, target_size, tuple((top, left) for top in tops for left in lefts))


def parse_size(size: Any) -> tuple[int, int]:
    """
    Returns the size of what the model sees from an image processor's `size`.

    `{"shortest_edge": h, "longest_edge": w}` is what checkpoints store (Transformers' own EoMT processor reads the two
    as height and width); `{"height": h, "width": w}`, `(h, w)` and a single int for a square say the same.

    Raises:
        ValueError: for anything else.
    """
    edges = _parse_edges(size)
    return edges[0], edges[-1]


def has_one_edge(size: Any) -> bool:
    """Returns whether an image processor's `size` names only one edge, that of a square."""
    return len(_parse_edges(size)) == 1


def _parse_edges(size: Any) -> tuple[int, ...]:
    """Returns `(height, width)`, or `(edge,)` of a square."""
    edges: tuple[Any, ...] = ()
    if isinstance(size, Integral):
        edges = (size,)
    # A mapping, or Transformers' SizeDict, which iterates over its (key, value) pairs.
    elif isinstance(size, Mapping) or hasattr(size, "shortest_edge"):
        known = {key: value for key, value in dict(size).items() if value is not None}
        for names in (("height", "width"), ("shortest_edge", "longest_edge"), ("shortest_edge",)):
            if known.keys() == set(names):
                edges = tuple(known[name] for name in names)
    elif isinstance(size, Sequence) and not isinstance(size, str | bytes) and len(size) == 2:
        edges = tuple(size)
    if not edges or not all(
        isinstance(edge, Integral) and not isinstance(edge, bool) and 1 <= int(edge) <= MAX_EDGE for edge in edges
    ):
        raise ValueError(
            "size must be an int, (height, width), {'height', 'width'} or {'shortest_edge', 'longest_edge'} in "
            f"pixels, whole numbers from 1 to {MAX_EDGE}, got {size!r}."
        )
    return tuple(int(edge) for edge in edges)


def fit_size(image_size: tuple[int, int], target_size: tuple[int, int]) -> tuple[int, int]:
    """
    Returns the largest size with the image's aspect ratio that fits in `target_size`, rounded to whole pixels.

    The reference implementation rounds (`scale_img_size_instance_panoptic` in its `lightning_module.py`); truncating
    would be a pixel off for many image sizes.
    """
    return _scale(image_size, min(target_size[0] / image_size[0], target_size[1] / image_size[1]))


def cover_size(image_size: tuple[int, int], target_size: tuple[int, int]) -> tuple[int, int]:
    """
    Returns the smallest size with the image's aspect ratio that covers `target_size`, rounded to whole pixels.

    One side is that of the target; the other is cut into windows (`scale_img_size_semantic` in the reference
    implementation's `lightning_module.py`).
    """
    return _scale(image_size, max(target_size[0] / image_size[0], target_size[1] / image_size[1]))


def _scale(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(edge * scale)) for edge in image_size)
    return height, width


def place_windows(length: int, window: int) -> tuple[int, ...]:
    """
    Returns the starts of windows that cover `length` pixels: as few as possible, evenly overlapping.

    As in the reference implementation's `window_imgs_semantic`, but in whole numbers: there, rounding leaves out the
    last row or column of some lengths.
    """
    num_gaps = max(0, math.ceil(length / window) - 1)
    return (0, *(index * (length - window) // num_gaps for index in range(1, num_gaps + 1)))


def match_views(
    outputs: Any,
    sizes: Sequence[tuple[int, int]] | None,
    size: Any,
    do_resize: bool,
    do_pad: bool,
    do_split_image: bool,
) -> list[tuple[View, tuple[int, int]]]:
    """
    Returns the view of each image in a batch of model outputs, and the size of its result.

    Args:
        outputs: the model's output, of one input or of several windows for each image; with windows maybe also
            `patch_offsets`.
        sizes: the size of each original image; None where all images were padded, for results as the model saw them.
        size, do_resize, do_pad, do_split_image: the image processor's settings.

    Raises:
        ValueError: the images do not become these inputs.
    """
    num_inputs = outputs.class_queries_logits.shape[0]
    offsets = getattr(outputs, "patch_offsets", None)
    is_split = offsets is not None and len(offsets) > 0
    if sizes is None:
        if is_split or do_split_image:
            raise ValueError("The windows of split images cannot be put together without target_sizes.")
        if not do_pad:
            raise ValueError("Images that are not padded differ in size: pass their sizes as target_sizes.")
        input_size = parse_size(size)
        return [(View(input_size, input_size), input_size)] * num_inputs
    if is_split or do_split_image:
        try:
            views = [compute_view(s, size, do_resize=do_resize, do_pad=do_pad, do_split_image=True) for s in sizes]
        except TooManyWindowsError:
            if is_split or len(sizes) != num_inputs:
                raise
            views = []  # they can only have been left whole
        if sum(len(view.windows) for view in views) == num_inputs:
            if is_split:
                _check_offsets(offsets, views)
            return list(zip(views, sizes))
    if is_split or len(sizes) != num_inputs:
        raise ValueError(
            f"The model saw {num_inputs} inputs, which are not what {len(sizes)} images of the given target_sizes "
            "make with this processor's settings."
        )
    # A processor that splits can only have padded what it did not split.
    do_pad = do_pad or do_split_image
    return [(compute_view(s, size, do_resize=do_resize, do_pad=do_pad, do_split_image=False), s) for s in sizes]


def _check_offsets(offsets: Any, views: Sequence[View]) -> None:
    """Raises a `ValueError` if windows were elsewhere; Transformers' own processor may be a pixel off."""
    expected = [(index, start) for index, view in enumerate(views) for start, _ in view.spans]
    for offset, (index, start) in zip(offsets, expected):
        if len(offset) != 3:
            raise ValueError(f"An offset is an image's index, a first and a last pixel, got {offset}.")
        given_index, given_start, _ = torch.as_tensor(offset).tolist()
        if given_index != index or abs(given_start - start) > 1:
            raise ValueError(
                f"A window of image {given_index} starts at pixel {given_start}, but with the given target_sizes it "
                f"would be image {index}, pixel {start}: pass the sizes of the original images in their order."
            )


def resize_nearest(label_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes `(..., height, width)` to the nearest pixel, exact for every integer; pixel centres as in PIL."""
    rows, columns = (
        ((torch.arange(new, device=label_map.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for old, new in zip(label_map.shape[-2:], size)
    )
    return label_map[..., rows, :][..., columns]


def split_rows(num_rows: int, numel_per_row: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Yields rows 0 to `num_rows - 1` in bands that stay in the cache: as a slice, and `(rows,)` int64 on the CPU."""
    numel = BAND_NUMEL["cpu" if device.type == "cpu" else "other"]
    for rows in torch.arange(num_rows).split(max(1, numel // max(1, numel_per_row))):
        yield slice(int(rows[0]), int(rows[-1]) + 1), rows


def select_rows(source: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the `source_rows` of `interpolate_rows` for `(channels, height, width)` in memory, as float32."""
    return lambda indices: source.index_select(1, indices.to(source.device)).float()


def interpolate_rows(
    source_rows: Callable[[Tensor], Tensor], source_height: int, rows: Tensor, size: tuple[int, int]
) -> Tensor:
    """
    Returns some rows of `F.interpolate(source, size, mode="bilinear")`.

    Args:
        source_rows: takes `(n,)` int64 indices on the CPU, ascending, and returns these rows of the source:
            `(channels, n, source_width)`.
        source_height: number of rows of the source.
        rows: `(num_rows,)` int64 indices on the CPU of the wanted rows.
        size: `(height, width)` of the whole result.

    Returns:
        `(channels, num_rows, width)`.
    """
    height, width = size
    if height == source_height:
        values = source_rows(rows)
    else:
        position = ((rows + 0.5).double() * (source_height / height) - 0.5).clamp(min=0)
        above = position.long()
        needed, index = torch.stack([above, (above + 1).clamp(max=source_height - 1)]).unique(return_inverse=True)
        values = source_rows(needed)
        index = index.to(values.device)
        weight = (position - above).to(values.device, values.dtype)[:, None]
        values = torch.lerp(values.index_select(1, index[0]), values.index_select(1, index[1]), weight)
    return values if values.shape[-1] == width else F.interpolate(values, size=width, mode="linear")


def upsample_masks(mask_logits: Tensor, view: View, output_size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """
    Upsamples mask logits to the size of the image, a band of rows at a time: to the input's size, padding cut off,
    then to the output's.

    Args:
        mask_logits: `(num_masks, height, width)`, at any scale.
        view: the model's view of the image, not split.
        output_size: `(height, width)` in pixels of the image.

    Yields:
        The rows of a band and the logits in it, `(num_masks, num_rows, output_width)` float32, from top to bottom.
    """
    (content_height, content_width), input_size = view.content_size, view.input_size

    def content_rows(rows: Tensor) -> Tensor:
        return interpolate_rows(select_rows(mask_logits), mask_logits.shape[1], rows, input_size)[..., :content_width]

    numel_per_row = len(mask_logits) * max(output_size[1], input_size[1])
    for band, rows in split_rows(output_size[0], numel_per_row, mask_logits.device):
        yield band, interpolate_rows(content_rows, content_height, rows, output_size)


def as_label_maps(segmentation_maps: Any) -> list[Tensor]:
    """
    A map, a list of maps or a stack of maps as a list of tensors.

    Maps are PIL images, NumPy arrays or tensors of integers. In a list, an entry may be a stack of masks too.

    Returns:
        For each image `(height, width)` int64 or `(num_masks, height, width)` bool.

    Raises:
        ValueError: an entry is neither.
    """
    if not isinstance(segmentation_maps, list | tuple):
        is_stack = getattr(segmentation_maps, "ndim", 2) == 3
        segmentation_maps = list(segmentation_maps) if is_stack else [segmentation_maps]
    return [_as_label_map(label_map, index) for index, label_map in enumerate(segmentation_maps)]


def _as_label_map(label_map: Any, index: int) -> Tensor:
    if not isinstance(label_map, Tensor):
        array = np.asarray(label_map)
        if array.dtype.kind not in "biu":
            raise ValueError(_not_a_map(index, array.shape, array.dtype))
        label_map = torch.from_numpy(array if array.dtype == bool else array.astype(np.int64))
    if label_map.ndim == 3 and label_map.dtype == torch.bool:
        return label_map
    if label_map.ndim != 2 or label_map.is_floating_point() or label_map.is_complex():
        raise ValueError(_not_a_map(index, tuple(label_map.shape), label_map.dtype))
    return label_map.to(torch.int64)


def _not_a_map(index: int, shape: tuple[int, ...], dtype: Any) -> str:
    hint = " Decode coloured PNGs first, for COCO with R + 256 G + 65536 B." if len(shape) == 3 else ""
    return (
        f"Segmentation map {index} must be (height, width) integers or (num_masks, height, width) bool, got shape "
        f"{shape} of {dtype}.{hint}"
    )


def masks_and_classes(
    label_map: Tensor, id_to_class: Mapping[int, int] | None, ignore_index: int | None, do_reduce_labels: bool
) -> tuple[Tensor, Tensor]:
    """
    One mask and one class per id in a map.

    Pixels equal to `ignore_index` belong to nothing, unless `id_to_class` gives that id a class. With
    `do_reduce_labels`, neither does what is 0 (as an id or as a class), and every other class is one less.

    Args:
        label_map: `(height, width)` int64 ids, or `(num_masks, height, width)` bool masks with their indices as ids:
            then an id means nothing in itself, only its class is compared with `ignore_index` and 0.
        id_to_class: class of each id; None if the ids are classes.

    Returns:
        `(num_targets, height, width)` bool masks and `(num_targets,)` int64 classes, by ascending id. There is no
        target without a pixel.

    Raises:
        KeyError: an id is not in `id_to_class`.
        ValueError: a class is negative or no whole number, or there are more ids than a segmentation has.
    """
    is_stack = label_map.ndim == 3
    present = torch.nonzero(label_map.flatten(1).any(dim=1)).squeeze(1) if is_stack else torch.unique(label_map)
    if len(present) > MAX_IDS:
        raise ValueError(
            f"A segmentation map has {len(present)} different ids, at most {MAX_IDS} are possible: is it an image?"
        )
    kept_ids, classes = [], []
    for id_ in present.tolist():
        if not is_stack:
            has_class = id_to_class is not None and id_ in id_to_class
            if (id_ == ignore_index and not has_class) or (do_reduce_labels and id_ == 0):
                continue
        label = id_ if id_to_class is None else id_to_class[id_]
        if not isinstance(label, Integral):
            raise ValueError(f"The class of id {id_} must be a whole number, got {label!r:.100}.")
        label = int(label)
        if label == ignore_index or (do_reduce_labels and label == 0):
            continue
        label = label - 1 if do_reduce_labels else label
        if label < 0:
            raise ValueError(f"Id {id_} would be of class {label}: classes are 0 or more. Set it as ignore_index?")
        kept_ids.append(id_)
        classes.append(label)

    ids = torch.tensor(kept_ids, dtype=torch.int64, device=label_map.device)
    masks = label_map[ids] if is_stack else label_map == ids[:, None, None]
    return masks, torch.tensor(classes, dtype=torch.int64, device=label_map.device)


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """
    Encodes masks as COCO's compressed run lengths, which `pycocotools.mask` reads and JSON can hold.

    Args:
        masks: `(num_masks, height, width)` bool.

    Returns:
        For each mask `{"size": [height, width], "counts": str}`.
    """
    size = list(masks.shape[1:])
    return [{"size": size, "counts": _compress(_run_lengths(mask))} for mask in masks]


def _run_lengths(mask: Tensor) -> list[int]:
    """Returns lengths of the runs of equal pixels down the columns of `(height, width)`, of False first (maybe 0)."""
    pixels = mask.T.flatten()
    ends = torch.nonzero(pixels[1:] != pixels[:-1]).squeeze(1) + 1
    edges = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(pixels))])
    lengths: list[int] = edges.diff().tolist()
    return [0, *lengths] if bool(pixels[0]) else lengths


def _compress(lengths: list[int]) -> str:
    """
    Writes run lengths as text: from the third length on the difference to the last but one, five bits to a character
    from the lowest on, a sixth bit where more follow, counted from the character "0".
    """
    characters = []
    for index, length in enumerate(lengths):
        rest = length - lengths[index - 2] if index > 2 else length
        while True:
            bits = rest & 31
            rest >>= 5
            # Done when what is left is only the sign, which the highest of the five bits repeats.
            is_last = rest == (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits if is_last else bits | 32)))
            if is_last:
                break
    return "".join(characters)

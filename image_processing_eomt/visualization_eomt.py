"""Drawing of segmentations over the images they belong to."""

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage


FILL_OPACITY = 0.5
GOLDEN_RATIO = 0.618033988749895
MIN_FONT_SIZE = 9


def class_color(label_id: int) -> tuple[int, int, int]:
    """
    The colour of a class as `(red, green, blue)`, 0 to 255: the same in every picture and every run.

    Hues step round the circle by the golden ratio, so neighbouring ids look different; saturation and brightness vary
    too, so that ids whose hues are close can be told apart.
    """
    saturation = (0.85, 0.7, 0.95)[label_id % 3]
    brightness = (1.0, 0.8)[label_id // 3 % 2]
    return _to_rgb(colorsys.hsv_to_rgb(label_id * GOLDEN_RATIO % 1.0, saturation, brightness))


def draw_segmentation(
    image: Image.Image,
    segmentation: Any,
    segments_info: Sequence[Mapping[str, Any]],
    id2label: Mapping[int, str],
) -> Image.Image:
    """
    Paints segments over an image: filled in their class's colour (a shade per instance), outlined, and named.

    A name is placed inside its segment and left out where it would not fit.

    Args:
        image: of any mode.
        segmentation: `(height, width)` tensor or array of segment ids, -1 where there is nothing.
        segments_info: a dict with `id` and `label_id` per segment, as post-processing returns it.
        id2label: names of the classes; a class without a name is shown by its number.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: the segmentation is not as large as the image.
    """
    ids = np.asarray(segmentation.cpu() if hasattr(segmentation, "cpu") else segmentation)
    if ids.shape != (image.height, image.width):
        raise ValueError(
            f"The segmentation is {ids.shape}, the image {(image.height, image.width)} (height, width): post-process "
            "with target_sizes set to the image's size."
        )
    pixels = np.array(image.convert("RGB"), dtype=np.float32)
    outlines = _outlines(ids, width=max(1, round(min(ids.shape) / 300)))
    num_of_class: Counter[int] = Counter()
    for segment in segments_info:
        label_id = segment["label_id"]
        color = np.array(_shade(class_color(label_id), num_of_class[label_id]), dtype=np.float32)
        num_of_class[label_id] += 1
        mask = ids == segment["id"]
        pixels[mask] += FILL_OPACITY * (color - pixels[mask])
        pixels[mask & outlines] = color
    drawing = Image.fromarray(pixels.round().astype(np.uint8))
    for segment in segments_info:
        label_id = segment["label_id"]
        _draw_name(drawing, ids == segment["id"], str(id2label.get(label_id, label_id)))
    return drawing


def _to_rgb(color: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in color)
    return red, green, blue


def _shade(color: tuple[int, int, int], instance: int) -> tuple[int, int, int]:
    """The colour of the `instance`-th segment of a class: the class's own for the first, then lighter and darker."""
    if instance == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    lighter, turn = ((0.0, 0.0), (0.1, 0.02), (-0.1, -0.02), (0.18, -0.03), (-0.18, 0.03))[instance % 5]
    return _to_rgb(colorsys.hls_to_rgb(hue + turn, min(0.75, max(0.25, lightness + lighter)), saturation))


def _outlines(ids: np.ndarray, width: int) -> np.ndarray:
    """`(height, width)` bool: pixels within `width` pixels of a pixel with another id."""
    reach = 2 * width + 1
    return ndimage.maximum_filter(ids, reach) != ndimage.minimum_filter(ids, reach)


def _draw_name(drawing: Image.Image, mask: np.ndarray, name: str) -> None:
    """Writes `name` at the most interior point of `mask`, as large as fits and reads well, or not at all."""
    bounds = ndimage.find_objects(mask.astype(np.uint8))
    if not bounds:
        return
    rows, columns = bounds[0]
    largest = max(MIN_FONT_SIZE, round(min(drawing.size) / 28))
    for font_size in range(largest, MIN_FONT_SIZE - 1, -2):
        font = ImageFont.load_default(size=font_size)
        halo = max(1, font_size // 8)
        left, top, right, bottom = font.getbbox(name, anchor="mm", stroke_width=halo)
        width, height = right - left, bottom - top
        if width > columns.stop - columns.start or height > rows.stop - rows.start:
            continue
        # Text is wider than high: distances along x count for less, in the same proportion.
        padded = np.pad(mask[rows, columns], 1)
        depth = ndimage.distance_transform_edt(padded, sampling=(width / height, 1.0))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        center = (columns.start + int(x), rows.start + int(y))
        box_rows = slice(max(0, center[1] - height // 2), center[1] + height // 2)
        box_columns = slice(max(0, center[0] - width // 2), center[0] + width // 2)
        if mask[box_rows, box_columns].mean() > 0.9:
            ImageDraw.Draw(drawing).text(
                center, name, fill="white", font=font, anchor="mm", stroke_width=halo, stroke_fill="black"
            )
            return

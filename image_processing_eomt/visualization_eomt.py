"""
Drawing of segmentations over their images, with NumPy, SciPy and Pillow.

`torchvision.utils.draw_segmentation_masks` only fills: it neither outlines nor names segments, and needs a mask of the
image's size for each (at 20 megapixels and 40 segments, 13 times the time and 5 times the memory).
"""

import colorsys
import math
import textwrap
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from .reading_eomt import as_pixels, load_upright


FILL_OPACITY = 0.5
OUTLINE_DARK = (10, 10, 10)
GOLDEN_RATIO = 0.618033988749895
# Of an instance of a class: how far its shade goes towards white (or black, if negative), and how far round the hues.
SHADES = ((0.0, 0.0), (0.58, 0.03), (-0.44, 0.04), (0.38, -0.05), (-0.54, -0.01))

MIN_FONT_SIZE = 10  # pixels; smaller letters are too thin to be white
PREFERRED_FONT_SIZE = 14  # pixels, in small images; 1/32 of the side of larger ones
MAX_NAME_LENGTH = 60  # characters; longer names are cut
MAX_WORD_LENGTH = 20  # characters; longer words may be broken
MAX_NAME_LINES = 3
MAX_TABLE = 1 << 20  # ids of segments between the lowest and the highest
MAX_NAME_GRID = 300_000  # pixels; names in larger images are placed on every second, third, ... pixel
# Pillow's own font (None) has little beyond ASCII; the others are looked for among the system's.
FONTS = (None, "DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "PingFang.ttc", "msyh.ttc")


def class_color(label_id: int) -> tuple[int, int, int]:
    """
    Returns the colour of a class as `(red, green, blue)`, 0 to 255: the same in every image and every run.

    Hues step round the circle by the golden ratio, so neighbouring ids look different; brightness and saturation vary
    too, so that ids whose hues are close can be told apart.
    """
    brightness = (1.0, 0.78, 0.89)[label_id % 3]
    saturation = (0.8, 0.45)[label_id // 3 % 2]
    return _to_rgb(colorsys.hsv_to_rgb(label_id * GOLDEN_RATIO % 1.0, saturation, brightness))


def draw_segmentation(
    image: Any,
    segmentation: Any,
    segments_info: Sequence[Mapping[str, Any]] | None = None,
    id2label: Mapping[int, str] | None = None,
) -> Image.Image:
    """
    Paints segments over an image: filled in their class's colour (a shade per instance), outlined, and named.

    Where two segments meet, a line in a light tint of the smaller one's colour runs beside a dark line in the larger
    one, so that outlines show on dark and on light ground and thin things are not hidden by them. A name is written
    inside its segment, on up to three lines, and left out where it does not fit. Lines and letters grow with the
    image.

    Args:
        image: a PIL image of any mode, upright. With the pipeline's result, anything that the pipeline takes.
        segmentation: the pipeline's result for one image, or a tensor or array in one of three forms:

            - `(height, width)` ids of segments, as panoptic post-processing returns them. What `segments_info` does
              not list, such as -1, is left alone;
            - `(height, width)` ids of classes, as semantic post-processing returns them, with `segments_info=None`.
              Negative ids are left alone;
            - `(num_segments, height, width)` masks, the i-th that of `segments_info[i]`, as instance post-processing
              returns them with `return_binary_maps=True`.

            Where masks overlap, the best score is on top, or the first without scores.
        segments_info: a dict with `id` (not needed for masks), `label_id` and maybe `score` per segment, as
            post-processing returns it, or None where every id is a class.
        id2label: names of the classes. A class without a name, or whose name no font at hand can write, is shown by
            its number. What the pipeline returns has names, and needs them only for the classes' own colours: without
            them each name has one of its own.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: the segmentation has none of these forms, or is not as large as the image.
    """
    id2label = {} if id2label is None else id2label
    if isinstance(segmentation, list | tuple) and all(_is_of_pipeline(segment) for segment in segmentation):
        image = load_upright(image)
        _check_size({(segment["mask"].height, segment["mask"].width) for segment in segmentation}, image)
        masks = [np.asarray(segment["mask"]) for segment in segmentation]
        scores = [segment.get("score") or 0.0 for segment in segmentation]
        segment_map = _flatten(masks, scores, (image.height, image.width))
        ids = {name: label_id for label_id, name in id2label.items()}
        names = [segment["label"] for segment in segmentation]
        label_ids = [ids.get(name, zlib.crc32(str(name).encode(errors="replace"))) for name in names]
    else:
        array = np.asarray(segmentation.cpu() if hasattr(segmentation, "cpu") else segmentation)
        _check_form(array, segments_info)
        _check_size({array.shape[-2:]}, image)
        if segments_info is None:
            class_ids = [int(class_id) for class_id in np.unique(array) if class_id >= 0]
            segments_info = [{"id": class_id, "label_id": class_id} for class_id in class_ids]
        if array.ndim == 3:
            scores = [segment.get("score") or 0.0 for segment in segments_info]
            segment_map = _flatten(array, scores, array.shape[1:])
        else:
            segment_map = _number_segments(array, [segment["id"] for segment in segments_info])
        label_ids = [int(segment["label_id"]) for segment in segments_info]
        names = [id2label.get(label_id) for label_id in label_ids]
    rgb = Image.fromarray(as_pixels(image, do_convert_rgb=True).permute(1, 2, 0).contiguous().numpy())
    drawing = _paint(rgb, segment_map, shade_segments(label_ids))
    _write_names(drawing, segment_map, [_make_writable(name, label_id) for name, label_id in zip(names, label_ids)])
    return drawing


def _is_of_pipeline(segment: Any) -> bool:
    return isinstance(segment, Mapping) and isinstance(segment.get("mask"), Image.Image) and "label" in segment


def _check_form(array: np.ndarray, segments_info: Sequence[Mapping[str, Any]] | None) -> None:
    shape, kind = array.shape, array.dtype.kind
    if kind not in "biuf" or len(shape) not in (2, 3) or (kind == "f" and not np.isfinite(array).all()):
        raise ValueError(
            "A segmentation is (height, width) or (num_segments, height, width) finite numbers, or the pipeline's "
            f"result for one image, got shape {shape} of {array.dtype}."
        )
    if len(shape) == 3 and segments_info is None:
        raise ValueError(f"Masks of shape {shape} need segments_info, which says what each of them is.")
    if len(shape) == 3 and segments_info is not None and shape[0] != len(segments_info):
        raise ValueError(f"There are {shape[0]} masks but {len(segments_info)} dicts in segments_info.")
    for index, segment in enumerate(segments_info or ()):
        for name in ("label_id",) if len(shape) == 3 else ("id", "label_id"):
            if not isinstance(segment, Mapping) or not isinstance(segment.get(name), Integral):
                raise ValueError(f"segments_info[{index}] must be a dict with the whole number {name!r}: {segment}")


def _check_size(sizes: set[tuple[int, ...]], image: Image.Image) -> None:
    for size in sizes - {(image.height, image.width)}:
        raise ValueError(
            f"The segmentation is {size}, the image {(image.height, image.width)} (height, width). Post-process "
            "with target_sizes set to the image's size. If the image comes from a camera that was held sideways, draw "
            "on ImageOps.exif_transpose(image), as pipelines segment the upright image."
        )


def _number_segments(ids: np.ndarray, segment_ids: Sequence[int]) -> np.ndarray:
    """Returns `(height, width)`: i + 1 where `ids` is `segment_ids[i]`, 0 elsewhere."""
    dtype = np.min_scalar_type(len(segment_ids))
    low, high = min(segment_ids, default=0), max(segment_ids, default=0)
    if ids.dtype.kind != "f" and high - low < MAX_TABLE:
        table = np.zeros(high - low + 3, dtype=dtype)
        table[np.array(segment_ids, dtype=np.int64) - low + 1] = np.arange(1, len(segment_ids) + 1)
        return np.take(table, ids.astype(np.int64) - (low - 1), mode="clip")
    numbers = np.zeros(ids.shape, dtype=dtype)
    for number, segment_id in enumerate(segment_ids, start=1):
        numbers[ids == segment_id] = number
    return numbers


def _flatten(masks: Any, scores: Sequence[float], size: tuple[int, ...]) -> np.ndarray:
    """Returns `(height, width)`: i + 1 where mask i has the best score, the first of equals; 0 without a mask."""
    segment_map = np.zeros(size, dtype=np.min_scalar_type(len(scores)))
    for index in sorted(range(len(scores)), key=lambda index: (scores[index], -index)):
        segment_map[masks[index] > 0] = index + 1
    return segment_map


def _to_rgb(color: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in color)
    return red, green, blue


def shade_segments(label_ids: Sequence[int]) -> list[tuple[int, int, int]]:
    """Returns a colour per segment: the class's own for the first of a class, shades of it for the others."""
    num_of_class: Counter[int] = Counter()
    shades = []
    for label_id in label_ids:
        lighter, turn = SHADES[num_of_class[label_id] % len(SHADES)]
        num_of_class[label_id] += 1
        hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in class_color(label_id)))
        lightness += lighter * (0.9 - lightness if lighter > 0 else lightness - 0.2)
        shades.append(_to_rgb(colorsys.hls_to_rgb(hue + turn, lightness, saturation)))
    return shades


def _paint(image: Image.Image, segment_map: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Fills and outlines segments: in `colors[i]` where `segment_map` is i + 1; where it is 0, the image stays."""
    palette = np.array([(0, 0, 0), *colors], dtype=np.uint8)
    tints = 255 - (255 - palette) // 2
    pixels = np.array(Image.blend(image, Image.fromarray(np.take(palette, segment_map, axis=0)), FILL_OPACITY))
    nothing = segment_map == 0
    pixels[nothing] = np.asarray(image)[nothing]

    # Ranks by area, the smallest segment first, the rest of the image last.
    areas = np.bincount(segment_map.ravel(), minlength=len(palette))
    areas[0] = segment_map.size + 1
    ranks = np.empty(len(palette), dtype=segment_map.dtype)
    ranks[np.argsort(areas, kind="stable")] = np.arange(len(palette))
    rank_map = np.take(ranks, segment_map)
    reach = 2 * max(1, round(math.sqrt(segment_map.size) / 400)) + 1
    light = rank_map < ndimage.maximum_filter(rank_map, reach)
    dark = ~light & (rank_map > ndimage.minimum_filter(rank_map, reach))
    pixels[light] = tints[segment_map[light]]
    pixels[dark] = OUTLINE_DARK
    return Image.fromarray(pixels)


class _Layout(NamedTuple):
    """A name ready to be written: broken into lines, with the pixels it takes up, halo included."""

    text: str
    font: ImageFont.FreeTypeFont
    halo: int  # width of the black line round white letters
    left: int  # of the space taken up, from where the text is anchored
    top: int
    width: int
    height: int


def _write_names(drawing: Image.Image, segment_map: np.ndarray, names: Sequence[tuple[str, str | None]]) -> None:
    """Writes name and font i inside segment i + 1, where there is most room around it, as large as reads well."""
    draw = ImageDraw.Draw(drawing)
    largest_font_size = max(PREFERRED_FONT_SIZE, round(math.sqrt(segment_map.size) / 32))
    step = max(1, round(math.sqrt(segment_map.size / MAX_NAME_GRID)))
    grid = segment_map[::step, ::step].astype(np.int32)
    for index, (box, (name, font_file)) in enumerate(zip(ndimage.find_objects(grid), names, strict=False)):
        layouts = _lay_out(name, font_file, largest_font_size)
        if box is None or not layouts:
            continue
        # Grid points that the texts span, both ends included.
        spans = [[(length + step - 2) // step + 1 for length in (text.height, text.width)] for text in layouts]
        num_covered = np.pad(grid[box] == index + 1, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.int32).cumsum(axis=1)
        if not _find_places(num_covered, *np.min(spans, axis=0)).any():
            continue
        for layout, span in zip(layouts, spans, strict=True):
            places = _find_places(num_covered, *span)
            if places.any():
                row, column = _choose_central(places)
                draw.multiline_text(
                    (step * (box[1].start + column) - layout.left, step * (box[0].start + row) - layout.top),
                    layout.text,
                    fill="white",
                    font=layout.font,
                    align="center",
                    stroke_width=layout.halo,
                    stroke_fill="black",
                )
                break


def _find_places(num_covered: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Returns where a box of `height` x `width` points lies in a mask.

    Args:
        num_covered: `(mask_height + 1, mask_width + 1)`, the number of mask points above and left of each corner.

    Returns:
        `(mask_height - height + 1, mask_width - width + 1)` bool by the box's upper left point, empty if it is larger.
    """
    rows, columns = (max(0, length - side) for length, side in zip(num_covered.shape, (height, width), strict=True))
    above, below = num_covered[:rows], num_covered[height:]
    return (below[:, width:] - below[:, :columns] - above[:, width:] + above[:, :columns]) == height * width


def _choose_central(places: np.ndarray) -> tuple[int, int]:
    """Returns `(row, column)` of the middle one among the places with most room to all sides, or nearly."""
    room = ndimage.distance_transform_edt(np.pad(places, 1))[1:-1, 1:-1]
    roomy = np.argwhere(room >= 0.9 * room.max())
    row, column = roomy[((roomy - roomy.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)


@cache
def _break_lines(name: str) -> list[str]:
    """Returns `name` on one line, two, ... up to `MAX_NAME_LINES`, each as narrow as words allow."""
    arrangements = []
    for num_lines in range(1, MAX_NAME_LINES + 1):
        for width in range(max(1, len(name) // num_lines), len(name) + 1):
            lines = textwrap.wrap(name, width, break_long_words=width >= MAX_WORD_LENGTH)
            if len(lines) <= num_lines:
                arrangements.append("\n".join(lines))
                break
    return list(dict.fromkeys(arrangements))


@lru_cache(maxsize=1024)
def _lay_out(name: str, font_file: str | None, largest_font_size: int) -> list[_Layout]:
    """Returns the ways to write a name, the largest first."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    layouts = []
    font_size = largest_font_size
    while font_size >= max(MIN_FONT_SIZE, largest_font_size // 4):
        font, halo = _load_font(font_file, font_size), round(font_size / 8)
        for text in _break_lines(name):
            bounds = draw.multiline_textbbox((0, 0), text, font=font, align="center", stroke_width=halo)
            left, top = (math.floor(bound) for bound in bounds[:2])
            right, bottom = (math.ceil(bound) for bound in bounds[2:])
            layouts.append(_Layout(text, font, halo, left, top, right - left, bottom - top))
        font_size = min(font_size - 1, round(0.87 * font_size))
    return layouts


def shorten_name(name: str | None, label_id: int) -> str:
    """Returns a class's name on one short line of visible letters; its number where nothing is left."""
    if name is None:
        return str(label_id)
    text = "".join(letter for letter in " ".join(str(name).split()) if letter.isprintable())
    if len(text) > MAX_NAME_LENGTH:
        text = text[: MAX_NAME_LENGTH - 1] + "…"
    return text or (str(label_id) if name else "")


def _make_writable(name: str | None, label_id: int) -> tuple[str, str | None]:
    """Returns the name and a font that has its letters; else the name without accents, else the class's number."""
    name = shorten_name(name, label_id)
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    texts = (name, plain, str(label_id))
    return next((text, file) for text in texts for file in _find_fonts() if _has_letters(file, text))


@cache
def _load_font(file: str | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)  # type: ignore[return-value]


@cache
def _find_fonts() -> list[str | None]:
    fonts = []
    for file in FONTS:
        try:
            _load_font(file, MIN_FONT_SIZE)
        except OSError:  # not on this system
            continue
        fonts.append(file)
    return fonts


@cache
def _has_letters(file: str | None, text: str) -> bool:
    """Returns whether the font draws no letter as the box that stands for a missing one."""
    font = _load_font(file, 20)
    missing = bytes(font.getmask("\U0010ffff"))
    return all(bytes(font.getmask(letter)) != missing for letter in text if letter != " ")

"""Figures for people: input, target, prediction and mistakes side by side, above a legend."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from image_processing_eomt import class_color, draw_segmentation
from image_processing_eomt.visualization_eomt import shorten_name

from .mistakes import KINDS, RIGHT, find_mistakes


MIN_PANEL_SIZE = 320  # pixels of a panel's longer side; smaller images are enlarged by a whole factor
MARGIN = 12
TEXT_SIZE = 15
BACKGROUND, INK = (250, 250, 250), (30, 30, 30)

# As post-processing returns it: `segmentation`, the map of segment ids, and `segments_info`.
Segmentation = Mapping[str, Any]
Color = tuple[int, int, int]


def as_segments(result: Any) -> Segmentation:
    """Converts what post-processing returns for any task to a map of segments and their classes, to be drawn."""
    if not isinstance(result, dict):  # a map of classes
        classes = np.asarray(result.cpu())
        found = [label_id for label_id in np.unique(classes).tolist() if label_id >= 0]
        return {"segmentation": classes, "segments_info": [{"id": id_, "label_id": id_} for id_ in found]}
    return {**result, "segmentation": np.asarray(result["segmentation"].cpu())}


def overlapping_segments(result: Mapping[str, Any], size: tuple[int, int]) -> Segmentation:
    """Paints instances, run lengths with the best first, into a map of `(height, width)`, the best one on top."""
    segmentation = np.full(size, -1, dtype=np.int32)
    for rle, info in reversed(list(zip(result["segmentation"], result["segments_info"], strict=True))):
        segmentation[coco_mask.decode(rle).view(bool)] = info["id"]
    return {**result, "segmentation": segmentation}


def side_by_side(
    image: Image.Image,
    segmentations: Mapping[str, Segmentation],
    id2label: Any,
    mistakes: np.ndarray | None = None,
) -> Image.Image:
    """
    Draws an image and segmentations of it in a row, above a legend of the classes that occur. Pillow draws a figure in
    milliseconds.

    Args:
        image: the image.
        segmentations: caption -> segmentation of the image.
        id2label: names of the classes.
        mistakes: `(height, width)`, as [`find_mistakes`] returns them, for one more panel with a legend of its own.
    """
    factor = max(1, -(-MIN_PANEL_SIZE // max(image.size)))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    panels = {"input": image}
    for caption, result in segmentations.items():
        enlarged = result["segmentation"].repeat(factor, axis=0).repeat(factor, axis=1)
        panels[caption] = draw_segmentation(image, enlarged, result["segments_info"], id2label)
    label_ids = {info["label_id"] for result in segmentations.values() for info in result["segments_info"]}
    classes = [(class_color(id_), shorten_name(id2label.get(id_), id_)) for id_ in sorted(label_ids)]
    kinds = []
    if mistakes is not None:
        kinds = [(color, name) for kind, (name, color) in KINDS.items() if (mistakes == kind).any()]
        caption = f"mistakes: {(mistakes != RIGHT).mean():.1%} of the pixels"
        panels[caption] = _mark_mistakes(image, mistakes.repeat(factor, axis=0).repeat(factor, axis=1))

    font = ImageFont.load_default(size=TEXT_SIZE)
    width = len(panels) * (image.width + MARGIN) + MARGIN
    rows = [row for entries in (classes, kinds) for row in _break_legend(entries, font, width)]
    line = TEXT_SIZE + MARGIN
    figure = Image.new("RGB", (width, line + image.height + MARGIN + line * len(rows) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(figure)
    for index, (caption, panel) in enumerate(panels.items()):
        left = MARGIN + index * (image.width + MARGIN)
        draw.text((left, MARGIN / 2), caption, fill=INK, font=font)
        figure.paste(panel, (left, line))
    top = line + image.height + MARGIN
    for row in rows:
        left = MARGIN
        for color, name, entry_width in row:
            draw.rectangle((left, top + 1, left + TEXT_SIZE, top + 1 + TEXT_SIZE), fill=color)
            draw.text((left + TEXT_SIZE + 6, top), name, fill=INK, font=font)
            left += entry_width
        top += line
    return figure


def draw_comparison(
    image: Image.Image, target: Segmentation, prediction: Segmentation, id2label: Any, has_background: bool = False
) -> Image.Image:
    """
    Draws an image, its target, a prediction and where they differ in a row.

    Args:
        image, id2label: as for [`side_by_side`].
        target, prediction, has_background: as for [`find_mistakes`].
    """
    mistakes = find_mistakes(target, prediction, has_background)
    return side_by_side(image, {"target": target, "prediction": prediction}, id2label, mistakes)


def _mark_mistakes(image: Image.Image, mistakes: np.ndarray) -> Image.Image:
    """Paints mistakes over the image, which is pale and grey under them."""
    palette = np.zeros((1 + max(KINDS), 3), dtype=np.float32)
    for kind, (_, color) in KINDS.items():
        palette[kind] = color
    pale = 0.4 * np.asarray(image.convert("L"), dtype=np.float32)[..., None] + 0.6 * 245
    opacity = np.where(mistakes == RIGHT, 0.0, 0.8)[..., None]
    return Image.fromarray((pale + opacity * (palette[mistakes] - pale)).astype(np.uint8))


def _break_legend(entries: Sequence[tuple[Color, str]], font: Any, width: int) -> list[list[tuple[Color, str, int]]]:
    """Returns legend entries `(colour, name, width in pixels)`, broken into rows that fit into `width`."""
    rows: list[list[tuple[Color, str, int]]] = []
    used = width
    for color, name in entries:
        entry_width = TEXT_SIZE + 6 + int(font.getlength(name)) + 2 * MARGIN
        if not rows or used + entry_width > width:
            rows.append([])
            used = MARGIN
        rows[-1].append((color, name, entry_width))
        used += entry_width
    return rows

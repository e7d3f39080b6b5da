"""A generated panoptic dataset: circles, squares, triangles and stars on grass and water.

It is small, needs no download, and is written in COCO panoptic format, so training on it takes the same path as
training on COCO. Each kind of shape has its family of colours, with neighbouring families close to each other.

    python -m training_eomt.shapes shapes_dataset --num-train 2000
"""

from __future__ import annotations

import argparse
import colorsys
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .data.colours import decode_rgb
from .data.samples import Category


THINGS = ("circle", "square", "triangle", "star")
STUFF = ("grass", "water")
CATEGORIES = tuple(Category(i, name, name in THINGS) for i, name in enumerate(THINGS + STUFF, start=1))
SPLITS = ("train", "validation", "test")

# Hues of each kind of shape, as fractions of the colour circle: crimson to red, orange, yellow, purple to pink. None
# is close to grass or water; saturation and brightness vary widely.
HUES = {"circle": (0.95, 1.02), "square": (0.04, 0.10), "triangle": (0.12, 0.17), "star": (0.76, 0.90)}
SATURATION, BRIGHTNESS = (0.55, 0.95), (0.55, 1.0)
GRASS_COLOUR = np.array([85, 140, 60], dtype=np.float32)
WATER_COLOUR = np.array([45, 105, 170], dtype=np.float32)

SHAPES_PER_IMAGE = (2, 5)
SHAPE_SIZE = (0.15, 0.45)  # of the image's shorter side
CIRCUMRADIUS = {"circle": 0.5, "square": 0.62, "triangle": 0.68, "star": 0.68}  # of the size: similar areas
MIN_VISIBLE_AREA = 0.003  # of the image
MIN_VISIBLE_PART = 0.5  # of the shape as it was drawn
PLACEMENT_TRIES = 20
GENERATOR_VERSION = 1  # a folder written by another version is not reused


def generate_shapes_dataset(
    directory: str | Path,
    num_train: int = 2000,
    num_validation: int = 200,
    num_test: int = 20,
    image_size: int | tuple[int, int] = 96,
    seed: int = 0,
) -> Path:
    """Writes `train/`, `validation/` and `test/`, each with `images/`, `panoptic/` and `panoptic.json`.

    The same arguments give the same bytes. Image `i` of a split depends on the seed, the split, `i` and `image_size`
    only. A folder that already holds the dataset with the same arguments is left as it is.

    Args:
        image_size: side of the square images in pixels, or `(smallest, largest)`: height and width are then drawn
            independently for every image.

    Returns:
        The directory.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: the directory holds anything else.
    """
    directory = Path(directory)
    smallest, largest = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not 32 <= smallest <= largest:
        raise ValueError(f"image_size must be at least 32 pixels and (smallest, largest) in order, got {image_size}.")
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    if min(counts.values()) < 0:
        raise ValueError(f"Numbers of images cannot be negative, got {counts}.")

    arguments = {**counts, "image_size": [smallest, largest], "seed": seed, "version": GENERATOR_VERSION}
    if _holds_dataset(directory, arguments):
        return directory

    # Written beside the directory and moved at the end: an interrupted run leaves no half dataset behind.
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        unfinished = Path(temporary) / "dataset"
        for split_index, split in enumerate(SPLITS):
            _write_split(unfinished / split, counts[split], (smallest, largest), seed, split_index)
        (unfinished / "shapes.json").write_text(json.dumps(arguments, indent=1))
        # Another process may have finished the same dataset in the meantime.
        if not _holds_dataset(directory, arguments):
            if directory.exists():
                directory.rmdir()
            unfinished.rename(directory)
    return directory


def draw_image(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draws one image.

    Returns:
        The image `(height, width, 3)` uint8; a map of segment numbers `(height, width)` that start at 0; and the
        category id of every segment.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grass = _grass_region(rng, y, x)
    image = np.where(grass[..., None], _grass(rng, height, width), _water(rng, y, x))
    segments = np.where(grass, 0, 1)
    category_ids = [len(THINGS) + 1, len(THINGS) + 2]
    drawn_areas = [0.0, 0.0]

    for _ in range(rng.integers(SHAPES_PER_IMAGE[0], SHAPES_PER_IMAGE[1] + 1)):
        kind = int(rng.integers(len(THINGS)))
        hue, saturation, brightness = (rng.uniform(*span) for span in (HUES[THINGS[kind]], SATURATION, BRIGHTNESS))
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, brightness))
        for _ in range(PLACEMENT_TRIES):
            inside, direction = _place_shape(rng, THINGS[kind], y, x)
            placed = np.where(inside, len(category_ids), segments)
            areas = np.bincount(placed.ravel(), minlength=len(category_ids) + 1)
            needed = [MIN_VISIBLE_PART * area for area in [*drawn_areas, inside.sum()]]
            if (areas >= np.maximum(needed, MIN_VISIBLE_AREA * inside.size)).all():
                segments = placed
                category_ids.append(kind + 1)
                drawn_areas.append(float(inside.sum()))
                shade = 14 * direction + rng.normal(0, 7, inside.shape)
                image = np.where(inside[..., None], colour + shade[..., None], image)
                break
    return image.clip(0, 255).astype(np.uint8), segments, category_ids


def _grass_region(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One side of a wavy line across the image, `(height, width)` bool."""
    height, width = y.shape
    angle = rng.uniform(0, 2 * np.pi)
    u, v = (x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5
    across = np.cos(angle) * u + np.sin(angle) * v
    along = np.cos(angle) * v - np.sin(angle) * u
    wave = rng.uniform(0.02, 0.06) * np.sin(2 * np.pi * (rng.uniform(1, 2.5) * along + rng.uniform()))
    return across + wave > rng.uniform(-0.2, 0.2)


def _grass(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Upright streaks of light and dark green, `(height, width, 3)`."""
    blade_length = 7
    noise = rng.normal(0, 1, (height + blade_length - 1, width))
    rows = np.cumsum(np.vstack([np.zeros((1, width)), noise]), axis=0)
    streaks = (rows[blade_length:] - rows[:-blade_length]) / np.sqrt(blade_length)
    light = 20 * streaks + rng.normal(0, 6, (height, width))
    return GRASS_COLOUR + rng.normal(0, 8, 3) + light[..., None] * np.array([0.8, 1.0, 0.5])


def _water(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Level ripples of light and dark blue, `(height, width, 3)`."""
    ripple_height, ripple_width = rng.uniform(7, 12), rng.uniform(18, 40)  # pixels
    bend = 0.25 * np.sin(2 * np.pi * (x / ripple_width + rng.uniform()))
    light = 18 * np.sin(2 * np.pi * (y / ripple_height + bend + rng.uniform())) + rng.normal(0, 6, y.shape)
    return WATER_COLOUR + rng.normal(0, 8, 3) + light[..., None] * np.array([0.7, 0.9, 1.0])


def _place_shape(rng: np.random.Generator, kind: str, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A shape at a random place, size and rotation.

    Returns:
        Its region `(height, width)` bool, and a ramp from about -1 to 1 across it, for shading.
    """
    height, width = y.shape
    radius = rng.uniform(*SHAPE_SIZE) * min(height, width) * CIRCUMRADIUS[kind]
    centre_y, centre_x = rng.uniform(0.12, 0.88, 2) * (height, width)
    dy, dx = (y + 0.5 - centre_y) / radius, (x + 0.5 - centre_x) / radius
    inside = _inside_shape(kind, np.hypot(dy, dx), np.arctan2(dy, dx) + rng.uniform(0, 2 * np.pi))
    light_angle = rng.uniform(0, 2 * np.pi)
    return inside, np.cos(light_angle) * dx + np.sin(light_angle) * dy


def _inside_shape(kind: str, distance: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Whether points in polar coordinates lie in a shape whose corners are at distance 1."""
    if kind == "circle":
        return distance <= 1
    corners = {"square": 4, "triangle": 3, "star": 5}[kind]
    half_sector = np.pi / corners
    from_corner = np.abs((angle + half_sector) % (2 * half_sector) - half_sector)  # 0 at a corner
    # One straight edge from a corner (1, 0) to the middle of the side, or to the inner corner of the star.
    inner_radius = 0.42 if kind == "star" else np.cos(half_sector)
    edge_x, edge_y = inner_radius * np.cos(half_sector) - 1, inner_radius * np.sin(half_sector)
    point_x, point_y = distance * np.cos(from_corner) - 1, distance * np.sin(from_corner)
    return edge_x * point_y - edge_y * point_x >= 0


def _write_split(directory: Path, num_images: int, image_size: tuple[int, int], seed: int, split_index: int) -> None:
    (directory / "images").mkdir(parents=True)
    (directory / "panoptic").mkdir()
    images, annotations = [], []
    for index in range(num_images):
        rng = np.random.default_rng([seed, split_index, index])
        height, width = (int(side) for side in rng.integers(image_size[0], image_size[1] + 1, 2))
        image, segments, category_ids = draw_image(rng, height, width)
        # Ids spread over all 24 bits, as in COCO, so that neighbours differ in colour.
        segment_ids = (np.arange(1, len(category_ids) + 1) * 2654435) % 2**24
        file_name = f"{index:06d}.png"
        Image.fromarray(image).save(directory / "images" / file_name)
        Image.fromarray(decode_rgb(segment_ids[segments])).save(directory / "panoptic" / file_name)
        images.append({"id": index, "file_name": file_name, "height": height, "width": width})
        segments_info = [
            _segment_info(segments == number, int(segment_ids[number]), category_id)
            for number, category_id in enumerate(category_ids)
        ]
        annotations.append({"image_id": index, "file_name": file_name, "segments_info": segments_info})
    categories = [{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (directory / "panoptic.json").write_text(json.dumps(content))


def _segment_info(mask: np.ndarray, segment_id: int, category_id: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]  # x, y, width, height
    return {
        "id": segment_id,
        "category_id": category_id,
        "area": int(mask.sum()),
        "bbox": [int(value) for value in box],
        "iscrowd": 0,
    }


def _holds_dataset(directory: Path, arguments: dict[str, Any]) -> bool:
    """Whether the directory already holds the dataset with these arguments; False if it is empty or missing."""
    if not directory.exists() or not any(directory.iterdir()):
        return False
    settings = directory / "shapes.json"
    if not settings.is_file():
        raise FileExistsError(f"{directory} is not empty and holds no shapes dataset. Choose another directory.")
    found = json.loads(settings.read_text(encoding="utf-8"))
    if found != arguments:
        raise FileExistsError(
            f"{directory} holds a shapes dataset made with {found}, asked for was {arguments}. "
            "Delete it or choose another directory."
        )
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training_eomt.shapes",
        description="Write a generated panoptic dataset (shapes on grass and water) in COCO format.",
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--num-train", type=int, default=2000)
    parser.add_argument("--num-validation", type=int, default=200)
    parser.add_argument("--num-test", type=int, default=20)
    parser.add_argument(
        "--image-size", type=int, nargs="+", default=[96], help="one side, or the smallest and largest"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if len(arguments.image_size) > 2:
        parser.error("--image-size takes one or two numbers")
    image_size = (arguments.image_size[0], arguments.image_size[-1])
    counts = (arguments.num_train, arguments.num_validation, arguments.num_test)
    try:
        directory = generate_shapes_dataset(arguments.directory, *counts, image_size, arguments.seed)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f"Shapes dataset in {directory}")


if __name__ == "__main__":
    main()

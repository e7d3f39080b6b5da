"""
Generated landscapes: balloons, boats, cars, houses and trees before sky, mountains, grass, water and a road.

Lengths are fractions of the image, so that a scene looks the same at every resolution.
"""

from __future__ import annotations

import numpy as np

from .scene_ground import SURFACES, Ground
from .scene_things import KINDS, Tile


NUM_CANDIDATES = (3, 6)  # things that are tried; those that would hide too much of others are left out
MIN_VISIBLE_AREA = 0.003  # of the image
MIN_VISIBLE_PART = 0.5  # of a thing or of stuff as it was drawn
NOISE = 2.5  # of a camera, of 255


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """
    Draws one scene.

    Returns:
        The image `(height, width, 3)` uint8; a map of segment numbers `(height, width)` that start at 0; and the class
        of every segment.
    """
    ground = Ground(rng, height, width)
    image = ground.image
    areas = np.bincount(ground.classes.ravel(), minlength=len(SURFACES))
    names = [name for name, area in zip(SURFACES, areas, strict=True) if area]
    segments = (np.cumsum(areas > 0) - 1)[ground.classes]
    drawn_areas = areas = areas[areas > 0]
    for name, row, column in _choose_places(rng, ground):
        nearness = rng.uniform() if name == "balloon" else (row / height - ground.horizon) / (1 - ground.horizon)
        far, near = KINDS[name].sizes
        size = (far + (near - far) * nearness) * rng.uniform(0.85, 1.15) * min(height, width)
        window, tile = _cut_tile(rng, row, column, size, KINDS[name].half_width, (height, width))
        KINDS[name].draw(tile, rng)
        is_thing = tile.coverage > 0.5
        hidden = np.bincount(segments[window][is_thing], minlength=len(names))
        left, drawn = (np.append(each, is_thing.sum()) for each in (areas - hidden, drawn_areas))
        if (left < np.maximum(MIN_VISIBLE_PART * drawn, MIN_VISIBLE_AREA * segments.size)).any():
            continue
        segments[window][is_thing] = len(names)
        names.append(name)
        areas, drawn_areas = left, drawn
        if name != "balloon":
            _cast_shadow(image[window], tile)
        image[window] *= 1 - tile.coverage[..., None]
        image[window] += tile.colour * ground.light
    image += NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return image.clip(0, 255).astype(np.uint8), segments, names


def _choose_places(rng: np.random.Generator, ground: Ground) -> list[tuple[str, int, int]]:
    """Chooses things and the rows and columns of their feet, in the order to draw them: the farthest first."""
    height, width = ground.classes.shape
    inner = np.zeros_like(ground.classes, dtype=bool)  # most of a thing that stands there is in the image
    inner[:, width // 10 : width - width // 10] = True
    feet = {
        name: np.flatnonzero(inner & (ground.classes == SURFACES.index(kind.ground))) for name, kind in KINDS.items()
    }
    found = [name for name in KINDS if len(feet[name])]
    places = []
    for name in rng.choice(found, rng.integers(NUM_CANDIDATES[0], NUM_CANDIDATES[1] + 1)).tolist():
        row, column = divmod(int(rng.choice(feet[name])), width)
        if name == "balloon":  # hangs from where there is sky, and not from the very top
            row = int(rng.uniform(0.3, ground.horizon) * height)
        places.append((name, row, column))
    return sorted(places, key=lambda place: (place[0] != "balloon", place[1]))


def _cut_tile(
    rng: np.random.Generator, row: int, column: int, size: float, half_width: float, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], Tile]:
    """Returns the window of the image round a thing, given its foot and its height, and the tile to draw it on."""
    reach = (half_width + 0.05) * size
    rows = slice(max(0, int(row - 1.05 * size)), min(shape[0], int(row + 0.1 * size) + 2))
    columns = slice(max(0, int(column - reach)), min(shape[1], int(column + reach) + 2))
    y, x = np.mgrid[rows, columns].astype(np.float32)
    mirror = 1 if rng.random() < 0.5 else -1
    return (rows, columns), Tile(mirror * (x + 0.5 - column) / size, (row - y + 0.5) / size, size)


def _cast_shadow(image: np.ndarray, tile: Tile) -> None:
    """Darkens what is round the foot of a thing."""
    half_width = np.abs(tile.u[:, tile.coverage.any(axis=0)]).max()
    distance = np.hypot(tile.u / (1.1 * half_width), (tile.v - 0.01) / 0.09)
    image *= 1 - 0.4 * np.clip(1.25 - distance, 0, 1)[..., None]

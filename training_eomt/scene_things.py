"""The things of generated landscapes, made of ellipses and convex polygons."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np


Colour = Sequence[float] | np.ndarray  # red, green and blue, 0 to 255, of a whole part or `(height, width, 3)`
Points = Sequence[tuple[float, float]]

WALLS = ((240, 226, 196), (236, 206, 170), (226, 180, 160), (206, 218, 226), (244, 240, 232), (232, 214, 130))
ROOFS = ((176, 74, 52), (150, 58, 48), (120, 76, 58), (92, 96, 110), (196, 104, 66))
LIGHT = (-0.6, 0.8)  # where the light comes from: left, and more so from above
GLASS, TYRE, TRUNK, WICKER = (150, 190, 215), (38, 38, 42), (98, 70, 48), (140, 98, 58)


class Tile:
    """
    The part of an image that a thing may cover.

    Coordinates are in heights of the thing: `u` to the right of its middle, `v` upwards from its foot. Parts are given
    by their signed distance, negative inside, so that an edge covers pixels partly, as a lens would draw it.

    Args:
        u: `(height, width)` of the middles of pixels.
        v: the same, upwards.
        size: height of the thing in pixels.
    """

    def __init__(self, u: np.ndarray, v: np.ndarray, size: float) -> None:
        self.u, self.v, self.size = u, v, size
        self.colour = np.zeros((*u.shape, 3), dtype=np.float32)  # times the coverage
        self.coverage = np.zeros(u.shape, dtype=np.float32)

    def paint(self, distance: np.ndarray, colour: Colour) -> None:
        """Paints a part over those before it."""
        cover = np.clip(0.5 - distance * self.size, 0, 1)
        self.coverage += cover * (1 - self.coverage)
        self.colour += cover[..., None] * (np.asarray(colour, dtype=np.float32) - self.colour)

    def ellipse(self, u: float, v: float, radius_u: float, radius_v: float) -> np.ndarray:
        """Returns the signed distance from an ellipse, near its edge."""
        return (np.hypot((self.u - u) / radius_u, (self.v - v) / radius_v) - 1) * min(radius_u, radius_v)

    def box(self, left: float, bottom: float, right: float, top: float) -> np.ndarray:
        """Returns the signed distance from a box."""
        across = np.abs(self.u - (left + right) / 2) - (right - left) / 2
        return np.maximum(across, np.abs(self.v - (bottom + top) / 2) - (top - bottom) / 2)

    def polygon(self, points: Points) -> np.ndarray:
        """Returns the signed distance from a convex polygon whose corners go round against the clock."""
        distances = []
        for (u, v), (next_u, next_v) in zip(points, [*points[1:], points[0]], strict=True):
            du, dv = next_u - u, next_v - v
            distances.append(((self.u - u) * dv - (self.v - v) * du) / np.hypot(du, dv))
        return np.max(distances, axis=0)


def shade(colour: Colour, light: np.ndarray | float) -> np.ndarray:
    """Returns a colour in more (1) or less light (0), `(height, width, 3)` where the light is `(height, width)`."""
    return np.asarray(colour, dtype=np.float32) * np.asarray(light, dtype=np.float32)[..., None]


def _pick_colour(rng: np.random.Generator, *spans: tuple[float, float]) -> np.ndarray:
    """Picks a colour from ranges of hue, saturation and brightness, each 0 to 1."""
    hue, saturation, brightness = (rng.uniform(*span) for span in spans)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, brightness))


def _choose(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    return np.array(colours[int(rng.integers(len(colours)))], dtype=np.float32)


def draw_balloon(tile: Tile, rng: np.random.Generator) -> None:
    """A hot-air balloon in stripes of two colours."""
    first = _pick_colour(rng, (0.0, 1.0), (0.7, 0.95), (0.75, 1.0))
    second = _pick_colour(rng, (0.08, 0.17), (0.1, 0.8), (0.9, 1.0)) if rng.random() < 0.6 else first * 0.25 + 190
    num_stripes, turn = int(rng.integers(5, 9)), rng.uniform(0, 2)
    middle, radius = 0.63, 0.36
    # The half width of the envelope: a circle's, and from there on straight down to the basket.
    straight = 0.08 + (np.clip(tile.v, 0.16, 0.45) - 0.16) * 0.78
    round_ = np.sqrt(np.clip(radius**2 - (tile.v - middle) ** 2, 1e-6, None))
    across = np.clip(tile.u / np.where(tile.v > 0.45, round_, straight), -1, 1)
    stripe = np.clip(0.5 + 4 * np.sin(np.pi * ((np.arcsin(across) / np.pi + 0.5) * num_stripes + turn)), 0, 1)
    light = 0.86 + 0.24 * (LIGHT[0] * across + LIGHT[1] * np.clip((tile.v - middle) / radius, -1, 1))
    envelope = np.minimum(
        tile.ellipse(0, middle, radius, radius),
        tile.polygon([(-0.08, 0.16), (0.08, 0.16), (0.31, 0.45), (-0.31, 0.45)]),
    )
    tile.paint(tile.box(-0.075, 0.0, 0.075, 0.125), shade(WICKER, 0.85 + 0.25 * np.sin(40 * tile.v)))
    for side in (-0.06, 0.06):
        tile.paint(tile.box(side - 0.012, 0.1, side + 0.012, 0.2), (70, 60, 55))
    tile.paint(envelope, shade(first + stripe[..., None] * (second - first), light))


def draw_boat(tile: Tile, rng: np.random.Generator) -> None:
    """A boat with a mast and two sails."""
    hull = _choose(rng, [(236, 232, 224), (170, 48, 44), (44, 60, 104), (232, 170, 60), (60, 120, 110)])
    main = (
        np.array((246, 242, 232)) if rng.random() < 0.55 else _pick_colour(rng, (0.0, 0.14), (0.5, 0.8), (0.85, 1.0))
    )
    jib = 0.93 * main if rng.random() < 0.6 else _pick_colour(rng, (0.0, 0.12), (0.6, 0.9), (0.8, 1.0))
    folds = 0.95 + 0.05 * np.sin(22 * tile.v + 6 * tile.u)
    tile.paint(tile.polygon([(0.0, 0.2), (0.42, 0.22), (0.02, 0.97)]), shade(main, folds - 0.35 * tile.u))
    tile.paint(tile.polygon([(-0.4, 0.2), (0.0, 0.2), (0.0, 0.88)]), shade(jib, folds + 0.2 * tile.u))
    tile.paint(tile.box(-0.015, 0.15, 0.015, 1.0), (92, 72, 58))
    body = tile.polygon([(-0.34, 0.0), (0.3, 0.0), (0.46, 0.2), (-0.46, 0.2)])
    tile.paint(body, shade(hull, 0.78 + 1.3 * np.clip(tile.v, 0, 0.2)))
    tile.paint(np.maximum(body, np.abs(tile.v - 0.155) - 0.018), (250, 248, 240))


def draw_car(tile: Tile, rng: np.random.Generator) -> None:
    """A car from the side; its height is half its length."""
    paint = _pick_colour(rng, (0.0, 1.0), (0.75, 0.95) if rng.random() < 0.75 else (0.0, 0.05), (0.35, 0.95))
    back = rng.uniform(-0.75, -0.5)
    roof = [(back, 0.55), (0.5, 0.55), (0.22, 0.98), (back + 0.15, 0.98)]
    light = 0.72 + 0.4 * np.clip(tile.v, 0, 1)
    tile.paint(tile.polygon(roof), shade(paint, light))
    for left, right, slope_left, slope_right in ((back + 0.09, -0.14, 0.1, 0.0), (-0.06, 0.4, 0.0, 0.2)):
        window = [(left, 0.6), (right, 0.6), (right - slope_right, 0.9), (left + slope_left, 0.9)]
        tile.paint(tile.polygon(window), shade(GLASS, 0.7 + 0.5 * np.clip(tile.v - tile.u / 3, 0, 1)))
    body = np.minimum(
        tile.polygon([(-0.92, 0.2), (0.96, 0.2), (0.94, 0.5), (0.5, 0.6), (-0.88, 0.62)]),
        tile.box(-0.9, 0.2, 0.9, 0.48),
    )
    tile.paint(body, shade(paint, light * np.where(tile.v < 0.27, 0.6, 1.0)))
    tile.paint(tile.ellipse(0.9, 0.42, 0.06, 0.07), (255, 244, 190))
    tile.paint(tile.box(-0.92, 0.4, -0.86, 0.52), (190, 30, 30))
    for middle in (-0.54, 0.56):
        tile.paint(tile.ellipse(middle, 0.19, 0.19, 0.19), TYRE)
        tile.paint(tile.ellipse(middle, 0.19, 0.09, 0.09), (190, 192, 196))


def draw_house(tile: Tile, rng: np.random.Generator) -> None:
    """A house with a gable, a door, windows and, mostly, a chimney."""
    wall, roof = _choose(rng, WALLS), _choose(rng, ROOFS)
    half, eaves, ridge = rng.uniform(0.36, 0.46), rng.uniform(0.46, 0.54), rng.uniform(0.0, 0.2)
    if rng.random() < 0.7:
        tile.paint(tile.box(0.17, 0.7, 0.27, 1.0), shade((150, 96, 80), 0.95 - 0.6 * np.clip(tile.u - 0.2, 0, 1)))
    tile.paint(tile.box(-half, 0.0, half, eaves + 0.02), shade(wall, 0.97 - 0.22 * tile.u / half))
    gable = [(-half - 0.08, eaves), (half + 0.08, eaves), (ridge, 0.96), (-ridge, 0.96)]
    tile.paint(tile.polygon(gable), shade(roof, 0.98 - 0.25 * tile.u + 0.07 * np.sign(np.sin(75 * tile.v))))
    middles = [-0.24, 0.0, 0.24]
    door = middles.pop(rng.integers(3))
    for middle in middles:
        if middle or half > 0.4:  # between two others there must be room
            tile.paint(tile.box(middle - 0.085, 0.17, middle + 0.085, 0.38), (250, 248, 242))
            tile.paint(tile.box(middle - 0.065, 0.19, middle + 0.065, 0.36), shade(GLASS, 0.55 + tile.v))
            tile.paint(tile.box(middle - 0.008, 0.19, middle + 0.008, 0.36), (250, 248, 242))
    tile.paint(tile.box(door - 0.075, 0.0, door + 0.075, 0.3), 0.75 * roof)


def draw_tree(tile: Tile, rng: np.random.Generator) -> None:
    """A round tree, green or in autumn's colours, or a fir."""
    tile.paint(tile.box(-0.05, 0.0, 0.05, 0.4), shade(TRUNK, 0.9 - 3 * tile.u))
    leaves = np.sin(61 * tile.u + 7 * np.sin(23 * tile.v)) * np.sin(53 * tile.v + 5 * np.sin(29 * tile.u))
    if rng.random() < 0.4:
        fir = _pick_colour(rng, (0.36, 0.46), (0.45, 0.7), (0.3, 0.5))
        for bottom, top, half in ((0.12, 0.55, 0.34), (0.34, 0.78, 0.27), (0.57, 1.0, 0.19)):
            light = 0.72 + 0.55 * (tile.v - bottom) / (top - bottom) - 0.5 * tile.u + 0.08 * leaves
            tile.paint(tile.polygon([(-half, bottom), (half, bottom), (0, top)]), shade(fir, light))
        return
    hues = [(0.22, 0.33), (0.26, 0.36), (0.03, 0.12)][rng.integers(3)]
    crown = _pick_colour(rng, hues, (0.55, 0.8), (0.45, 0.75) if hues[0] > 0.2 else (0.75, 0.95))
    blobs = [(0.0, 0.64, 0.3)]
    for angle in rng.uniform(0, 0.9) + np.arange(5) * 2 * np.pi / 5:
        blobs.append((0.2 * np.cos(angle), 0.64 + 0.17 * np.sin(angle), rng.uniform(0.15, 0.2)))
    distance = np.min([tile.ellipse(u, v, radius, radius) for u, v, radius in blobs], axis=0)
    light = 0.88 + 0.75 * (LIGHT[0] * tile.u + LIGHT[1] * (tile.v - 0.64)) + 0.09 * leaves
    tile.paint(distance, shade(crown, light))


class Kind(NamedTuple):
    """
    A kind of thing.

    Args:
        ground: the stuff that it stands on, floats on or flies in.
        sizes: its height as a fraction of the image's shorter side, at the horizon and at the bottom of the image.
        half_width: the farthest that it reaches from its middle, in heights.
        draw: paints one onto a tile, with a look of its own.
    """

    ground: str
    sizes: tuple[float, float]
    half_width: float
    draw: Callable[[Tile, np.random.Generator], None]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "balloon": Kind("sky", (0.3, 0.46), 0.38, draw_balloon),
        "boat": Kind("water", (0.26, 0.48), 0.48, draw_boat),
        "car": Kind("road", (0.15, 0.24), 1.0, draw_car),
        "house": Kind("grass", (0.28, 0.46), 0.56, draw_house),
        "tree": Kind("grass", (0.32, 0.56), 0.42, draw_tree),
    }
)

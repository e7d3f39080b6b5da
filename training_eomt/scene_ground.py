"""What generated landscapes consist of where there are no things: sky, mountains, grass, water and a road."""

from __future__ import annotations

import numpy as np
from PIL import Image


SURFACES = ("sky", "mountain", "grass", "water", "road")

# What lies before the sky and the mountains, from the horizon to the bottom of the image.
LAYOUTS = (
    ("grass",),
    ("water", "grass"),
    ("grass", "water"),
    ("grass", "road", "grass"),
    ("water", "grass", "road", "grass"),
    ("grass", "water", "grass"),
    ("grass", "road", "grass", "water"),
    ("water", "road", "grass"),
)
# Of a time of day: the sky at the top, the sky at the horizon, and the light on everything else.
DAYLIGHTS = (
    ((62, 124, 205), (196, 224, 244), (1.0, 1.0, 1.0)),
    ((40, 96, 184), (170, 208, 238), (1.02, 1.02, 0.98)),
    ((96, 152, 212), (240, 234, 214), (1.03, 0.99, 0.92)),
    ((92, 94, 170), (252, 192, 152), (1.02, 0.91, 0.85)),
    ((122, 142, 168), (214, 222, 226), (0.92, 0.94, 0.97)),
)
CLOUD, SUN, SNOW, SAND, LINE = (255, 252, 248), (255, 246, 205), (240, 244, 250), (214, 206, 172), (226, 224, 214)
FLOWERS = ((250, 240, 240), (250, 214, 70), (226, 96, 110))
MOUNTAIN_PROBABILITY, SUN_PROBABILITY = 0.75, 0.5
ROAD_WIDTH = 0.13


class Ground:
    """
    A landscape without things.

    Args:
        rng: what it is drawn from.
        height, width: of the image in pixels.

    Attributes:
        image: `(height, width, 3)` float32, 0 to 255.
        classes: `(height, width)`, numbers in `SURFACES`.
        horizon: where the ground begins, as a fraction of the height from above.
        light: `(3,)`, what the colours of things are to be multiplied by.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self._rng = rng
        self._y, self._x = ((np.arange(side, dtype=np.float32) + 0.5) / side for side in (height, width))
        self.horizon = float(rng.uniform(0.36, 0.5))
        self.classes = np.zeros((height, width), dtype=np.intp)
        zenith, self._haze, self.light = np.array_split(
            np.array(DAYLIGHTS[rng.integers(len(DAYLIGHTS))], dtype=np.float32).ravel(), 3
        )
        self.image = self._draw_sky(zenith)
        if rng.random() < MOUNTAIN_PROBABILITY:
            self._cover("mountain", self.horizon - rng.uniform(0.08, 0.2) * self._ridge())
        layout = LAYOUTS[rng.integers(len(LAYOUTS))]
        depths = np.array([0 if name == "road" else rng.uniform(0.7, 1.2) for name in layout])
        depths *= (1 - self.horizon - ROAD_WIDTH * layout.count("road")) / depths.sum()
        depths[[name == "road" for name in layout]] = ROAD_WIDTH
        bend = self._wave(0.018)
        start = self.horizon
        for name, depth in zip(layout, depths.tolist(), strict=True):
            at_horizon = self._wave(0.0 if name == "water" else 0.012)
            self._cover(name, start + (at_horizon if start == self.horizon else bend))
            start += depth

    def _cover(self, name: str, edge: np.ndarray) -> None:
        """Paints stuff on everything below its upper edge, `(width,)`."""
        first = max(0, int(edge.min() * len(self._y)) - 1)
        y = self._y[first:, None]
        draw = {"mountain": self._draw_mountains, "grass": self._draw_grass, "water": self._draw_water}
        colour = draw.get(name, self._draw_road)(y, edge) * self.light
        below = (y - edge) * len(self._y)
        image = self.image[first:]
        image += np.clip(below + 0.5, 0, 1, dtype=np.float32)[..., None] * (colour - image)
        self.classes[first:][below > 0] = SURFACES.index(name)

    def _noise(self, y: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Smooth hills and valleys, `rows` x `columns` of them in an image, from about -1 to 1 at heights `y`."""
        grid = 0.5 * self._rng.standard_normal((rows, columns), dtype=np.float32)
        box = (0, rows * (1 - len(y) / len(self._y)), columns, rows)
        size = (len(self._x), len(y))
        return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC, box))

    def _vary(self, colour: tuple[int, int, int], spread: float) -> np.ndarray:
        return np.array(colour, dtype=np.float32) + spread * self._rng.standard_normal(3, dtype=np.float32)

    def _wave(self, amplitude: float) -> np.ndarray:
        first, second = self._rng.uniform(0, 1, 2).astype(np.float32)
        waves = np.sin(2 * np.pi * (0.8 * self._x + first)) + 0.4 * np.sin(2 * np.pi * (2.1 * self._x + second))
        return np.float32(amplitude) * waves

    def _ridge(self) -> np.ndarray:
        """The heights of mountains, `(width,)`, 0.25 to 1: peaks joined by lines, which are not quite straight."""
        num_corners = 2 * int(self._rng.integers(4, 7)) + 1
        heights = self._rng.uniform(0.3, 0.6, num_corners)
        heights[1::2] = self._rng.uniform(0.6, 0.95, num_corners // 2)
        places = np.linspace(-0.1, 1.1, num_corners) + self._rng.uniform(-0.03, 0.03, num_corners)
        bumps = np.interp(self._x, np.linspace(0, 1, 40), self._rng.uniform(-0.05, 0.05, 40))
        return (np.interp(self._x, places, heights) + bumps).astype(np.float32)

    def _nearness(self, y: np.ndarray) -> np.ndarray:
        """0 at the horizon, 1 at the bottom of the image."""
        return np.clip((y - self.horizon) / (1 - self.horizon), 0, 1, dtype=np.float32)

    def _draw_sky(self, zenith: np.ndarray) -> np.ndarray:
        """A gradient, clouds, and maybe the sun."""
        rng, y, x = self._rng, self._y[:, None], self._x
        image = zenith + (self._haze - zenith) * (np.clip(y / self.horizon, 0, 1) ** 0.8)[..., None]
        image = np.broadcast_to(image, (*self.classes.shape, 3)).astype(np.float32)
        clouds = self._noise(y, 14, 4) + 0.5 * self._noise(y, 26, 9) + 0.3 * self._noise(y, 50, 20)
        clouds = np.clip(1.3 * clouds - np.float32(rng.uniform(0.1, 0.7)), 0, 0.85)
        image += clouds[..., None] * (np.array(CLOUD, dtype=np.float32) - image)
        if rng.random() < SUN_PROBABILITY:
            height, width = self.classes.shape
            dy, dx = (y - rng.uniform(0.05, 0.6) * self.horizon) * height, (x - rng.uniform(0.1, 0.9)) * width
            distance = np.hypot(dy, dx).astype(np.float32) / min(height, width)
            disk = np.clip((0.045 - distance) * min(height, width) + 0.5, 0, 1)
            glow = np.clip(disk + 0.45 * np.exp(-((distance / 0.12) ** 2)), 0, 1)
            image += glow[..., None] * (np.array(SUN, dtype=np.float32) - image)
        return image

    def _draw_mountains(self, y: np.ndarray, edge: np.ndarray) -> np.ndarray:
        """Rock with lit and dark flanks, snow near the tops, and haze near the horizon."""
        slope = np.gradient(np.convolve(np.pad(edge, 2, mode="edge"), np.full(5, 0.2), mode="valid"), self._x)
        flank = 14 * np.clip(-slope, -1, 1).astype(np.float32)
        rough = 16 * self._noise(y, 24, 40) + 8 * self._noise(y, 48, 60)
        colour = self._vary((98, 104, 122), 8) + (flank + rough)[..., None]
        snow = np.clip((self._rng.uniform(-0.1, 0.3) - (y - edge) / 0.2 + rough / 90) * 12, 0, 1, dtype=np.float32)
        colour += snow[..., None] * (np.array(SNOW, dtype=np.float32) + flank[:, None] - colour)
        haze = 0.55 * np.clip((y - self.horizon + 0.2) / 0.2, 0, 1, dtype=np.float32)
        return colour + haze[..., None] * (self._haze - colour)

    def _draw_grass(self, y: np.ndarray, edge: np.ndarray) -> np.ndarray:
        """Meadows with flowers, and with tufts that grow towards the viewer."""
        near = self._nearness(y)
        patches = 14 * self._noise(y, 7, 5) + 8 * self._noise(y, 16, 10)
        light = patches + (10 + 14 * near) * self._noise(y, 90, 110)
        colour = self._vary((112, 150, 68), 7) - 22 * near[..., None]
        colour = colour + light[..., None] * np.array((0.8, 1.0, 0.5), dtype=np.float32)
        num_flowers, side = int(self._rng.integers(0, 60)), 1 + min(self.classes.shape) // 160
        rows, columns = (self._rng.integers(0, length, num_flowers) for length in light.shape)
        for row, column, kind in zip(rows, columns, self._rng.integers(0, len(FLOWERS), num_flowers), strict=True):
            colour[row : row + side, column : column + side] = FLOWERS[kind]
        return colour

    def _draw_water(self, y: np.ndarray, edge: np.ndarray) -> np.ndarray:
        """Ripples that grow towards the viewer, glints, and sand where a meadow ends."""
        rng, near = self._rng, self._nearness(y)
        phase = np.log(near + 0.12) * rng.uniform(85, 110)
        bend = 1.6 * np.sin(2 * np.pi * (self._x * rng.uniform(2, 4) + rng.uniform()))
        phase = (phase + bend).astype(np.float32) + 3 * self._noise(y, 12, 8)
        ripples = np.sin(phase) * (5 + 12 * near) + 10 * self._noise(y, 80, 24)
        glints = 5 * np.clip(ripples - 14, 0, 8)
        pale = (1 - np.clip(2.2 * near, 0, 1))[..., None] * np.array((50, 46, 34), dtype=np.float32)
        colour = self._vary((52, 116, 160), 9) + pale
        colour = colour + ripples[..., None] * np.array((0.7, 0.9, 1.0), dtype=np.float32) + glints[..., None]
        if edge.min() > self.horizon:
            shore = np.exp(-(((y - edge) / 0.012) ** 2))
            colour += shore[..., None] * (np.array(SAND, dtype=np.float32) - colour)
        return colour

    def _draw_road(self, y: np.ndarray, edge: np.ndarray) -> np.ndarray:
        """Asphalt with white lines at its sides and dashes in its middle."""
        across = (y - edge) / ROAD_WIDTH
        grey = 98 + 6 * self._rng.standard_normal(dtype=np.float32) + 9 * self._noise(y, 120, 120)
        colour = grey[..., None] + np.array((0, 0, 6), dtype=np.float32)
        from_middle = np.abs(across - 0.5)
        is_dash = (9 * self._x + self._rng.uniform()) % 1 < 0.55
        distance = np.minimum(np.abs(from_middle - 0.41) - 0.03, np.where(is_dash, from_middle - 0.04, np.inf))
        lines = np.clip(0.5 - distance * ROAD_WIDTH * len(self._y), 0, 1, dtype=np.float32)
        return colour + lines[..., None] * (np.array(LINE, dtype=np.float32) - colour)

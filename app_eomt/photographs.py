"""Photographs as they come from strangers, and two that are drawn."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from image_processing_eomt.reading_eomt import as_rgb, read_size, read_stored, turn_upright
from training_eomt.scenes import draw_scene


MAX_PIXELS = 50_000_000
EXAMPLE_SEEDS = {"Example 1": 3, "Example 2": 10}
EXAMPLE_SIDE = 640  # pixels


def read_photograph(path: str) -> Image.Image:
    """
    Returns a photograph of any format and mode as RGB, upright.

    Raises:
        ValueError: it cannot be decoded, or has more than `MAX_PIXELS` pixels.
        OSError: there is no such file.
    """
    name = Path(path).name
    with open(path, "rb") as file:
        try:
            (height, width), _ = read_size(file, name, max_pixels=2**62)
        except ValueError as error:
            if isinstance(error.__cause__, UnidentifiedImageError):  # whose text is of Python's objects
                raise ValueError(f"{name} is not an image, or is of a format that cannot be read here.") from error
            raise
        if height * width > MAX_PIXELS:
            raise ValueError(
                f"{name} has {height * width / 1e6:.0f} megapixels, and this page takes up to "
                f"{MAX_PIXELS / 1e6:.0f}. Make it smaller."
            )
        file.seek(0)
        photograph = as_rgb(turn_upright(read_stored(file, name)), name)
    photograph.info.clear()  # what is drawn and given back has pixels, and nothing else of the file
    return photograph


def draw_examples(folder: Path) -> dict[str, Path]:
    """Writes example images into a folder, and returns their files by their names."""
    paths = {}
    for name, seed in EXAMPLE_SEEDS.items():
        pixels, _, _ = draw_scene(np.random.default_rng(seed), EXAMPLE_SIDE, EXAMPLE_SIDE)
        paths[name] = folder / f"{name.lower().replace(' ', '_')}.png"
        Image.fromarray(pixels).save(paths[name])
    return paths

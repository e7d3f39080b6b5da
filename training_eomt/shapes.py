"""A generated panoptic dataset: landscapes with balloons, boats, cars, houses and trees, see [`draw_scene`].

It needs no download and is written in COCO panoptic format, so training on it takes the same path as training on COCO.

    python -m training_eomt.shapes shapes_dataset --num-train 2000
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .data.colours import decode_rgb
from .data.samples import Category
from .scene_things import KINDS
from .scenes import draw_scene


# In an order in which `class_color` gives them colours that suit them, such as blue to water.
NAMES = ("balloon", "water", "boat", "house", "tree", "road", "mountain", "grass", "car", "sky")
CATEGORIES = tuple(Category(i, name, name in KINDS) for i, name in enumerate(NAMES, start=1))
THINGS = tuple(category.name for category in CATEGORIES if category.isthing)
STUFF = tuple(category.name for category in CATEGORIES if not category.isthing)
SPLITS = ("train", "validation", "test")
GENERATOR_VERSION = 2  # a folder written by another version is not reused


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


def _write_split(directory: Path, num_images: int, image_size: tuple[int, int], seed: int, split_index: int) -> None:
    (directory / "images").mkdir(parents=True)
    (directory / "panoptic").mkdir()
    category_ids = {category.name: category.id for category in CATEGORIES}
    images, annotations = [], []
    for index in range(num_images):
        rng = np.random.default_rng([seed, split_index, index])
        height, width = (int(side) for side in rng.integers(image_size[0], image_size[1] + 1, 2))
        image, segments, names = draw_scene(rng, height, width)
        # Ids spread over all 24 bits, as in COCO, so that neighbours differ in colour.
        segment_ids = (np.arange(1, len(names) + 1) * 2654435) % 2**24
        file_name = f"{index:06d}.png"
        Image.fromarray(image).save(directory / "images" / file_name)
        Image.fromarray(decode_rgb(segment_ids[segments])).save(directory / "panoptic" / file_name)
        images.append({"id": index, "file_name": file_name, "height": height, "width": width})
        segments_info = [
            _segment_info(segments == number, int(segment_ids[number]), category_ids[name])
            for number, name in enumerate(names)
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
        description="Write a generated panoptic dataset (landscapes of simple shapes) in COCO format.",
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

"""What the blocks of the pages speak of, small: models, images and data, made where a block first names them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from stand_ins import put_in_cache, write_dinov2, write_dinov3, write_original, write_original_dinov3, write_published
from tiny_models import TINY

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from loading_eomt import published_checkpoints
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.shapes import generate_shapes_dataset


PUBLISHED = "coco_panoptic_eomt_large_640"
PUBLISHED_DINOV3 = "coco_panoptic_eomt_large_640_dinov3"
_ON_THE_HUB = re.compile(r"\b(?:tue-mps|facebook)/[\w.-]+")


def write_photograph(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((180, 120), Image.Resampling.BICUBIC).save(path)


def write_images(folder: Path) -> None:
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        write_photograph(folder / name)


def write_model(folder: Path) -> None:
    """A folder as a training of this project writes it."""
    model = EomtForUniversalSegmentation(EomtConfig(**{**TINY, "train_num_points": 64}))
    model.set_mask_probabilities([0.0, 0.0])
    model.save_pretrained(folder)
    settings = {"threshold": 0.0, "overlap_mask_area_threshold": 0.0, "stuff_classes": [2]}
    EomtImageProcessor(size=64, task="panoptic", **settings).save_pretrained(folder)


def write_shapes(folder: Path) -> None:
    generate_shapes_dataset(folder, 4, 2, 2, image_size=64)


def write_data(folder: Path) -> None:
    """COCO panoptic, and images without annotations."""
    write_shapes(folder)
    shutil.copytree(folder / "test" / "images", folder / "new_images")


def write_coco_sample(folder: Path) -> None:
    write_shapes(folder.with_name(f"{folder.name}_splits"))
    shutil.copytree(folder.with_name(f"{folder.name}_splits") / "train", folder)


def write_instances(folder: Path) -> None:
    (folder / "train").mkdir(parents=True)
    write_images(folder / "train" / "images")
    images = [{"id": i, "file_name": f"{name}.jpg", "height": 120, "width": 180} for i, name in enumerate("ab")]
    polygon = [[10, 10, 60, 10, 60, 60, 10, 60]]
    annotations = [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": polygon, "area": 2500, "iscrowd": 0}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "train" / "instances.json").write_text(json.dumps(content))


def write_label_maps(folder: Path) -> None:
    label_map = np.repeat(np.array([0, 1, 2], dtype=np.uint8), 40)[:, None].repeat(180, axis=1)
    for split in ("train", "val"):
        for inner in ("images", "masks"):
            (folder / split / inner).mkdir(parents=True)
        for name in "ab":
            write_photograph(folder / split / "images" / f"{name}.jpg")
            Image.fromarray(label_map).save(folder / split / "masks" / f"{name}.png")
    (folder / "classes.txt").write_text("road\ncar\nsky\n")


def write_yolo(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for split in ("train", "val"):
        write_images(folder / "images" / split)
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / "a.txt").write_text("1 0.1 0.1 0.9 0.1 0.5 0.8\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")


def write_ade20k(path: Path) -> None:
    root = path.with_suffix("") / path.stem
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        for inner in ("images", "annotations"):
            (root / inner / split).mkdir(parents=True)
        write_photograph(root / "images" / split / f"{name}.jpg")
        Image.new("L", (180, 120), 3).save(root / "annotations" / split / f"{name}.png")
    shutil.make_archive(str(path.with_suffix("")), "zip", root.parent)


def write_cityscapes(folder: Path) -> None:
    for split in ("train", "val"):
        for inner in ("leftImg8bit", "gtFine"):
            (folder / inner / split / "aachen").mkdir(parents=True)
        frame = f"{split}/aachen/aachen_000000_000019"
        write_photograph(folder / "leftImg8bit" / f"{frame}_leftImg8bit.png")
        for kind, value in (("labelIds", 7), ("instanceIds", 7)):
            Image.new("L", (180, 120), value).save(folder / "gtFine" / f"{frame}_gtFine_{kind}.png")


def make_table(folder: Path) -> datasets.Dataset:
    """Rows of an image and a label map, which lie in the table."""
    write_label_maps(folder)
    columns = {"image": "train/images/a.jpg", "label": "train/masks/a.png"}
    table = datasets.Dataset.from_dict({column: [str(folder / file)] * 2 for column, file in columns.items()})
    for column in columns:
        table = table.cast_column(column, datasets.Image())
    return table


def write_table(folder: Path) -> None:
    table = make_table(folder.with_name(f"{folder.name}_files"))
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(str(folder))


def write_dataset_of_the_hub(folder: Path) -> None:
    """A folder of the name: what `datasets` does with a name on the Hub is its own affair."""
    table = make_table(folder.with_name(f"{folder.name}_files"))
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))


def write_checkpoint(path: Path) -> None:
    write_original(PUBLISHED, path.with_suffix(""))
    shutil.move(path.with_suffix("") / "pytorch_model.bin", path)


def write_delta(path: Path) -> None:
    write_original_dinov3(PUBLISHED_DINOV3, path.with_suffix(""))
    shutil.move(path.with_suffix("") / "pytorch_model.bin", path)


def write_labels(path: Path) -> None:
    path.write_text(json.dumps(published_checkpoints()[PUBLISHED].labels))


# By the path that a block names.
STAND_INS: dict[str, Callable[[Path], object]] = {
    "photo.jpg": write_photograph,
    "image.jpg": write_photograph,
    "my_images": write_images,
    "outputs/my_model": write_model,
    "outputs/shapes_demo": write_model,
    "outputs/shapes_data": write_shapes,
    "my_data": write_data,
    "my_instances": write_instances,
    "my_label_maps": write_label_maps,
    "my_yolo_data": write_yolo,
    "my_table": write_table,
    "me/my_data": write_dataset_of_the_hub,
    "cityscapes": write_cityscapes,
    "ADEChallengeData2016.zip": write_ade20k,
    "coco_panoptic_sample": write_coco_sample,
    "classes.txt": lambda path: path.write_text("road\ncar\nsky\n"),
    "my_recipe.yaml": lambda path: path.write_text("learning_rate: 1.0e-4\n"),
    "fsdp.json": lambda path: path.write_text('{"version": 2, "activation_checkpointing": true}'),
    "checkpoint.bin": write_checkpoint,
    "delta.bin": write_delta,
    "labels.json": write_labels,
}


def provide(text: str, folder: Path, cache: Path) -> None:
    """
    Makes what a block names and is not there yet.

    Args:
        text: the block.
        folder: the folder it runs in.
        cache: where models on the Hub are kept.
    """
    for name, write in STAND_INS.items():
        if re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])", text) and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name)
    for repository in set(_ON_THE_HUB.findall(text)):
        provide_on_the_hub(repository, cache)


def provide_on_the_hub(repository: str, cache: Path) -> Path:
    """Makes a model on the Hub, as it is in the cache after a download; returns its folder."""
    found = [*cache.glob(f"models--{repository.replace('/', '--')}/snapshots/*")]
    if found:
        return found[0]
    owner, name = repository.split("/")
    folder = cache / "written" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    if owner == "tue-mps":
        backbone = published_checkpoints()[name].base_backbone
        if backbone is not None:
            provide_on_the_hub(backbone, cache)
        write_published(name, folder)
    else:
        (write_dinov3 if "dinov3" in name else write_dinov2)(folder)
    return put_in_cache(cache, repository, folder)

"""Segmenting pictures with a finished model and drawing the result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from .coco_panoptic import CocoPanopticDataset
from .figures import predicted_segmentation, side_by_side, target_segmentation
from .samples import LabelSpace, Sample


def pictures_to_segment(path: Path, label_space: LabelSpace | None) -> Iterator[tuple[Sample, bool]]:
    """
    The pictures of a folder, or of COCO panoptic data together with their targets.

    Args:
        path: a folder of pictures, or what [`CocoPanopticDataset`] takes.
        label_space: the model's classes as the training data named them, or None where that is not known.

    Yields:
        A sample, and whether its targets are known.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
    """
    if path.suffix == ".json" or (path / "panoptic.json").exists():
        dataset = CocoPanopticDataset(path, label_space)
        yield from ((dataset[index], True) for index in range(len(dataset)))
        return
    if not path.is_dir():
        raise FileNotFoundError(f"predict_data {path} is neither a folder of pictures nor COCO panoptic data.")
    readable = Image.registered_extensions()
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in readable)
    if not files:
        raise FileNotFoundError(f"predict_data {path} holds no pictures.")
    for file in files:
        with Image.open(file) as image:
            yield Sample(file.stem, image.convert("RGB"), file_name=file.name), False


def write_overlays(segmenter: Any, pictures: Iterator[tuple[Sample, bool]], directory: Path) -> int:
    """
    Segments pictures and writes one PNG each: input, target where there is one, prediction, legend.

    Args:
        segmenter: image-segmentation pipeline of a model.
        pictures: what [`pictures_to_segment`] yields.
        directory: where to write; made if it does not exist.

    Returns:
        The number of pictures written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = segmenter.model.config
    count = 0
    for sample, has_targets in tqdm(pictures, desc="Segmenting", unit="picture"):
        segmentations = {"target": target_segmentation(sample)} if has_targets else {}
        segmentations["prediction"] = predicted_segmentation(segmenter(sample.image), sample.size, config.label2id)
        figure = side_by_side(sample.image, segmentations, config.id2label)
        figure.save(directory / f"{Path(sample.file_name).stem}.png")
        count += 1
    return count

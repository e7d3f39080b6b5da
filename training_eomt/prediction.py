"""Segmenting pictures with a finished model and drawing the result."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .data.coco_panoptic import CocoPanopticDataset
from .data.files import FileTree
from .data.samples import Sample, picture_suffixes, read_rgb
from .figures import Segmentation, predicted_segmentation, side_by_side
from .inputs import reference_segmentation


def pictures_to_segment(path: Path, id2label: Mapping[int, str]) -> Iterator[tuple[Sample, bool]]:
    """
    The pictures of a folder, or of COCO panoptic data together with their targets.

    Args:
        path: a folder of pictures, or what [`CocoPanopticDataset`] takes.
        id2label: the model's classes.

    Returns:
        An iterator of samples, and whether their targets are known.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        ValueError: a picture that cannot be decoded, while iterating.
    """
    if path.suffix == ".json" or (path / "panoptic.json").exists():
        dataset = CocoPanopticDataset(path, id2label)
        return ((dataset[index], True) for index in range(len(dataset)))
    if not path.is_dir():
        raise FileNotFoundError(f"predict_data {path} is neither a folder of pictures nor COCO panoptic data.")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in picture_suffixes())
    if not files:
        raise FileNotFoundError(f"predict_data {path} holds no pictures.")
    return (
        (Sample(file.stem, read_rgb(FileTree(path), file.name, upright=True), file_name=file.name), False)
        for file in files
    )


def write_overlays(
    segmenter: Any, pictures: Iterator[tuple[Sample, bool]], directory: Path, show_progress: bool = True
) -> int:
    """
    Segments pictures and writes one PNG each: input, target where there is one, prediction, legend.

    Args:
        segmenter: image-segmentation pipeline of a model.
        pictures: what [`pictures_to_segment`] yields.
        directory: where to write; made if it does not exist.
        show_progress: whether to show a progress bar.

    Returns:
        The number of pictures written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = segmenter.model.config
    written: set[str] = set()
    for sample, has_targets in tqdm(pictures, desc="Segmenting", unit="picture", disable=not show_progress):
        segmentations: dict[str, Segmentation] = {"target": reference_segmentation(sample)} if has_targets else {}
        segmentations["prediction"] = predicted_segmentation(segmenter(sample.image), sample.size, config.id2label)
        figure = side_by_side(sample.image, segmentations, config.id2label)
        name = f"{Path(sample.file_name).stem}.png"
        if name in written:  # as for a.jpg and a.png, or x/1.jpg and y/1.jpg
            name = f"{sample.file_name.replace('/', '_')}.png"
        figure.save(directory / name)
        written.add(name)
    return len(written)

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.scene_things import KINDS
from training_eomt.scenes import MIN_VISIBLE_AREA, draw_scene
from training_eomt.shapes import CATEGORIES, generate_shapes_dataset


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path):
    first, second, other = (
        contents(generate_shapes_dataset(tmp_path / name, 2, 1, 1, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert first["train/images/000000.png"] != other["train/images/000000.png"]
    assert first["train/images/000000.png"] != first["validation/images/000000.png"]


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    few = contents(generate_shapes_dataset(tmp_path / "few", 1, 0, 1))
    many = contents(generate_shapes_dataset(tmp_path / "many", 3, 2, 2))
    for name in ("train/images/000000.png", "train/panoptic/000000.png", "test/images/000000.png"):
        assert few[name] == many[name]


def test_json_and_pngs_agree_and_every_pixel_has_a_segment(tmp_path):
    directory = generate_shapes_dataset(tmp_path / "shapes", 12, 2, 2)
    for split, length in (("train", 12), ("validation", 2), ("test", 2)):
        dataset = CocoPanopticDataset(directory / split)
        assert len(dataset) == length and dataset.label_space.stuff_classes == [1, 5, 6, 7, 9]
        written = json.loads((directory / split / "panoptic.json").read_text())["annotations"]
        assert [annotation["file_name"] for annotation in written] == [a.file_name for a in dataset.annotations]
        for sample, annotation in zip((dataset[i] for i in range(length)), written):
            masks = sample.masks()
            assert (masks.sum(0) == 1).all()
            assert masks.sum((1, 2)).tolist() == [info["area"] for info in annotation["segments_info"]]
            assert masks.mean((1, 2)).min() >= MIN_VISIBLE_AREA
            for mask, info in zip(masks, annotation["segments_info"]):
                x, y, width, height = info["bbox"]
                assert mask[y : y + height, x : x + width].sum() == info["area"]


def test_every_kind_of_thing_is_painted_in_many_colours(tmp_path):
    """One colour per class would spread by about 10 of 255, which is what grass and road do, by the light alone."""
    dataset = CocoPanopticDataset(generate_shapes_dataset(tmp_path / "shapes", 60, 0, 0) / "train")
    colours: dict[int, list[np.ndarray]] = {label_id: [] for label_id in range(len(CATEGORIES))}
    for i in range(len(dataset)):
        pixels = np.asarray(dataset[i].image)
        for target, mask in zip(dataset[i].targets, dataset[i].masks()):
            colours[target.label_id].append(pixels[mask].mean(0))
    spread = {label_id: np.std(values, axis=0).mean() for label_id, values in colours.items()}
    assert min(spread[label_id] for label_id, category in enumerate(CATEGORIES) if category.isthing) > 15


def test_every_class_occurs_and_no_scene_has_more_segments_than_the_demos_model_has_queries():
    recipe = yaml.safe_load((Path(__file__).resolve().parents[2] / "recipes" / "shapes_demo.yaml").read_text())
    scenes = [draw_scene(np.random.default_rng(seed), 48, 64)[2] for seed in range(100)]
    assert {name for names in scenes for name in names} == {category.name for category in CATEGORIES}
    assert max(map(len, scenes)) <= recipe["model_config"]["num_queries"]


def test_things_are_where_they_belong():
    """What is round the foot of a thing, or behind the middle of a balloon, is its ground more often than not."""
    ground_of = {name: kind.ground for name, kind in KINDS.items()}
    found = {name: [0, 0] for name in ground_of}
    for seed in range(40):
        _, segments, names = draw_scene(np.random.default_rng(seed), 96, 96)
        for number, name in enumerate(names):
            if name not in ground_of:
                continue
            rows, columns = np.nonzero(segments == number)
            row = int(rows.mean()) if name == "balloon" else rows.max()
            beside = segments[row, [max(0, columns.min() - 2), min(95, columns.max() + 2)]]
            found[name][0] += sum(names[each] == ground_of[name] for each in beside)
            found[name][1] += 2
    assert all(hits > 0.5 * total > 5 for hits, total in found.values()), found


def test_heights_and_widths_are_drawn_from_a_range(tmp_path):
    directory = generate_shapes_dataset(tmp_path / "shapes", 8, 0, 0, image_size=(40, 80))
    images = json.loads((directory / "train" / "panoptic.json").read_text())["images"]
    sizes = [(image["height"], image["width"]) for image in images]
    assert all(40 <= side <= 80 for size in sizes for side in size)
    assert len(set(sizes)) > 1 and any(height != width for height, width in sizes)
    with Image.open(directory / "train" / "images" / "000000.png") as image:
        assert (image.height, image.width) == sizes[0]


def test_the_same_dataset_is_reused_and_nothing_else_is_overwritten(tmp_path):
    directory = generate_shapes_dataset(tmp_path / "shapes", 1, 1, 1)
    image = directory / "train" / "images" / "000000.png"
    written = image.stat().st_mtime_ns
    generate_shapes_dataset(directory, 1, 1, 1)
    assert image.stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match=r"made with .*'seed': 0.*asked for.*'seed': 1"):
        generate_shapes_dataset(directory, 1, 1, 1, seed=1)
    with pytest.raises(FileExistsError, match="no shapes dataset"):
        generate_shapes_dataset(tmp_path, 1, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training_eomt.shapes.draw_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes_dataset(tmp_path / "shapes", 1, 0, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [{"image_size": 8}, {"image_size": (80, 40)}, {"num_train": -1}])
def test_arguments_out_of_range_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"image_size|negative"):
        generate_shapes_dataset(tmp_path / "shapes", **arguments)


def test_the_command_line_writes_the_same_as_the_function(tmp_path):
    options = ["--num-train", "1", "--num-validation", "0", "--num-test", "0", "--image-size", "48", "--seed", "5"]
    command = [sys.executable, "-m", "training_eomt.shapes", str(tmp_path / "cli"), *options]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).resolve().parents[2])
    expected = generate_shapes_dataset(tmp_path / "api", 1, 0, 0, image_size=48, seed=5)
    assert contents(tmp_path / "cli") == contents(expected)

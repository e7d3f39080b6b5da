from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_eomt.data.label_maps import LabelMapDataset


LABEL_MAP = np.array([[0, 0, 1, 1], [0, 2, 2, 255], [0, 2, 2, 255]], dtype=np.uint8)


def write(
    folder: Path, names: dict[str, np.ndarray], pictures: str = "images", maps: str = "masks", end: str = ""
) -> Path:
    for inner in (pictures, maps):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    for name, label_map in names.items():
        Image.new("RGB", label_map.shape[::-1]).save(folder / pictures / f"{name}.jpg")
        Image.fromarray(label_map).save(folder / maps / f"{name}{end}.png")
    return folder


def painted(dataset: LabelMapDataset, index: int) -> np.ndarray:
    """The sample as a label map again, -1 where nothing is."""
    sample = dataset[index]
    values = np.full(sample.size, -1)
    for target in sample.targets:
        values[target.mask()] = target.label_id
    return values


def test_every_value_is_a_target_and_ignored_values_are_void(tmp_path):
    dataset = LabelMapDataset(write(tmp_path, {"a": LABEL_MAP}), class_names=["road", "car", "sky"])
    assert dataset.kind == dataset.task == "semantic" and dataset.label_space.stuff_classes == [0, 1, 2]
    np.testing.assert_array_equal(painted(dataset, 0), np.where(LABEL_MAP == 255, -1, LABEL_MAP.astype(int)))


def test_reducing_labels_and_ignoring_values_are_two_settings(tmp_path):
    folder = write(tmp_path, {"a": LABEL_MAP})
    reduced = LabelMapDataset(folder, class_names=["car", "sky"], do_reduce_labels=True)
    np.testing.assert_array_equal(painted(reduced, 0), [[-1, -1, 0, 0], [-1, 1, 1, -1], [-1, 1, 1, -1]])
    ignoring = LabelMapDataset(folder, class_names=["road", "car"], ignore_index=[2, 255])
    np.testing.assert_array_equal(painted(ignoring, 0), [[0, 0, 1, 1], [0, -1, -1, -1], [0, -1, -1, -1]])


def test_camvid_is_read_as_numpy_reads_it(camvid):
    names = [f"name {i}" for i in range(11)]
    dataset = LabelMapDataset(camvid / "val", class_names=names, ignore_index=[11])
    assert len(dataset) == 101 and len(dataset.label_space) == 11
    for index in (0, 50, 100):
        stored = np.array(Image.open(camvid / "val" / "masks" / f"{Path(dataset.name(index)).stem}.png")).astype(int)
        np.testing.assert_array_equal(painted(dataset, index), np.where(stored == 11, -1, stored))


def test_16_bit_and_palette_maps_hold_numbers(tmp_path):
    large = LABEL_MAP.astype(np.uint16)
    large[0, 0] = 300
    write(tmp_path / "x", {"a": large})
    assert len(LabelMapDataset(tmp_path / "x").label_space) == 301
    write(tmp_path / "y", {"a": LABEL_MAP})
    palette = Image.fromarray(LABEL_MAP).convert("P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.putdata(LABEL_MAP.ravel().tolist())
    palette.save(tmp_path / "y" / "masks" / "a.png")
    assert painted(LabelMapDataset(tmp_path / "y"), 0)[0].tolist() == [0, 0, 1, 1]


def test_classes_come_from_a_file_from_the_model_or_from_the_values(tmp_path):
    folder = write(tmp_path / "train", {"a": LABEL_MAP})
    assert LabelMapDataset(folder).label_space.names == ("class 0", "class 1", "class 2")
    model = {0: "x", 1: "y", 2: "z", 3: "w"}
    assert LabelMapDataset(folder, model)[0].targets[2].label_id == 2
    (tmp_path / "id2label.json").write_text('{"0": "road", "1": "car", "2": "sky"}')
    assert LabelMapDataset(folder).label_space.names == ("road", "car", "sky")
    names = {0: "sky", 1: "road", 2: "tree", 3: "car"}
    assert [target.label_id for target in LabelMapDataset(folder, names)[0].targets] == [1, 3, 0]


def test_split_folders_in_the_folders_and_endings_of_maps_are_understood(tmp_path):
    write(tmp_path, {"a": LABEL_MAP}, "images/train", "masks/train", "_mask")
    write(tmp_path, {"b": LABEL_MAP, "c": LABEL_MAP}, "images/val", "masks/val")
    assert [len(LabelMapDataset(tmp_path, split=split)) for split in ("train", "validation")] == [1, 2]
    assert LabelMapDataset(tmp_path, split="train").name(0).endswith("images/train/a.jpg")


def test_a_file_without_counterpart_is_an_error_or_left_out(tmp_path):
    write(tmp_path, {"a": LABEL_MAP, "b": LABEL_MAP})
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"images/b\.jpg has no counterpart in .*masks"):
        LabelMapDataset(tmp_path)
    dataset = LabelMapDataset(tmp_path, skip_bad_samples=True)
    assert len(dataset) == 1 and dataset.bad_samples[0].name.endswith("b.jpg")


def test_what_a_map_cannot_be_is_an_error_that_names_it(tmp_path):
    write(tmp_path, {"a": LABEL_MAP, "b": LABEL_MAP, "c": LABEL_MAP, "d": LABEL_MAP})
    masks = tmp_path / "masks"
    Image.new("RGB", (4, 3), (128, 0, 0)).save(masks / "b.png")
    Image.new("L", (5, 3)).save(masks / "c.png")
    (tmp_path / "images" / "d.jpg").write_bytes((tmp_path / "images" / "d.jpg").read_bytes()[:300])
    dataset = LabelMapDataset(tmp_path, class_names=["road", "car"])
    with pytest.raises(ValueError, match=r"masks/a\.png: 4 pixels have the value 2, which is no class: .* 0 to 1"):
        dataset[0]
    with pytest.raises(ValueError, match=r"masks/b\.png is a colour picture \(mode RGB\)"):
        dataset[1]
    with pytest.raises(ValueError, match=r"images/c\.jpg is 3x4 .*masks/c\.png is 3x5"):
        dataset[2]
    with pytest.raises(ValueError, match=r"images/d\.jpg cannot be decoded"):
        dataset[3]


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of pictures"):
        LabelMapDataset(tmp_path)

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_eomt.data.ade20k import Ade20kDataset
from training_eomt.data.class_names import read_class_names


# Values of the label map: wall 1, bed 8, window 9; things 1 and 2 are bed and window.
LABEL_MAP = np.array([[1, 1, 1, 1], [8, 8, 9, 9], [8, 8, 9, 0]], dtype=np.uint8)
THING = np.array([[0, 0, 0, 2], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=np.uint8)
NUMBER = np.array([[0, 0, 0, 3], [1, 2, 0, 0], [1, 2, 0, 0]], dtype=np.uint8)


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for folder in ("images", "annotations", "annotations_instance"):
        for split in ("training", "validation"):
            (root / folder / split).mkdir(parents=True)
    for name in ("training/ADE_train_00000001", "training/ADE_train_00000002", "validation/ADE_val_00000001"):
        Image.new("RGB", (4, 3)).save(root / "images" / f"{name}.jpg")
        Image.fromarray(LABEL_MAP).save(root / "annotations" / f"{name}.png")
        channels = np.stack([THING, NUMBER, np.zeros_like(THING)], axis=-1)
        Image.fromarray(channels).save(root / "annotations_instance" / f"{name}.png")
    return root


def test_stuff_comes_from_the_label_map_and_things_from_the_objects_on_top(root):
    dataset = Ade20kDataset(root)
    assert dataset.kind == "panoptic" and len(dataset) == 2 and len(dataset.label_space) == 150
    assert len(dataset.label_space.stuff_classes) == 50
    targets = {(target.label_id, target.area): target.mask() for target in dataset[0].targets}
    sample = dataset[0]
    assert [target.label_id for target in sample.targets] == [7, 7, 8, 0] and len(targets) == 3
    expected = [(THING == 1) & (NUMBER == 1), NUMBER == 2, NUMBER == 3, (LABEL_MAP == 1) & (NUMBER == 0)]
    np.testing.assert_array_equal(sample.masks(), expected)


def test_for_instances_things_and_for_semantics_the_label_map_are_read(root):
    instances = Ade20kDataset(root, task="instance")
    assert len(instances.label_space) == 100 and [t.label_id for t in instances[0].targets] == [0, 0, 1]
    semantic = Ade20kDataset(root, task="semantic", split="validation")
    assert len(semantic) == 1
    np.testing.assert_array_equal(semantic[0].masks(), [LABEL_MAP == 1, LABEL_MAP == 8, LABEL_MAP == 9])


def test_real_images_have_the_classes_of_their_label_maps(ade20k_sample):
    dataset = Ade20kDataset(ade20k_sample)
    names = read_class_names(ade20k_sample / "objectInfo150.txt")
    assert dataset.kind == "semantic" and len(dataset) == 3
    for index in range(3):
        stored = np.array(Image.open(ade20k_sample / "annotations" / f"{Path(dataset.name(index)).stem}.png"))
        sample = dataset[index]
        values = sorted(set(np.unique(stored).tolist()) - {0})
        assert [dataset.label_space.id2label[t.label_id] for t in sample.targets] == [names[v - 1] for v in values]
        np.testing.assert_array_equal(sample.masks(), [stored == value for value in values])


def test_an_image_without_objects_file_is_an_error_or_left_out(root):
    (root / "annotations_instance/training/ADE_train_00000002.png").unlink()
    with pytest.raises(ValueError, match=r"ADE_train_00000002\.jpg has no counterpart in .*annotations_instance"):
        Ade20kDataset(root)
    assert len(Ade20kDataset(root, skip_bad_samples=True)) == 1
    assert len(Ade20kDataset(root, task="semantic")) == 2


def test_files_of_the_wrong_kind_are_named(root):
    path = root / "annotations_instance/training/ADE_train_00000001.png"
    Image.fromarray(THING).save(path)
    with pytest.raises(ValueError, match=r"annotations_instance/.*1\.png has mode L, expected RGB"):
        Ade20kDataset(root)[0]
    Image.new("RGB", (4, 3), (101, 1, 0)).save(path)
    with pytest.raises(ValueError, match=r"has the class 101 \(red\), there are 1 to 100"):
        Ade20kDataset(root)[0]
    Image.fromarray(LABEL_MAP + 150).save(root / "annotations/training/ADE_train_00000002.png")
    with pytest.raises(ValueError, match=r"annotations/training/ADE_train_00000002\.png: .*no class"):
        Ade20kDataset(root, task="semantic")[1]

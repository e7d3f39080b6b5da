from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_eomt.data.cityscapes import CityscapesDataset


# road 7, car 26, ego vehicle 1; two cars and a group of cars; a caravan, which is not evaluated
INSTANCES = np.array([[7, 7, 7, 7], [26000, 26000, 26001, 26], [1, 0, 29000, 26]], dtype=np.uint16)
LABELS = np.where(INSTANCES >= 1000, INSTANCES // 1000, INSTANCES).astype(np.uint8)
FRAME = "aachen/aachen_000000_000019"


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        (tmp_path / "leftImg8bit" / split / "aachen").mkdir(parents=True)
        (tmp_path / "gtFine" / split / "aachen").mkdir(parents=True)
        Image.new("RGB", (4, 3)).save(tmp_path / "leftImg8bit" / split / f"{FRAME}_leftImg8bit.png")
        Image.fromarray(LABELS).save(tmp_path / "gtFine" / split / f"{FRAME}_gtFine_labelIds.png")
        Image.fromarray(INSTANCES).save(tmp_path / "gtFine" / split / f"{FRAME}_gtFine_instanceIds.png")
    return tmp_path


def test_objects_and_groups_are_told_apart_and_other_classes_are_void(root):
    dataset = CityscapesDataset(root, split="validation")
    sample = dataset[0]
    assert dataset.kind == "panoptic" and len(dataset.label_space) == 19
    assert [dataset.label_space.id2label[target.label_id] for target in sample.targets] == ["road", *["car"] * 3]
    assert [target.iscrowd for target in sample.targets] == [False, True, False, False]
    np.testing.assert_array_equal(sample.masks(), [value == INSTANCES for value in (7, 26, 26000, 26001)])


def test_without_objects_it_is_for_semantic_segmentation(root):
    (root / "gtFine/train" / f"{FRAME}_gtFine_instanceIds.png").unlink()
    dataset = CityscapesDataset(root)
    assert dataset.kind == dataset.task == "semantic"
    assert [target.label_id for target in dataset[0].targets] == [0, 13]
    np.testing.assert_array_equal(dataset[0].masks(), [LABELS == 7, LABELS == 26])
    with pytest.raises(ValueError, match="panoptic segmentation cannot be learnt"):
        CityscapesDataset(root, task="panoptic")


def test_both_files_say_the_same_for_semantic_segmentation(root):
    semantic = CityscapesDataset(root, task="semantic")[0]
    (root / "gtFine/train" / f"{FRAME}_gtFine_instanceIds.png").unlink()
    np.testing.assert_array_equal(semantic.masks(), CityscapesDataset(root)[0].masks())


def test_an_image_without_annotation_and_a_missing_folder_are_errors(root):
    (root / "gtFine/train" / f"{FRAME}_gtFine_labelIds.png").unlink()
    with pytest.raises(ValueError, match=r"000019_leftImg8bit\.png has no counterpart in .*gtFine/train"):
        CityscapesDataset(root, task="semantic")
    (root / "gtFine").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match="gtFine/train is missing or empty"):
        CityscapesDataset(root)


def test_values_that_are_no_class_are_an_error(root):
    Image.fromarray(INSTANCES + np.uint16(15000)).save(root / "gtFine/train" / f"{FRAME}_gtFine_instanceIds.png")
    with pytest.raises(ValueError, match=r"instanceIds\.png: the value 41000 is of class 41"):
        CityscapesDataset(root)[0]

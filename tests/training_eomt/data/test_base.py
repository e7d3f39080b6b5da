import numpy as np
import pytest
from PIL import Image

from training_eomt.data.base import Annotation, SegmentationDataset
from training_eomt.data.masks import encode_masks
from training_eomt.data.samples import Category, Sample


CATEGORIES = [Category(10, "cat", True), Category(20, "sky", False), Category(30, "dog", True)]
SEGMENTS = np.array([[1, 1, 2, 2], [3, 3, 4, 4]])
ANNOTATIONS = [(1, 10, False), (2, 20, False), (3, 10, True), (4, 30, False)]  # segment, category, crowd


class OneImage(SegmentationDataset):
    SETTINGS = ("images_dir",)
    KIND = "panoptic"

    def open(self, path) -> None:
        self.set_categories(path, self.KIND, CATEGORIES)

    def __getitem__(self, index: int) -> Sample:
        rles = encode_masks(SEGMENTS, [segment for segment, _, _ in ANNOTATIONS])
        annotations = [Annotation(rle, category, crowd) for rle, (_, category, crowd) in zip(rles, ANNOTATIONS)]
        return Sample(0, Image.new("RGB", (4, 2)), self.make_targets(annotations))


@pytest.mark.parametrize(
    "task, names, expected",
    [
        ("panoptic", ("cat", "sky", "dog"), [(0, False), (1, False), (0, True), (2, False)]),
        ("instance", ("cat", "dog"), [(0, False), (0, True), (1, False)]),
        ("semantic", ("cat", "sky", "dog"), [(0, False), (1, False), (2, False)]),
    ],
)
def test_targets_are_what_the_task_asks_for(task, names, expected):
    dataset = OneImage("here", task=task)
    targets = dataset[0].targets
    assert dataset.label_space.names == names
    assert [(target.label_id, target.iscrowd) for target in targets] == expected
    summary = dataset.summarize_segments((2, 4), [(category, crowd) for _, category, crowd in ANNOTATIONS])
    assert list(summary.label_ids) == [label_id for label_id, _ in expected]
    assert summary.num_crowds == sum(crowd for _, crowd in expected)
    if task == "semantic":
        expected_masks = [(SEGMENTS == 1) | (SEGMENTS == 3), SEGMENTS == 2, SEGMENTS == 4]
        np.testing.assert_array_equal(dataset[0].masks(), expected_masks)


def test_classes_of_a_model_are_found_by_name():
    dataset = OneImage("here", {0: "dog", 1: "tree", 2: "cat", 3: "sky"})
    assert [target.label_id for target in dataset[0].targets] == [2, 3, 2, 0]
    assert dataset.label_space.stuff_classes == [3]
    things = OneImage("here", {0: "dog", 1: "cat"}, task="instance")
    assert [target.label_id for target in things[0].targets] == [1, 1, 0]


@pytest.mark.parametrize("kind, task", [("semantic", "panoptic"), ("semantic", "instance"), ("instance", "panoptic")])
def test_annotations_that_do_not_say_enough_for_a_task_are_refused(kind, task):
    with pytest.raises(ValueError, match=f"here has {kind} annotations, from which {task} segmentation cannot"):
        type("", (OneImage,), {"KIND": kind})("here", task=task)


def test_a_bad_sample_is_raised_or_listed_once():
    with pytest.raises(FileNotFoundError, match="it is gone"):
        OneImage("here").bad_sample("x", "it is gone", FileNotFoundError)
    dataset = OneImage("here", skip_bad_samples=True)
    for _ in range(2):
        dataset.bad_sample("x", "it is gone")
    assert [tuple(bad) for bad in dataset.bad_samples] == [("x", "it is gone")]


def test_a_setting_that_a_format_does_not_know_is_an_error_and_none_is_not_given():
    assert OneImage("here", images_dir=None, class_names=None).settings == {}
    assert OneImage("here", images_dir="there").settings == {"images_dir": "there"}
    with pytest.raises(TypeError, match="OneImage has no class_names, only images_dir"):
        OneImage("here", class_names=["a"])

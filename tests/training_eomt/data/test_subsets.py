import numpy as np
import pytest

from training_eomt.data import BadSample, leave_out, open_dataset, split_dataset
from training_eomt.data.base import SegmentationDataset
from training_eomt.data.samples import Category
from training_eomt.shapes import generate_shapes_dataset


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(generate_shapes_dataset(tmp_path / "shapes", num_train=20, num_validation=0, num_test=0))


@pytest.mark.parametrize("share", [0.25, 5])
def test_the_parts_are_disjoint_complete_and_the_same_for_everybody(dataset, share):
    train, validation = split_dataset(dataset, share, seed=3)
    assert (len(train), len(validation)) == (15, 5)
    assert sorted(train.indices + validation.indices) == list(range(20))
    assert split_dataset(dataset, share, seed=3)[1].indices == validation.indices == sorted(validation.indices)
    assert split_dataset(dataset, share, seed=4)[1].indices != validation.indices
    assert validation.name(0) == dataset.name(validation.indices[0])
    assert validation.summarize(0) == dataset.summarize(validation.indices[0])
    assert validation.label_space == dataset.label_space and validation.task == "panoptic"
    np.testing.assert_array_equal(validation[0].masks(), dataset[validation.indices[0]].masks())


@pytest.mark.parametrize("share", [0, 0.0, 1.0, 20, -1, -0.5])
def test_an_empty_part_is_an_error(dataset, share):
    with pytest.raises(ValueError, match="has 20 samples, of which"):
        split_dataset(dataset, share, seed=0)


def test_bad_samples_are_left_out_and_listed(dataset):
    bad = BadSample(dataset.name(1), "too dark")
    rest = leave_out(dataset, [bad])
    assert rest.indices == [0, *range(2, 20)] and rest.bad_samples == [bad]


class OneBadAnnotationEach(SegmentationDataset):
    """Six samples of seven, of each of which an annotation is left out when it is read."""

    def __init__(self):
        super().__init__("here", skip_bad_samples=True)

    def open(self, path):
        self.set_categories(path, "panoptic", [Category(1, "cat", True)])
        self.bad_sample("gone", "it is gone")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.bad_sample(self.name(index), "an annotation is bad")
        return index

    def name(self, index):
        return f"{index}.png"


def test_what_is_left_out_is_listed_with_the_part_that_it_is_left_out_of():
    """Before the split: with the part for training. In reading: with the part that the sample is in."""
    dataset = OneBadAnnotationEach()
    train, validation = split_dataset(dataset, 2, seed=0)
    assert [bad.name for bad in train.bad_samples] == ["gone"] and validation.bad_samples == []
    for part, before in ((train, ["gone"]), (validation, [])):
        names = [part.name(index) for index in range(len(part))]
        assert [part[index] for index in range(len(part))] == part.indices
        assert [bad.name for bad in part.bad_samples] == [*before, *names]
    assert len(train.bad_samples) + len(validation.bad_samples) == len(dataset.bad_samples) == 7

import json

import pytest

from training_eomt.data.class_names import read_class_names
from training_eomt.data.class_tables import read_published_categories


def test_coco_is_the_table_of_its_authors(coco_sample):
    table = json.loads((coco_sample / "panoptic_coco_categories.json").read_text())
    assert [(c.name, c.isthing) for c in read_published_categories("coco")] == [
        (category["name"], bool(category["isthing"])) for category in table
    ]


def test_ade20k_is_the_table_of_its_authors(ade20k_sample):
    names = [category.name for category in read_published_categories("ade20k")]
    assert names == read_class_names(ade20k_sample / "objectInfo150.txt")


@pytest.mark.parametrize("name, classes, things", [("coco", 133, 80), ("ade20k", 150, 100), ("cityscapes", 19, 8)])
def test_things_and_stuff_are_as_many_as_published(name, classes, things):
    categories = read_published_categories(name)
    assert [category.id for category in categories] == list(range(classes))
    assert sum(category.isthing for category in categories) == things

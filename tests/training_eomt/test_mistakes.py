import numpy as np
import pytest

from training_eomt.metrics.panoptic_quality import PanopticQuality
from training_eomt.mistakes import CONFUSED, FALSE, INEXACT, MISSED, RIGHT, find_mistakes


def segments(rows, label_ids, crowds=()):
    infos = [{"id": id_, "label_id": label_id, "iscrowd": id_ in crowds} for id_, label_id in label_ids.items()]
    return {"segmentation": np.array(rows), "segments_info": infos}


@pytest.mark.parametrize(
    ("target", "prediction", "kinds"),
    [
        # the same segments with other ids
        (segments([[1, 1, 2]], {1: 0, 2: 1}), segments([[8, 8, 5]], {5: 1, 8: 0}), [RIGHT, RIGHT, RIGHT]),
        # a thing on a ground (id 1) that is found without it, and the other way round
        (segments([[1, 1, 1, 2]], {1: 0, 2: 1}), segments([[1, 1, 1, 1]], {1: 0}), [RIGHT, RIGHT, RIGHT, MISSED]),
        (segments([[1, 1, 1, 1]], {1: 0}), segments([[1, 1, 1, 2]], {1: 0, 2: 1}), [RIGHT, RIGHT, RIGHT, FALSE]),
        # one class taken for another
        (
            segments([[1, 1, 2, 2]], {1: 0, 2: 1}),
            segments([[1, 1, 2, 2]], {1: 0, 2: 2}),
            [RIGHT, RIGHT, CONFUSED, CONFUSED],
        ),
        # a segment that is a little too large
        (
            segments([[1, 1, 1, 2, 2, 2]], {1: 0, 2: 1}),
            segments([[1, 1, 2, 2, 2, 2]], {1: 0, 2: 1}),
            [RIGHT, RIGHT, INEXACT, RIGHT, RIGHT, RIGHT],
        ),
        # two things of a class found as one, which is the larger of the two
        (
            segments([[1, 1, 1, 1, 2, 2]], {1: 0, 2: 0}),
            segments([[1, 1, 1, 1, 1, 1]], {1: 0}),
            [RIGHT, RIGHT, RIGHT, RIGHT, MISSED, MISSED],
        ),
        # no class is known (-1), and a crowd: nothing to be wrong about
        (segments([[1, 1, -1]], {1: 0}), segments([[1, 1, 2]], {1: 0, 2: 1}), [RIGHT, RIGHT, RIGHT]),
        (segments([[1, 1, 2]], {1: 0, 2: 1}, {2}), segments([[1, 1, 1]], {1: 0}), [RIGHT, RIGHT, RIGHT]),
        # nothing at all is found
        (segments([[1, 1, 2]], {1: 0, 2: 1}), segments([[-1, -1, -1]], {}), [MISSED, MISSED, MISSED]),
    ],
)
def test_every_kind_of_mistake_is_told_from_the_others(target, prediction, kinds):
    assert find_mistakes(target, prediction).tolist() == [kinds]


def test_what_is_found_on_the_background_of_instances_is_a_mistake():
    target, prediction = segments([[1, 1, -1, -1]], {1: 0}), segments([[1, 1, -1, 2]], {1: 0, 2: 1})
    assert find_mistakes(target, prediction, has_background=True).tolist() == [[RIGHT, RIGHT, RIGHT, FALSE]]


def test_segments_with_mistakes_of_their_own_are_those_that_panoptic_quality_counts():
    rng = np.random.default_rng(0)
    for _ in range(50):
        classes = rng.integers(3, size=(2, 6))
        rows = rng.integers(6, size=(20, 1)).repeat(20, axis=1)
        other = np.where(rng.random((20, 20)) < rng.uniform(0, 0.6), rng.integers(6, size=(20, 20)), rows)
        target, prediction = (
            segments(each, {id_: int(labels[id_]) for id_ in np.unique(each).tolist()})
            for each, labels in ((rows, classes[0]), (other, np.where(rng.random(6) < 0.3, classes[1], classes[0])))
        )
        figures = PanopticQuality(3).image_state(prediction, target)
        kinds = find_mistakes(target, prediction)
        wrong = [
            sum(np.isin(kinds[each["segmentation"] == info["id"]], names).all() for info in each["segments_info"])
            for each, names in ((target, (MISSED, CONFUSED)), (prediction, (FALSE, CONFUSED, MISSED)))
        ]
        assert wrong == [figures["fn"].sum(), figures["fp"].sum()]

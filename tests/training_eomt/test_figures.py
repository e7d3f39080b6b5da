import numpy as np
from PIL import Image

from training_eomt.figures import side_by_side
from training_eomt.mistakes import KINDS, RIGHT


def figure(names, label_ids=(0, 1), mistakes=None):
    segmentation = np.zeros((40, 60), dtype=np.int32)
    segmentation[:, 30:] = 1
    infos = [{"id": index, "label_id": label_id} for index, label_id in enumerate(label_ids)]
    panels = {"prediction": {"segmentation": segmentation, "segments_info": infos}}
    return side_by_side(Image.new("RGB", (60, 40), "grey"), panels, names, mistakes)


def test_names_of_any_kind_are_one_line_of_the_legend():
    plain = figure({0: "cat", 1: "a dog"})
    assert figure({0: "\x1bcat\u202e", 1: "a\ndog"}).tobytes() == plain.tobytes()
    assert figure({0: "cat", 1: "dog" * 1000}).height <= plain.height + 30
    assert figure({0: "cat"}).tobytes() == figure({0: "cat", 1: "1"}).tobytes()


def count_pixels(image, color):
    return (np.abs(np.asarray(image).astype(int) - color).max(axis=2) <= 40).sum()  # the image shows through


def test_mistakes_have_a_panel_and_a_legend_of_their_own():
    names = {0: "cat", 1: "dog"}
    plain = figure(names)
    for kind, (_, color) in KINDS.items():
        mistakes = np.full((40, 60), RIGHT, dtype=np.uint8)
        mistakes[10:20, 10:20] = kind
        drawn = figure(names, mistakes=mistakes)
        assert drawn.width > 1.4 * plain.width and drawn.height > plain.height
        panel = drawn.crop((plain.width, 0, drawn.width, plain.height))
        factor = plain.width // 2 // 60  # by which the image is enlarged
        assert count_pixels(panel, color) == 100 * factor**2
        assert count_pixels(drawn.crop((0, plain.height, *drawn.size)), color) > 0


def test_where_nothing_is_wrong_no_kind_of_mistake_is_in_the_legend():
    names = {0: "cat", 1: "dog"}
    assert figure(names, mistakes=np.full((40, 60), RIGHT, dtype=np.uint8)).height == figure(names).height

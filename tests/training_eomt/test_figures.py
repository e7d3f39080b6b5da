import numpy as np
from PIL import Image

from training_eomt.figures import side_by_side


def figure(names, label_ids=(0, 1)):
    segmentation = np.zeros((40, 60), dtype=np.int32)
    segmentation[:, 30:] = 1
    infos = [{"id": index, "label_id": label_id} for index, label_id in enumerate(label_ids)]
    panels = {"prediction": {"segmentation": segmentation, "segments_info": infos}}
    return side_by_side(Image.new("RGB", (60, 40), "grey"), panels, names)


def test_names_of_any_kind_are_one_line_of_the_legend():
    plain = figure({0: "cat", 1: "a dog"})
    assert figure({0: "\x1bcat\u202e", 1: "a\ndog"}).tobytes() == plain.tobytes()
    assert figure({0: "cat", 1: "dog" * 1000}).height <= plain.height + 30
    assert figure({0: "cat"}).tobytes() == figure({0: "cat", 1: "1"}).tobytes()

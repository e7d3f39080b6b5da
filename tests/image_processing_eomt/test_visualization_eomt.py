import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from image_processing_eomt import class_color, draw_segmentation, visualization_eomt
from image_processing_eomt.visualization_eomt import shorten_name


NAMES = {0: "cat", 1: "sky"}


def luminance(pixels):
    """Relative luminance of `(..., 3)` sRGB values from 0 to 255, as WCAG 2 defines it."""
    values = np.asarray(pixels) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    """WCAG 2's contrast ratio of two relative luminances, 1 to 21."""
    return (np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05)


def written(image, segmentation, infos, names):
    """`(height, width)` bool: the pixels that names take up."""
    named, unnamed = (
        np.array(draw_segmentation(image, segmentation, infos, each))
        for each in (names, {info["label_id"]: "" for info in infos} | dict.fromkeys(names, ""))
    )
    return (named != unnamed).any(axis=2)


@pytest.fixture
def scene():
    """A grey picture, 120 high and 200 wide: the left half is one segment, the right half nothing."""
    segmentation = np.full((120, 200), -1)
    segmentation[:, :100] = 0
    return Image.new("RGB", (200, 120), (128, 128, 128)), segmentation, [{"id": 0, "label_id": 1}]


@pytest.fixture
def photograph(coco_sample):
    """A crowd of riders: photograph, map of segment ids, segments, class names."""
    names = {c["id"]: c["name"] for c in json.loads((coco_sample / "panoptic_coco_categories.json").read_text())}
    annotation = json.loads((coco_sample / "panoptic.json").read_text())["annotations"][1]
    colors = np.array(Image.open(coco_sample / "panoptic" / annotation["file_name"]).convert("RGB")).astype(int)
    image = Image.open(coco_sample / "images" / annotation["file_name"].replace(".png", ".jpg"))
    infos = [{"id": info["id"], "label_id": info["category_id"]} for info in annotation["segments_info"]]
    return image, colors @ [1, 256, 65536], infos, names


def test_a_segment_is_filled_and_the_rest_left_alone(scene):
    image, segmentation, infos = scene
    drawing = np.array(draw_segmentation(image, segmentation, infos, NAMES)).astype(int)
    assert drawing.shape == (120, 200, 3)
    assert (drawing[:, 101:] == 128).all()  # but for the dark half of the outline
    halfway = (np.array(class_color(1)) + 128) / 2
    assert np.abs(drawing[10, 10] - halfway).max() <= 1


@pytest.mark.parametrize("shade", [0, 40, 128, 215, 255])
@pytest.mark.parametrize("label_id", range(12))
def test_outlines_show_on_dark_and_on_light_pictures(shade, label_id):
    segmentation = np.arange(80).reshape(1, 80).repeat(60, axis=0) // 20  # nothing, two instances, another class
    infos = [{"id": 1, "label_id": label_id}, {"id": 2, "label_id": label_id}, {"id": 3, "label_id": label_id + 1}]
    image = Image.new("RGB", (80, 60), (shade,) * 3)
    levels = luminance(np.array(draw_segmentation(image, segmentation, infos, {}))[30])
    for border in (20, 40, 60):
        line, ground = levels[border - 1 : border + 1], levels[[border - 5, border + 4]]
        assert contrast(line.min(), line.max()) > 3  # light beside dark
        for level in ground:  # 3 is what WCAG asks of graphics
            assert max(contrast(line.min(), level), contrast(line.max(), level)) > 3


def test_thin_things_keep_their_colour_where_they_meet_larger_ones(scene):
    image, segmentation, _ = scene
    segmentation[:], segmentation[20:100, 50] = 0, 1
    drawing = draw_segmentation(image, segmentation, None, {0: "", 1: ""})
    tint = (np.array(class_color(1)) + 255) / 2
    assert np.abs(np.array(drawing)[21:99, 50] - tint).max() <= 1


@pytest.mark.parametrize("shade", [0, 255])
def test_letters_contrast_with_what_is_round_them(scene, shade):
    _, segmentation, infos = scene
    image = Image.new("RGB", (200, 120), (shade,) * 3)
    where = written(image, segmentation, infos, NAMES)
    assert where.sum() > 20
    levels = luminance(np.array(draw_segmentation(image, segmentation, infos, NAMES)))
    letters = where & (levels > 0.7)
    assert letters.sum() > 5
    around = ndimage.binary_dilation(letters, iterations=2) & ~ndimage.binary_dilation(letters)  # but for soft edges
    assert np.median(contrast(levels[around], 0.7)) > 7  # WCAG's stricter level for text
    assert contrast(ndimage.minimum_filter(levels, 5)[letters], 0.7).min() > 7


def test_names_lie_inside_their_segments(photograph):
    image, segmentation, infos, names = photograph
    named = 0
    for label_id in {info["label_id"] for info in infos}:
        where = written(image, segmentation, infos, dict.fromkeys(names, "") | {label_id: names[label_id]})
        ids = [info["id"] for info in infos if info["label_id"] == label_id]
        assert np.isin(segmentation[where], ids).all()
        named += len(set(segmentation[where]))
    assert named > 15  # of 32, many of them slivers


def test_names_in_large_pictures_lie_inside_their_segments_too(photograph):
    image, segmentation, infos, names = photograph
    segmentation = segmentation.repeat(3, axis=0).repeat(3, axis=1)
    image = image.resize(segmentation.shape[::-1])
    horse = next(label_id for label_id, name in names.items() if name == "horse")
    where = written(image, segmentation, infos, dict.fromkeys(names, "") | {horse: "horse"})
    horses = np.isin(segmentation, [info["id"] for info in infos if info["label_id"] == horse])
    assert where.any()
    assert horses[where].mean() > 0.99  # names are placed on a grid of every third pixel


def test_a_name_is_in_the_middle_of_a_plain_segment(scene):
    image, segmentation, infos = scene
    rows, columns = np.nonzero(written(image, segmentation, infos, NAMES))
    assert abs((rows.min() + rows.max()) / 2 - 59.5) <= 3
    assert abs((columns.min() + columns.max()) / 2 - 49.5) <= 3


def test_a_name_is_not_cut_at_the_border_of_the_picture(scene):
    image, segmentation, infos = scene
    sizes = []
    for top, left in ((50, 90), (0, 0), (104, 172)):
        segmentation[:] = -1
        segmentation[top : top + 16, left : left + 28] = 0
        sizes.append(written(image, segmentation, infos, NAMES).sum())
    assert sizes[0] > 20
    assert len(set(sizes)) == 1


def test_a_name_goes_on_several_lines_where_one_does_not_fit(scene):
    image, segmentation, infos = scene
    segmentation[:, 50:] = -1
    one, two = (written(image, segmentation, infos, {1: name}) for name in ("traffic", "traffic light"))
    assert np.ptp(np.nonzero(two)[0]) > 1.5 * np.ptp(np.nonzero(one)[0])


def test_a_name_that_does_not_fit_is_left_out(scene):
    image, segmentation, infos = scene
    segmentation[:, 12:] = -1
    assert not written(image, segmentation, infos, NAMES).any()


def test_a_very_long_name_is_cut(scene):
    image, segmentation, infos = scene
    segmentation[:] = 0
    assert written(image, segmentation, infos, {1: "so " * 1000}).any()
    assert written(image, segmentation, infos, {1: "o" * 1000}).any()


@pytest.mark.parametrize(("name", "shown"), [("vélo", "velo"), ("猫", "1"), ("a\nb\tc", "a b c"), (None, "1")])
def test_names_that_the_font_cannot_write(scene, monkeypatch, name, shown):
    monkeypatch.setattr(visualization_eomt, "_find_fonts", lambda: [None])
    drawings = [draw_segmentation(*scene, {1: each}) for each in (name, shown)]
    assert drawings[0].tobytes() == drawings[1].tobytes()


@pytest.mark.parametrize("name", ["猫", "تكسي", "vélo", "\x00", "🚲", "e\u0301"])
def test_any_name_can_be_drawn_with_the_fonts_of_this_machine(scene, name):
    assert written(*scene, {1: name}).any()


def test_drawing_twice_gives_the_same_and_tensors_and_other_modes_are_fine(scene):
    image, segmentation, infos = scene
    first = draw_segmentation(image, segmentation, infos, NAMES)
    second = draw_segmentation(image.convert("L"), torch.from_numpy(segmentation).float(), infos, NAMES)
    assert first.tobytes() == second.tobytes()


def test_nothing_to_draw_leaves_the_image(scene):
    image, segmentation, infos = scene
    for nothing in (infos, [], None):
        assert draw_segmentation(image, np.full_like(segmentation, -1), nothing, NAMES).tobytes() == image.tobytes()
    assert draw_segmentation(image, segmentation, [], NAMES).tobytes() == image.tobytes()
    assert draw_segmentation(image, np.zeros((0, 120, 200)), [], NAMES).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3000, 50), (50, 3000)])
def test_pictures_of_any_shape_can_be_drawn(size):
    image = Image.new("RGB", size)
    drawing = draw_segmentation(image, np.ones(size[::-1], dtype=int), [{"id": 1, "label_id": 0}], NAMES)
    assert drawing.size == size
    assert drawing.tobytes() != image.tobytes()


def test_class_ids_alone_give_what_segments_of_these_classes_give(photograph):
    image, segmentation, infos, names = photograph
    classes = np.full_like(segmentation, -1)
    for info in infos:
        classes[segmentation == info["id"]] = info["label_id"]
    explicit = [{"id": label_id, "label_id": label_id} for label_id in np.unique(classes) if label_id != -1]
    implied, expected = (draw_segmentation(image, classes, each, names) for each in (None, explicit))
    assert implied.tobytes() == expected.tobytes()
    assert implied.tobytes() != image.tobytes()


def test_masks_give_what_the_map_gives(photograph):
    image, segmentation, infos, names = photograph
    masks = torch.from_numpy(np.stack([segmentation == info["id"] for info in infos]))
    drawing = draw_segmentation(image, masks, infos, names)
    assert drawing.tobytes() == draw_segmentation(image, segmentation, infos, names).tobytes()


@pytest.mark.parametrize("scores", [(0.9, 0.5), (0.5, 0.9), (0.7, 0.7), None])
def test_of_masks_that_overlap_the_best_is_on_top(scene, scores):
    image, _, infos = scene
    infos = [{"label_id": 0}, {"label_id": 1}]
    if scores is not None:
        infos = [info | {"score": score} for info, score in zip(infos, scores, strict=True)]
    masks = np.zeros((2, 120, 200), dtype=bool)
    masks[0, :, :120], masks[1, :, 80:] = True, True
    drawing = np.array(draw_segmentation(image, masks, infos, {0: "", 1: ""}))
    top = 1 if scores == (0.5, 0.9) else 0
    assert (drawing[5, 100] == drawing[5, 195 if top else 5]).all()
    assert (drawing[5, 100] != drawing[5, 5 if top else 195]).any()


def test_a_class_has_one_colour_in_every_picture(scene):
    image, segmentation, infos = scene
    alone = draw_segmentation(image, segmentation, infos, NAMES)
    segmentation[:, 100:] = 7
    others = [{"id": 7, "label_id": 0}, *infos]
    assert draw_segmentation(image, segmentation, others, NAMES).getpixel((5, 5)) == alone.getpixel((5, 5))


@pytest.mark.parametrize("label_id", [0, 1, 2, 3, 40])
def test_instances_of_a_class_differ_in_shade(label_id):
    segmentation = np.arange(200).reshape(1, 200).repeat(50, axis=0) // 40
    infos = [{"id": index, "label_id": label_id} for index in range(5)]
    drawing = draw_segmentation(Image.new("RGB", (200, 50), (128, 128, 128)), segmentation, infos, {label_id: ""})
    fills = np.array(drawing).astype(int)[25, 20::40]
    distances = np.abs(fills[:, None] - fills[None]).max(axis=2)
    assert distances[~np.eye(5, dtype=bool)].min() >= 10  # of 255, at half opacity


def test_classes_have_colours_of_their_own():
    colors = [class_color(label) for label in range(150)]
    assert len(set(colors)) == 150
    assert colors[:2] == [(255, 51, 51), (40, 86, 199)]  # pinned: published legends must stay true
    few = np.array(colors[:19])
    distances = np.abs(few[:, None] - few[None]).max(axis=2)
    assert distances[~np.eye(19, dtype=bool)].min() >= 25


def test_a_segmentation_of_another_size_is_an_error_that_says_what_to_do(scene):
    image, segmentation, infos = scene
    for other in (segmentation[:50], segmentation.T):
        with pytest.raises(ValueError, match=r"target_sizes.*exif_transpose"):
            draw_segmentation(image, other, infos, NAMES)


def test_masks_that_do_not_go_with_the_segments_are_an_error(scene):
    image, segmentation, infos = scene
    masks = np.stack([segmentation == 0, segmentation == -1])
    with pytest.raises(ValueError, match="2 masks but 1 dicts"):
        draw_segmentation(image, masks, infos, NAMES)
    with pytest.raises(ValueError, match="need segments_info"):
        draw_segmentation(image, masks, None, NAMES)
    with pytest.raises(ValueError, match=r"\(1, 2, 120, 200\)"):
        draw_segmentation(image, masks[None], infos, NAMES)


def test_sixteen_bit_pictures_are_drawn_on_as_they_look():
    deep = Image.fromarray(np.full((20, 30), 30000, dtype=np.uint16))
    drawing = draw_segmentation(deep, np.full((20, 30), -1), [], {})
    assert drawing.getpixel((5, 5)) == (117, 117, 117)


def as_pipeline_result(segmentation, infos, names):
    return [
        {
            "label": names[info["label_id"]],
            "score": info.get("score"),
            "mask": Image.fromarray((segmentation == info["id"]).astype(np.uint8) * 255),
        }
        for info in infos
    ]


def test_what_the_pipeline_returns_gives_what_the_map_gives(photograph):
    image, segmentation, infos, names = photograph
    expected = draw_segmentation(image, segmentation, infos, names)
    segments = as_pipeline_result(segmentation, infos, names)
    assert draw_segmentation(image, segments, id2label=names).tobytes() == expected.tobytes()
    unnamed = draw_segmentation(np.array(image), segments)  # in colours of its own, the same for the same name
    assert unnamed.size == image.size and unnamed.tobytes() != expected.tobytes()
    horse = next(segment for segment in segments if segment["label"] == "horse")
    inside = np.asarray(horse["mask"]) > 0
    alone, reordered = (np.asarray(draw_segmentation(image, each)) for each in ([horse], [horse, segments[0]]))
    assert (alone[inside] == reordered[inside]).mean() > 0.9


def test_of_the_pipelines_masks_that_overlap_the_best_is_on_top(scene):
    image, _, _ = scene
    left, right = Image.new("L", (200, 120)), Image.new("L", (200, 120))
    left.paste(255, (0, 0, 120, 120))
    right.paste(255, (80, 0, 200, 120))
    for scores, side in (((0.9, 0.5), 5), ((0.5, 0.9), 195), ((None, None), 5)):
        segments = [
            {"label": label, "score": score, "mask": mask} for label, score, mask in zip("ab", scores, (left, right))
        ]
        drawing = np.asarray(draw_segmentation(image, segments))
        assert (drawing[5, 100] == drawing[5, side]).all()


def test_photographs_are_drawn_upright_as_the_pipeline_segments_them(scene, tmp_path):
    image, _, _ = scene
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    segments = [{"label": "cat", "score": 0.9, "mask": Image.new("L", image.size, 255)}]
    expected = draw_segmentation(image, segments)
    for photo in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        assert draw_segmentation(photo, segments).tobytes() == expected.tobytes()


def test_nothing_found_by_the_pipeline_leaves_the_image(scene):
    assert draw_segmentation(scene[0], []).tobytes() == scene[0].tobytes()


def test_masks_of_another_size_are_an_error(scene):
    with pytest.raises(ValueError, match="target_sizes"):
        draw_segmentation(scene[0], [{"label": "cat", "score": 0.9, "mask": Image.new("L", (5, 5))}])


NO_INFOS = ([{"id": 0}], [5], [{"id": "0", "label_id": 1}], [{"id": 0, "label_id": None}])
NO_SEGMENTATIONS = ("text", np.full((120, 200), np.nan), [{"mask": 1}])


@pytest.mark.parametrize(
    ("segmentation", "infos"), [(None, infos) for infos in NO_INFOS] + [(wrong, None) for wrong in NO_SEGMENTATIONS]
)
def test_what_is_no_segmentation_is_an_error(scene, segmentation, infos):
    image, ids, _ = scene
    with pytest.raises(ValueError, match=r"A segmentation is|segments_info\[0\]"):
        draw_segmentation(image, ids if segmentation is None else segmentation, infos)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("per\nson", "per son"),
        ("\x1b[31mred\x07", "[31mred"),
        ("\u202etxt\u2066", "txt"),
        ("x" * 200, "x" * 59 + "…"),
        ("\x00\u200b", "7"),
        (None, "7"),
        ("", ""),
    ],
)
def test_names_are_shown_on_one_line_without_what_cannot_be_seen(name, shown):
    assert shorten_name(name, 7) == shown


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64", "float32"])
def test_ids_of_any_type_and_distance_are_told_apart(scene, dtype):
    image, segmentation, _ = scene
    segmentation = np.where(segmentation == 0, 3, 200).astype(dtype)
    infos = [{"id": 3, "label_id": 0}, {"id": 7, "label_id": 0}]
    expected = draw_segmentation(image, np.where(segmentation == 3, 0, -1), [{"id": 0, "label_id": 0}], NAMES)
    assert draw_segmentation(image, segmentation, infos, NAMES).tobytes() == expected.tobytes()
    if dtype == "int64":
        far = np.where(segmentation == 3, 10**12, segmentation)
        infos = [{"id": 10**12, "label_id": 0}, {"id": 7, "label_id": 0}]
        assert draw_segmentation(image, far, infos, NAMES).tobytes() == expected.tobytes()


def test_more_segments_than_a_byte_counts_are_told_apart():
    ids = np.arange(300).reshape(20, 15).repeat(8, axis=0).repeat(8, axis=1)
    infos = [{"id": index, "label_id": index} for index in range(300)]
    drawing = np.asarray(draw_segmentation(Image.new("RGB", (120, 160)), ids, infos, dict.fromkeys(range(300), "")))
    fills = drawing[4::8, 4::8].reshape(-1, 3)
    for label_id in (0, 1, 255, 256, 299):
        assert np.abs(fills[label_id] - np.array(class_color(label_id)) / 2).max() <= 1

"""What is written for images is what the tools of each format read, and what the pipeline finds."""

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from image_processing_eomt import EomtImageProcessorPil, EomtImageSegmentationPipeline
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.prediction.outputs import PREDICTION_FILES, ReadImage
from training_eomt.prediction.predict import AnnotatedImages, ImageFolder, predict
from training_eomt.prediction.records import Record
from training_eomt.prediction.shared_folder import SharedFolder
from training_eomt.shapes import CATEGORIES, STUFF, THINGS, generate_shapes_dataset


ID2LABEL = dict(enumerate([*THINGS, *STUFF, "cat"]))  # a class more than the data have
EVERYTHING = {"threshold": 0.0, "overlap_mask_area_threshold": 0.0}


@pytest.fixture
def model(tiny_config):
    tiny_config.id2label = ID2LABEL
    return EomtForUniversalSegmentation(tiny_config).eval()


@pytest.fixture
def shapes(tmp_path):
    """Three images with targets, each of another size."""
    return generate_shapes_dataset(tmp_path / "shapes", 0, 0, 3, image_size=(40, 90)) / "test"


def make_files(directory, task, outputs, id2label=ID2LABEL, *args, **settings):
    return PREDICTION_FILES[task](SharedFolder(directory, "0-of-1"), outputs, id2label, *args, **settings)


def make_image(name, size, sample=None, **fields):
    return ReadImage(name, Record(name, height=size[0], width=size[1], **fields), sample)


def processor(task):
    return EomtImageProcessorPil(
        task=task, size=64, stuff_classes=range(len(THINGS), len(THINGS + STUFF)), **EVERYTHING
    )


def pipeline_segments(model, image_processor, path):
    """What the pipeline finds in a image: `(class name, mask, score)` of each segment."""
    segmenter = EomtImageSegmentationPipeline(model=model, image_processor=image_processor, device="cpu")
    return [(segment["label"], np.asarray(segment["mask"]) > 0, segment["score"]) for segment in segmenter(str(path))]


def bounding_box(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]


def test_panoptic_maps_and_json_are_coco_panoptic(model, shapes, tmp_path):
    image_processor = processor("panoptic")
    source = AnnotatedImages(CocoPanopticDataset(shapes, ID2LABEL))
    predict(model, image_processor, source, tmp_path / "out", show_progress=False)
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    truth = json.loads((shapes / "panoptic.json").read_text())
    assert content["images"] == [
        {name: image[name] for name in ("id", "file_name", "height", "width")} for image in truth["images"]
    ]
    numbers = {category.name: category.id for category in CATEGORIES} | {"cat": 11}
    assert content["categories"] == [
        {"id": number, "name": name, "isthing": int(name not in STUFF)} for name, number in numbers.items()
    ]
    for annotation, image in zip(content["annotations"], content["images"], strict=True):
        assert annotation["image_id"] == image["id"]
        with Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"]) as png:
            assert png.mode == "RGB" and png.size == (image["width"], image["height"])
            ids = np.asarray(png).astype(int) @ [1, 256, 65536]
        found = pipeline_segments(model, image_processor, shapes / "images" / image["file_name"])
        segments = annotation["segments_info"]
        assert len(segments) == len(found) > 0
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in segments}
        for segment, (name, mask, score) in zip(segments, found, strict=True):
            np.testing.assert_array_equal(ids == segment["id"], mask)
            assert segment["area"] == mask.sum() and segment["bbox"] == bounding_box(mask)
            assert segment["category_id"] == numbers[name] and segment["iscrowd"] == 0
            assert segment["score"] == pytest.approx(score, abs=1e-6)


def test_panoptic_predictions_are_data_that_can_be_read_again(model, shapes, tmp_path):
    predict(
        model,
        processor("panoptic"),
        AnnotatedImages(CocoPanopticDataset(shapes, ID2LABEL)),
        tmp_path / "out",
        show_progress=False,
    )
    (tmp_path / "out" / "images").symlink_to(shapes / "images")
    dataset = CocoPanopticDataset(tmp_path / "out", ID2LABEL)  # checks ids and sizes
    assert all(dataset[index].targets for index in range(3))


def test_instances_are_coco_results(model, shapes, tmp_path):
    image_processor = processor("instance")
    source = AnnotatedImages(CocoPanopticDataset(shapes, ID2LABEL, task="instance"))
    predict(model, image_processor, source, tmp_path / "out", show_progress=False)
    truth = COCO()
    images = json.loads((shapes / "panoptic.json").read_text())["images"]
    annotations = [
        {
            "image_id": sample.image_id,
            "category_id": source.category_ids[target.label_id],
            "segmentation": target.rle,
            "area": int(target.mask().sum()),
            "bbox": coco_mask.toBbox(target.rle).tolist(),
            "iscrowd": 0,
        }
        for sample in (source[index] for index in range(3))
        for target in sample.targets
    ]
    truth.dataset = {
        "info": {},  # which older versions of loadRes ask for
        "images": images,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": category.id, "name": category.name} for category in CATEGORIES],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(str(tmp_path / "out" / "instances.json"))
        evaluation = COCOeval(truth, results, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert len(evaluation.stats) == 12 and 0 <= evaluation.stats[0] <= 1
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())
    numbers = [category.id for category in CATEGORIES if category.isthing]
    numbers += range(numbers[-1] + 1, numbers[-1] + 1 + len(STUFF) + 1)  # of what the data do not have
    assert classes == dict(zip(map(str, numbers), [*THINGS, *STUFF, "cat"], strict=True))
    for image in images:
        found = pipeline_segments(model, image_processor, shapes / "images" / image["file_name"])
        written = results.loadAnns(results.getAnnIds(imgIds=[image["id"]]))
        assert len(written) == len(found) > 0
        for result, (name, mask, score) in zip(written, found, strict=True):
            np.testing.assert_array_equal(results.annToMask(result), mask)
            assert result["bbox"].tolist() == bounding_box(mask) and result["area"] == mask.sum()
            assert classes[str(result["category_id"])] == name and result["score"] == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_label_maps_of_images_in_several_windows_hold_numbers_of_classes(model, tmp_path, batch_size):
    for index, size in enumerate([(64, 64), (200, 70), (60, 150)]):
        pixels = np.random.default_rng(index).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    image_processor = processor("semantic")
    out = tmp_path.with_name(f"{tmp_path.name}-out")
    source = ImageFolder(tmp_path)
    predict(model, image_processor, source, out, batch_size=batch_size, show_progress=False)
    classes = json.loads((out / "classes.json").read_text())
    assert classes == {str(label_id): name for label_id, name in ID2LABEL.items()}
    for index in range(3):
        with Image.open(out / "label_maps" / f"{index}.png") as png:
            assert png.mode == "L"
            label_map = np.asarray(png)
        found = pipeline_segments(model, image_processor, tmp_path / f"{index}.png")
        assert {classes[str(number)] for number in np.unique(label_map)} == {name for name, *_ in found}
        for name, mask, _ in found:
            wrong = (label_map == next(int(number) for number, other in classes.items() if other == name)) != mask
            assert wrong.mean() < 1e-3  # other batches of windows, other sums: pixels on the edge between two classes


def test_numbers_past_a_byte_make_16_bit_maps(tmp_path):
    image = make_image("a/b.jpg", (1, 3))
    for numbers, mode in ((None, "L"), ({0: 7, 1: 300}, "I;16")):
        files = make_files(tmp_path, "semantic", ["maps"], {0: "cat", 1: "dog", 2: "sky"}, (), numbers)
        files.write(image, torch.tensor([[0, 1, 2]], dtype=torch.int16))
        assert image.record.num_segments is None
        with Image.open(tmp_path / "label_maps" / "a" / "b.jpg.png") as png:
            assert png.mode == mode
            assert np.asarray(png).tolist() == ([[0, 1, 2]] if numbers is None else [[7, 300, 301]])


def test_ids_past_a_byte_go_on_in_green_and_blue(tmp_path):
    files = make_files(tmp_path, "panoptic", ["maps"], {0: "cat"})
    result = {"segmentation": torch.tensor([[-1, 0, 254, 255, 70_000]], dtype=torch.int32), "segments_info": []}
    files.write(make_image("a.png", (1, 5)), result)
    with Image.open(tmp_path / "panoptic" / "a.png.png") as png:
        colors = np.asarray(png).tolist()
    assert colors == [[[0, 0, 0], [1, 0, 0], [255, 0, 0], [0, 1, 0], [70_001 % 256, 70_001 // 256 % 256, 1]]]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"outputs": ["overlay"]}, "no output 'overlay', only overlays, maps, json, figures"),
        ({"category_ids": {0: 1, 1: 1}}, "one number"),
        ({"category_ids": {0: 70_000}}, "0 to 65535"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        make_files(tmp_path, "semantic", **{"outputs": ["maps"], "id2label": ID2LABEL, **given})


def half_a_prediction(height=300, width=400):
    """A segment that covers the upper half."""
    halves = torch.full((height, width), -1, dtype=torch.int32)
    halves[: height // 2] = 0
    info = {"id": 0, "label_id": 6, "score": 0.9, "area": height * width // 2, "bbox": [0, 0, width, height // 2]}
    return {"segmentation": halves, "segments_info": [info]}


GRAY = SimpleNamespace(image=Image.new("RGB", (400, 300), "gray"), size=(300, 400), targets=[])


def test_overlays_are_the_image_with_its_segments_at_its_own_size(tmp_path):
    files = make_files(tmp_path, "panoptic", ["overlays"], ID2LABEL)
    image = make_image("a/two.jpg", GRAY.size, GRAY)
    files.write(image, half_a_prediction())
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert path.relative_to(tmp_path).as_posix() == "overlays/a/two.jpg.overlay.png"
    sizes = {"overlays/a/two.jpg.overlay.png": path.stat().st_size}
    assert (image.record.files, image.record.num_segments, image.record.segments) == (sizes, 1, None)
    with Image.open(path) as overlay:
        assert overlay.size == (400, 300)
        pixels = np.asarray(overlay.convert("RGB"))
    assert (pixels[100, 5] != 128).any() and (pixels[200:] == 128).all()


def test_figures_show_input_target_and_prediction(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 1) / "test"
    sample = AnnotatedImages(CocoPanopticDataset(data, ID2LABEL))[0]
    make_files(tmp_path, "panoptic", ["figures"], ID2LABEL, has_targets=True).write(
        make_image("three.jpg", sample.size, sample), half_a_prediction(*sample.size)
    )
    files = make_files(tmp_path, "panoptic", ["figures"], ID2LABEL)
    files.write(make_image("a/two.jpg", GRAY.size, GRAY), half_a_prediction())
    figures = tmp_path / "figures"
    with (
        Image.open(figures / "three.jpg.figure.png") as three,
        Image.open(figures / "a" / "two.jpg.figure.png") as two,
    ):
        assert three.width > 3 * 320 and 2 * 400 < two.width < 3 * 400
        # The upper half of the prediction's panel is painted, the lower half is the image.
        panel = np.asarray(two.convert("RGB"))[:, -400:]
        assert (panel[60] != 128).any() and (panel[250, :380] == 128).all()


def test_an_image_that_is_written_in_part_leaves_nothing(tmp_path):
    files = make_files(tmp_path, "panoptic", ["overlays", "maps"], ID2LABEL)
    (tmp_path / "panoptic" / "a.png.png").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        files.write(make_image("a.png", GRAY.size, GRAY), half_a_prediction())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_real_photographs_keep_the_numbers_of_their_data(coco_sample, tiny_config, tmp_path):
    truth = json.loads((coco_sample / "panoptic.json").read_text())
    categories = truth["categories"]
    tiny_config.id2label = {index: category["name"] for index, category in enumerate(categories)}
    model = EomtForUniversalSegmentation(tiny_config)
    source = AnnotatedImages(CocoPanopticDataset(coco_sample, tiny_config.id2label))
    stuff = [index for index, category in enumerate(categories) if not category["isthing"]]
    image_processor = EomtImageProcessorPil(task="panoptic", size=64, stuff_classes=stuff, **EVERYTHING)
    summary = predict(model, image_processor, source, tmp_path / "out", batch_size=2, show_progress=False)
    assert summary.is_complete and summary.num_segmented == 2
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    by_id = {category["id"]: category for category in content["categories"]}
    assert all(by_id[category["id"]].items() <= category.items() for category in categories)
    assert [annotation["image_id"] for annotation in content["annotations"]] == [
        annotation["image_id"] for annotation in truth["annotations"]
    ]
    for annotation in content["annotations"]:
        with Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"]) as png:
            ids = np.asarray(png).astype(int) @ [1, 256, 65536]
        assert {segment["id"]: segment["area"] for segment in annotation["segments_info"]} == {
            number: (ids == number).sum() for number in np.unique(ids) if number
        }
        name = annotation["file_name"].removesuffix(".png")
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.overlay.png") as overlay:
            assert overlay.size == ids.shape[::-1]

"""The pipeline over Transformers' own model: it knows neither this project's model class nor its configuration."""

from io import BytesIO
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import EomtConfig, EomtForUniversalSegmentation, ImageSegmentationPipeline
from transformers.pipelines.pt_utils import KeyDataset

from image_processing_eomt import TASKS, EomtImageProcessorPil, EomtImageSegmentationPipeline
from image_processing_eomt.settings_eomt import POST_PROCESSING


SIZES = [(30, 40), (70, 20), (64, 64), (15, 90), (33, 33)]  # height, width
EVERYTHING = {"threshold": 0.0, "mask_threshold": 0.0, "overlap_mask_area_threshold": 0.0}


@pytest.fixture
def model():
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_blocks=1,
        num_queries=9,
        image_size=64,
        num_register_tokens=0,
        id2label={0: "cat", 1: "dog", 2: "sky"},
    )
    torch.manual_seed(3)
    model = EomtForUniversalSegmentation(config).eval()
    torch.nn.init.normal_(model.class_predictor.weight, std=2.0)
    return model


@pytest.fixture
def processor():
    return EomtImageProcessorPil(size=64, stuff_classes=[0, 1, 2], **EVERYTHING)


@pytest.fixture
def segmenter(model, processor):
    return EomtImageSegmentationPipeline(model=model, image_processor=processor, task="image-segmentation")


@pytest.fixture
def images():
    pixels = np.random.default_rng(0)
    return [Image.fromarray(pixels.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def as_lists(segments):
    return [
        (segment["label"], round(segment["score"] or 0.0, 4), np.array(segment["mask"]).tolist())
        for segment in segments
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_every_batch_size_gives_what_the_processor_gives_by_hand(segmenter, model, processor, images, batch_size):
    results = segmenter(images, batch_size=batch_size)
    assert len(results) == len(images)
    for image, segments in zip(images, results):
        with torch.no_grad():
            outputs = model(**processor(image, return_tensors="pt"))
        expected = processor.post_process(outputs, [(image.height, image.width)])[0]
        assert len(segments) == len(expected["segments_info"]) > 0
        for segment, info in zip(segments, expected["segments_info"]):
            assert segment["label"] == model.config.id2label[info["label_id"]]
            assert segment["score"] == pytest.approx(info["score"], abs=1e-5)
            assert segment["mask"].mode == "L"
            assert segment["mask"].size == image.size
            mask = torch.from_numpy(np.array(segment["mask"]))
            # A batch may round differently from a single image.
            assert ((mask == 255) != (expected["segmentation"] == info["id"])).float().mean() < 1e-2


def test_one_image_a_list_and_a_generator_give_the_same(segmenter, images):
    of_list = [as_lists(segments) for segments in segmenter(images)]
    assert [as_lists(segmenter(image)) for image in images] == of_list
    assert [as_lists(segments) for segments in segmenter(image for image in images)] == of_list


def test_a_stuff_class_is_one_segment(segmenter, images):
    for segments in segmenter(images):
        labels = [segment["label"] for segment in segments]
        assert len(labels) == len(set(labels))


def test_without_stuff_classes_a_class_may_be_several_segments(segmenter, processor, images):
    processor.stuff_classes = None
    labels = [segment["label"] for segment in segmenter(images[0])]
    assert len(labels) > len(set(labels))


def test_stored_thresholds_hold_unless_the_call_says_otherwise(segmenter, processor, images):
    assert segmenter(images[0])
    assert segmenter(images[0], threshold=1.0) == []
    processor.threshold = 1.0
    assert segmenter(images[:2], batch_size=2) == [[], []]
    assert segmenter(images[0], threshold=0.0)


def test_a_subtask_that_does_not_exist_is_an_error(segmenter, images):
    with pytest.raises(ValueError, match="subtask must be one of 'panoptic', 'instance', 'semantic', got 'pose'"):
        segmenter(images[0], subtask="pose")


def processor_for(task, **settings):
    return EomtImageProcessorPil(size=64, task=task, stuff_classes=[2], threshold=0.2, **settings)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_every_task_and_batch_size_gives_what_the_processor_gives_by_hand(model, images, task, batch_size):
    processor = processor_for(task)
    segmenter = EomtImageSegmentationPipeline(model=model, image_processor=processor, task="image-segmentation")
    with torch.no_grad():
        batch = processor(images, return_tensors="pt")
        outputs = model(**batch)
    sizes = [(image.height, image.width) for image in images]
    form = {"return_binary_maps": True} if task == "instance" else {}
    for segments, expected in zip(
        segmenter(images, batch_size=batch_size), processor.post_process(outputs, sizes, **form)
    ):
        if task == "semantic":
            found = [(label, None, expected == label) for label in expected.unique().tolist()]
        else:
            maps = expected["segmentation"]
            masks = maps if form else [maps == info["id"] for info in expected["segments_info"]]
            found = [(i["label_id"], i["score"], mask) for i, mask in zip(expected["segments_info"], masks)]
        assert [segment["label"] for segment in segments] == [model.config.id2label[label] for label, *_ in found]
        for segment, (_, score, mask) in zip(segments, found):
            assert segment["score"] == (None if score is None else pytest.approx(score, abs=1e-5))
            # A batch may round differently from a single image.
            assert ((np.array(segment["mask"]) == 255) != mask.numpy()).mean() < 1e-2


@pytest.mark.parametrize("stored", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize("subtask", ["panoptic", "instance", "semantic"])
def test_any_checkpoint_does_any_subtask(model, images, stored, subtask):
    """An image that is not split is seen alike, whatever the checkpoint is for."""
    segmenters = [
        EomtImageSegmentationPipeline(model=model, image_processor=processor, task="image-segmentation")
        for processor in (processor_for(stored), processor_for("panoptic"))
    ]
    unsplit = images if subtask != "semantic" or stored != "semantic" else images[2:3]
    one, other = (segmenter(unsplit, subtask=subtask, batch_size=2) for segmenter in segmenters)
    assert [as_lists(segments) for segments in one] == [as_lists(segments) for segments in other]


SETTINGS = {
    "threshold": 0.1,
    "mask_threshold": 0.4,
    "overlap_mask_area_threshold": 0.3,
    "stuff_classes": [0],
    "top_k": 4,
}


@pytest.mark.parametrize("task", TASKS)
def test_the_pipeline_takes_every_setting_of_its_task_and_says_which_are_of_others(model, images, task):
    assert set(SETTINGS) == {name for name, setting in POST_PROCESSING.items() if setting.is_stored}
    processor = processor_for(task)
    segmenter = EomtImageSegmentationPipeline(model=model, image_processor=processor, task="image-segmentation")
    own = {name: value for name, value in SETTINGS.items() if name in TASKS[task].settings}
    stored = processor_for(task)
    for name, value in own.items():
        setattr(stored, name, value)
    expected = EomtImageSegmentationPipeline(model=model, image_processor=stored, task="image-segmentation")
    assert as_lists(segmenter(images[0], **own)) == as_lists(expected(images[0]))
    thresholds = {"threshold", "mask_threshold", "overlap_mask_area_threshold"}  # as in Transformers' own pipeline
    others = {name: SETTINGS[name] for name in thresholds - own.keys()}
    assert as_lists(segmenter(images[0], **own, **others)) == as_lists(segmenter(images[0], **own))
    for name in SETTINGS.keys() - own.keys() - thresholds:
        assert as_lists(segmenter(images[0], **own, **{name: None})) == as_lists(segmenter(images[0], **own))
        message = f"{name} is a setting of .*, and this is {task} segmentation"
        with pytest.raises(ValueError, match=message):
            segmenter(images[0], **{name: SETTINGS[name]})
        with pytest.raises(ValueError, match=message):
            EomtImageSegmentationPipeline(
                model=model, image_processor=processor, task="image-segmentation", **{name: SETTINGS[name]}
            )
        other = POST_PROCESSING[name].tasks[0]
        segmenter(images[0], subtask=other, **{name: SETTINGS[name]})


def test_settings_a_pipeline_was_made_with_are_those_of_its_task_only(model, images):
    made_with = {"top_k": 2, "threshold": 0.0}
    processor = processor_for("instance")
    segmenter = EomtImageSegmentationPipeline(
        model=model, image_processor=processor, task="image-segmentation", **made_with
    )
    assert len(segmenter(images[0])) <= 2
    assert as_lists(segmenter(images[0], subtask="panoptic")) == as_lists(
        segmenter(images[0], subtask="panoptic", threshold=0.0)
    )


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_transformers_own_pipeline_does_the_task_of_the_checkpoint(model, images, task):
    processor = processor_for(task)
    segmenters = [
        pipeline_class(model=model, image_processor=processor, task="image-segmentation")
        for pipeline_class in (ImageSegmentationPipeline, EomtImageSegmentationPipeline)
    ]
    settings = {"threshold": 0.2, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}
    for image in images:
        theirs = segmenters[0](image, **settings)
        ours = segmenters[1](image, **{name: settings[name] for name in settings.keys() & TASKS[task].settings.keys()})
        assert [(segment["label"], segment["score"]) for segment in theirs] == [
            (segment["label"], segment["score"]) for segment in ours
        ]
        best = np.zeros((image.height, image.width), bool)
        for one, other in zip(theirs, ours):  # theirs shows the best of the masks at each pixel
            mask = (np.array(other["mask"]) == 255) & ~best
            assert np.array_equal(np.array(one["mask"]) == 255, mask)
            best |= mask


def test_columns_datasets_tuples_and_paths_are_read(segmenter, images, tmp_path):
    files = [str(tmp_path / f"{index}.png") for index in range(3)]
    for image, file in zip(images, files):
        image.save(file)
    expected = [as_lists(segments) for segments in segmenter(images[:3])]
    dataset = Dataset.from_dict({"image": files}).cast_column("image", ImageFeature())
    for inputs in (dataset["image"], KeyDataset(dataset, "image"), tuple(images[:3]), files, iter_of(files)):
        assert [as_lists(segments) for segments in segmenter(inputs, batch_size=2)] == expected


class EndlessDataset(torch.utils.data.Dataset):
    """As many datasets of PyTorch it has a length, and no end to its indices."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index % len(self.images)]


def test_a_dataset_ends_after_its_length(segmenter, images):
    expected = [as_lists(segmenter(image)) for image in images[:3]]
    found = islice(segmenter(EndlessDataset(images[:3]), batch_size=2), 10)
    assert [as_lists(segments) for segments in found] == expected
    with pytest.raises(ValueError, match=r"^Image 1: "):
        list(segmenter(EndlessDataset([images[0], None])))


def test_an_open_file_is_not_a_list_of_images(segmenter):
    with pytest.raises(ValueError, match="got BytesIO"):
        segmenter(BytesIO(b"an image"))


def iter_of(files):
    yield from files


def test_photographs_are_turned_upright(segmenter, images, tmp_path):
    turned = images[0].transpose(Image.Transpose.ROTATE_90)  # as a camera stores it that was held upright
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "photo.png", exif=exif)
    for photo in (str(tmp_path / "photo.png"), Image.open(tmp_path / "photo.png")):
        segments = segmenter(photo)
        assert all(segment["mask"].size == images[0].size for segment in segments)
        assert as_lists(segments) == as_lists(segmenter(images[0]))


def test_sixteen_bit_images_are_not_clipped(segmenter, images, tmp_path):
    grey = np.array(images[0].convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert as_lists(segmenter(str(tmp_path / "deep.png"))) == as_lists(segmenter(Image.fromarray(grey)))


def test_half_precision_models_work(model, processor, images):
    segmenter = EomtImageSegmentationPipeline(
        model=model.to(torch.bfloat16), image_processor=processor, task="image-segmentation"
    )
    assert all(segmenter(images, batch_size=2))


def test_arrays_and_tensors_give_the_segments_of_the_image(segmenter, images):
    for image in images:
        array = np.array(image)
        expected = as_lists(segmenter(image))
        first = array.transpose(2, 0, 1)
        for same in (array, first, array / 255, first.astype(np.float32), torch.from_numpy(array), array.astype(int)):
            assert as_lists(segmenter(same)) == expected
    grey = images[0].convert("L")
    assert as_lists(segmenter(np.array(grey))) == as_lists(segmenter(grey))


def test_batches_lists_and_iterators_of_arrays_give_a_result_for_each(segmenter, images):
    arrays = [np.array(images[0]), np.array(images[0])[::-1].copy()]
    expected = [as_lists(segmenter(array)) for array in arrays]
    batch = np.stack(arrays)
    for inputs in (batch, torch.from_numpy(batch), arrays, tuple(arrays), iter(arrays), map(np.copy, arrays)):
        assert [as_lists(segments) for segments in segmenter(inputs, batch_size=2)] == expected
    assert segmenter([]) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "nothing in it"),
        (Image.new("RGB", (5, 0)), "nothing in it"),
        (np.full((4, 5, 3), np.nan), "not finite"),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), "complex"),
        (np.full((4, 5, 3), -1.0), "from 0 to 1 or from 0 to 255"),
        ("none.png", "There is no file"),
        ({"image": 1}, "got dict"),
        (5, "got int"),
    ],
)
def test_what_is_no_image_is_an_error_that_says_which(segmenter, images, wrong, message):
    with pytest.raises((ValueError, OSError), match=message):
        segmenter(wrong)
    with pytest.raises((ValueError, OSError), match=f"^Image 1: .*{message}"):
        segmenter([images[0], wrong, images[1]])
    results = iter(segmenter(image for image in (images[0], wrong)))
    assert as_lists(next(results)) == as_lists(segmenter(images[0]))
    with pytest.raises((ValueError, OSError), match=f"^Image 1: .*{message}"):
        next(results)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unknown": 5}, "The pipeline has no setting 'unknown'"),
        ({"treshold": 0.5}, "closest is 'threshold'"),
        ({"threshold": "high"}, "threshold must be"),
        ({"top_k": 0}, "top_k must be"),
        ({"stuff_classes": [99]}, "Stuff class 99"),
        ({"timeout": -1}, "timeout must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 10**9}, "batch_size must be"),
        ({"num_workers": -1}, "num_workers must be"),
    ],
)
def test_settings_that_are_unknown_or_wrong_are_errors(segmenter, model, processor, images, settings, message):
    with pytest.raises(ValueError, match=message):
        segmenter(images[0], **settings)
    if "stuff_classes" not in settings:
        with pytest.raises(ValueError, match=message):
            EomtImageSegmentationPipeline(
                model=model, image_processor=processor, task="image-segmentation", **settings
            )


def test_broken_weights_are_an_error(segmenter, model, images):
    torch.nn.init.constant_(model.class_predictor.weight, float("nan"))
    for subtask in ("panoptic", "instance", "semantic"):
        with pytest.raises(ValueError, match="predictions are not finite"):
            segmenter(images[0], subtask=subtask)


def test_windows_pass_the_model_in_batches(model, images):
    sizes = []
    model.register_forward_pre_hook(lambda _, __, inputs: sizes.append(len(inputs["pixel_values"])), with_kwargs=True)
    segmenter = EomtImageSegmentationPipeline(
        model=model, image_processor=processor_for("semantic"), task="image-segmentation"
    )
    image = Image.new("RGB", (2, 20))
    assert segmenter(image)[0]["mask"].size == (2, 20)
    assert sizes == [1] * 10
    segmenter(image, batch_size=4)
    assert sizes[10:] == [4, 4, 2]
    with pytest.raises(ValueError, match="at most 33,554,432 pixels"):
        segmenter(Image.new("RGB", (1, 10_000)))
    assert segmenter(Image.new("RGB", (1, 10_000)), subtask="panoptic", threshold=1.0) == []


def test_a_size_that_the_model_is_not_made_for_is_said_once(model, processor, images, caplog):
    segmenter = EomtImageSegmentationPipeline(model=model, image_processor=processor, task="image-segmentation")
    segmenter(images[0])
    assert not caplog.records
    model.config.image_size = 96
    for _ in range(2):
        segmenter(images[0])
    assert len(caplog.records) == 1 and "(64, 64), and the model is made for (96, 96)" in caplog.text

"""The pipeline over Transformers' own model: it knows neither this project's model class nor its configuration."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EomtConfig, EomtForUniversalSegmentation

from image_processing_eomt import EomtImageProcessorPil, EomtImageSegmentationPipeline


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
    return [(segment["label"], round(segment["score"], 4), np.array(segment["mask"]).tolist()) for segment in segments]


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


def test_panoptic_is_a_subtask_and_an_unsupported_one_is_an_error(segmenter, images):
    assert as_lists(segmenter(images[0], subtask="panoptic")) == as_lists(segmenter(images[0]))
    with pytest.raises(ValueError, match="not supported yet by this version: task='semantic'"):
        segmenter(images[0], subtask="semantic")


def test_half_precision_models_work(model, processor, images):
    segmenter = EomtImageSegmentationPipeline(
        model=model.to(torch.bfloat16), image_processor=processor, task="image-segmentation"
    )
    assert all(segmenter(images, batch_size=2))

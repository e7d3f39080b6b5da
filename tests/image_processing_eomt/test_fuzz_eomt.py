"""Whatever an image, a setting or a model's output is: a result of the right size, or an error that is documented."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EomtConfig, EomtForUniversalSegmentation

from image_processing_eomt import (
    EomtImageProcessor,
    EomtImageProcessorPil,
    EomtImageSegmentationPipeline,
    draw_segmentation,
)


SIDES = (0, 1, 2, 3, 4, 5, 17, 17, 40, 40, 120)
DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32")
DTYPES += ("float64", "longdouble", "complex64", "object", "U3", "datetime64[s]", ">u2", ">f4")
MODES = (
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "La",
    "RGBa",
    "I;16",
)
# 4 and 5 are not among them: filters that only one of the processors has.
ODD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3.5,
    -0.5,
    10**9,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "semantic",
    b"x",
)
ODD += ([], [1], [0.5, 0.5, 0.5], [1, 2], (32, 48), {}, {"height": 32}, {"height": 32, "width": 48}, {"a": 1}, 1j)
ODD += (np.float32(0.5), np.int64(2), np.array([0, 1]), torch.tensor(1), torch.tensor([1.0]), object(), [None], [[1]])
SETTINGS = ("size", "task", "do_split_image", "do_pad", "do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
SETTINGS += ("image_mean", "image_std", "rescale_factor", "resample", "ignore_index", "stuff_classes", "threshold")
SETTINGS += ("mask_threshold", "overlap_mask_area_threshold", "top_k", "return_tensors", "input_data_format", "device")
SETTINGS += ("do_reduce_labels", "do_center_crop", "data_format", "crop_size", "pad_size", "unknown", "tresh_hold")
PASSED = "passed"


def odd_image(chance):
    """An image, or something that is none, from a random generator."""
    height, width, channels = chance.choice(SIDES), chance.choice(SIDES), chance.choice((1, 2, 3, 3, 3, 4, 5))
    shape = chance.choice([(height, width), (height, width, channels), (channels, height, width), (height,), ()])
    generator = np.random.default_rng(chance.randrange(2**32))
    kind = chance.choice(["pil", "array", "array", "tensor", "list", "other"])
    if kind == "pil":
        return Image.new(chance.choice(MODES), (width, height))
    values = np.asarray(generator.random(shape) * chance.choice([1, 1, 255, 1000, 1e30]) - chance.choice([0, 0, 0, 5]))
    if chance.random() < 0.2 and values.size:
        values.flat[generator.integers(values.size)] = chance.choice([np.nan, np.inf])
    with np.errstate(invalid="ignore", over="ignore"):
        array = np.nan_to_num(values).astype("int64").astype(chance.choice(DTYPES[:9]))
        if kind != "tensor" and chance.random() < 0.6:
            array = values.astype("int64" if "time" in (dtype := chance.choice(DTYPES)) else "float64").astype(dtype)
    if kind == "tensor":
        dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.uint8, torch.int64, torch.bool)
        return torch.from_numpy(values).to(chance.choice(dtypes))
    if kind == "list":
        return [array, array]
    return array if kind == "array" else chance.choice(ODD)


def outcome(action, *args, **kwargs):
    """What a call returns, or the documented error that it raises; any other error is raised."""
    try:
        return PASSED, action(*args, **kwargs)
    except (ValueError, OSError) as error:
        assert str(error)
        return type(error), str(error)


def pixel_values_of(backend, stored, image, given):
    return backend(**stored)(image, **{"return_tensors": "pt", **given})["pixel_values"]


def size_of(image):
    """`(height, width)` of an image that was taken."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    shape = list(image.shape)
    if len(shape) == 3:
        channels = next(number for number in (3, 4, 1) if number in (shape[0], shape[2]))
        del shape[0 if shape[0] == channels else 2]
    return tuple(shape)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_both_processors_take_or_refuse_the_same(seed):
    chance = random.Random(seed)
    num_passed = 0
    for _ in range(500):
        image, task = odd_image(chance), chance.choice(["panoptic", "instance", "semantic"])
        stored, given = (
            {chance.choice(SETTINGS): chance.choice(ODD) for _ in range(chance.choice([0, 0, 0, 1, 2]))}
            for _ in range(2)
        )
        outcomes = [
            outcome(pixel_values_of, backend, {"size": 32, "task": task, **stored}, image, given)
            for backend in (EomtImageProcessor, EomtImageProcessorPil)
        ]
        assert outcomes[0][0] == outcomes[1][0], (image, stored, given, outcomes)
        if outcomes[0][0] == PASSED:
            num_passed += 1
            shapes = [np.shape(pixel_values) for _, pixel_values in outcomes]
            assert shapes[0] == shapes[1] and min(shapes[0]) > 0, (image, stored, given)
            assert all(np.isfinite(np.asarray(pixel_values)).all() for _, pixel_values in outcomes)
    assert num_passed > 30


@pytest.fixture
def model():
    config = EomtConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_blocks=1,
        num_queries=5,
        image_size=32,
        num_register_tokens=0,
        id2label={0: "cat", 1: "dog", 2: "sky"},
    )
    return EomtForUniversalSegmentation(config).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_the_pipeline_segments_or_refuses(model, task):
    chance = random.Random(task)
    segmenter = EomtImageSegmentationPipeline(
        model=model, image_processor=EomtImageProcessorPil(size=32, task=task), task="image-segmentation"
    )
    threshold = {} if task == "semantic" else {"threshold": 0.1}
    names = ("threshold", "mask_threshold", "top_k", "stuff_classes", "timeout", "subtask", "batch_size", "typo")
    num_passed = 0
    for _ in range(200):
        image = odd_image(chance)
        given = {chance.choice(names): chance.choice(ODD) for _ in range(chance.choice([0, 0, 0, 1]))}
        kind, result = outcome(segmenter, image, **{**threshold, **given})
        if kind != PASSED:
            continue
        num_passed += 1
        images = image if isinstance(image, list) else [image]
        for one, segments in zip(images, result if isinstance(image, list) else [result], strict=True):
            height, width = size_of(one)
            assert all(segment["mask"].size == (width, height) for segment in segments)
            if isinstance(one, Image.Image):
                assert draw_segmentation(one, segments).size == one.size
    assert num_passed > 30


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_post_processing_gives_a_result_or_refuses(task):
    chance = random.Random(task)
    processor = EomtImageProcessorPil(size=32, task=task, do_split_image=False)
    names = ("threshold", "mask_threshold", "overlap_mask_area_threshold", "top_k", "stuff_classes", "size")
    names += ("return_binary_maps", "return_coco_annotation", "return_segmentation_scores", "typo")
    sizes = (
        None,
        [(20, 30)],
        [(20, 30)],
        [(20, 30)],
        [[1, 1]],
        torch.tensor([[7, 9]]),
        [(0, 5)],
        [(5,)],
        [5],
        5,
        "ab",
    )
    sizes += ([(2.5, 3)], [(float("nan"), 3)], [("a", 3)], [(10**9, 10**9)], [None], [(4.0, 8.0)], [(20, 30)] * 2, {})
    num_passed = 0
    for _ in range(200):
        masks, classes = torch.randn(1, 4, 8, 8) * 4, torch.randn(1, 4, 4) * 4
        spoil = chance.randrange(12)
        if spoil == 0:
            masks[0, :, 2, 3] = chance.choice([float("nan"), float("inf")])
        elif spoil == 1:
            classes[0, :, 1] = float("nan")
        elif spoil == 2:
            masks = chance.choice([masks[0], masks.long(), masks[:, :2], masks[..., :0], None, [1], torch.tensor(1.0)])
        elif spoil == 3:
            classes = chance.choice([classes[0], classes.long(), classes[..., :1], None, "x"])
        outputs = SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes)
        given = {chance.choice(names): chance.choice(ODD) for _ in range(chance.choice([0, 0, 1]))}
        size = chance.choice(sizes)
        kind, results = outcome(processor.post_process, outputs, size, **given)
        if kind != PASSED:
            continue
        num_passed += 1
        assert spoil > 3 or spoil == 0, (masks, classes)
        (result,) = results
        if isinstance(size, list | torch.Tensor) and not given:
            segmentation = result if task == "semantic" else result["segmentation"]
            assert tuple(segmentation.shape) == tuple(int(edge) for edge in size[0])
    assert num_passed > 20

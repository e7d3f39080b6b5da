"""The decoder against the image processor: same pixel values, same segments, without PyTorch."""

import json
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask

from deployment_eomt import decoder
from deployment_eomt.decoder import Settings
from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil, class_color
from image_processing_eomt.geometry_eomt import compute_view


ID2LABEL = {0: "cat", 1: "dog", 2: "sky"}
IMAGE_SIZES = [(64, 64), (48, 80), (131, 77), (37, 210), (200, 40), (1, 1), (700, 900)]
# Elsewhere torchvision resizes bilinearly in floating point, see the decoder.
resizes_height_first = int(PIL.__version__.partition(".")[0]) >= 13
resizes_bytes = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in (
    "aarch64",
    "arm64",
)


@pytest.fixture
def read_settings(tmp_path):
    """Returns the decoder's settings of an image processor, by way of its file."""

    def read(processor) -> Settings:
        processor.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"id2label": ID2LABEL}))
        settings = Settings.read(tmp_path)
        settings.pillow = processor.backend == "pil"
        return settings

    return read


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise[: max(1, height // 9), : max(1, width // 9)]).resize((width, height))
    return noise if seed % 2 else np.asarray(smooth)


def random_outputs(num_inputs=1, num_queries=12, num_classes=3, grid=16, seed=0):
    """Logits of masks that are a few smooth blobs each, as a trained model's are."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(num_inputs, num_queries, 5, 5, generator=generator) * 9 - 3
    classes = torch.randn(num_inputs, num_queries, num_classes + 1, generator=generator) * 4
    return SimpleNamespace(
        masks_queries_logits=F.interpolate(masks, size=(grid, grid), mode="bicubic"), class_queries_logits=classes
    )


def as_arrays(outputs):
    return outputs.masks_queries_logits.numpy(), outputs.class_queries_logits.numpy()


def compare_segments(found, expected):
    """Everything but the scores is equal; they are sums of float32 in another order."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert {**one, "score": None} == {**other, "score": None}
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_it_imports_numpy_alone():
    code = f"""
import importlib.util, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "PIL", "scipy", "torchvision", "image_processing_eomt"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
spec = importlib.util.spec_from_file_location("eomt_decoder", {decoder.__file__!r})
module = importlib.util.module_from_spec(spec)
sys.modules["eomt_decoder"] = module
spec.loader.exec_module(module)
third_party = {{name.split(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)
print(sorted(third_party & {{"numpy", "torch", "PIL", "transformers", "deployment_eomt"}}))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['numpy']"


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize("backend", [EomtImageProcessor, EomtImageProcessorPil])
def test_pixel_values_are_those_of_the_image_processor_bit_for_bit(read_settings, backend, task, resample):
    if backend is EomtImageProcessor and resample == 2 and not resizes_bytes:
        pytest.skip("torchvision resizes in floating point on this processor")
    processor = backend(task=task, size={"height": 64, "width": 96}, resample=resample)
    settings = read_settings(processor)
    for seed, (height, width) in enumerate(IMAGE_SIZES):
        if settings.pillow and height > 2 * width and not resizes_height_first:
            continue
        image = random_image(height, width, seed)
        inputs = processor(image.copy(), return_tensors="pt", input_data_format="channels_last")
        expected = inputs.pixel_values.numpy()
        found = np.concatenate(list(decoder.preprocess(image, settings)))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
        {"do_resize": False},
        {"do_pad": False},
        {"do_split_image": True, "task": "semantic", "do_resize": False},
    ],
)
def test_every_setting_of_pre_processing_counts(read_settings, options):
    processor = EomtImageProcessorPil(**{"task": "panoptic", "size": 64, **options})
    settings = read_settings(processor)
    image = random_image(64, 50 if processor.do_pad else 170)
    expected = processor(image, return_tensors="pt").pixel_values.numpy()
    np.testing.assert_array_equal(np.concatenate(list(decoder.preprocess(image, settings))), expected)


@pytest.mark.parametrize("resample", [2, 3])
def test_resizing_has_the_bytes_of_pillow_and_torchvision(resample):
    rng = np.random.default_rng(0)
    mode = {2: "bilinear", 3: "bicubic"}[resample]
    for _ in range(60):
        height, width, new_height, new_width = (int(length) for length in np.exp(rng.uniform(0, 6, 4)))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if rng.random() < 0.5:
            image = np.where(image > 127, np.uint8(255), np.uint8(0))  # where cubic weights overshoot
        size = new_height, new_width
        expected = np.asarray(Image.fromarray(image).resize((new_width, new_height), resample))
        if resizes_height_first or height - new_height <= max(0, 2 * (width - new_width)):
            np.testing.assert_array_equal(decoder.resize(image, size, resample, pillow=True), expected)
        if resizes_bytes and new_height * new_width > 1:
            tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
            expected = F.interpolate(tensor, size=size, mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(decoder.resize(image, size, resample), expected)


def test_views_are_those_of_the_image_processor():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(edge) for edge in np.exp(rng.uniform(0, 7, 2)))
        target = tuple(int(edge) for edge in rng.integers(16, 100, 2))
        flags = dict(zip(("do_resize", "do_pad", "do_split_image"), (rng.random(3) < 0.7).tolist()))
        settings = Settings(size={"height": target[0], "width": target[1]}, task="semantic", **flags)
        try:
            expected = tuple(compute_view(size, target, **flags))
        except ValueError:
            with pytest.raises(ValueError, match=r"\(height, width\)"):
                decoder.compute_view(size, settings)
        else:
            assert tuple(decoder.compute_view(size, settings)) == expected


def test_settings_of_a_checkpoint_that_transformers_wrote(tmp_path):
    stored = {
        "image_processor_type": "EomtImageProcessorFast",
        "do_split_image": True,
        "do_pad": False,
        "crop_size": 3,
    }
    stored["size"] = {"shortest_edge": 512, "longest_edge": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    (tmp_path / "config.json").write_text("{}")
    settings = Settings.read(tmp_path)
    assert (settings.task, settings.size, settings.pillow) == ("semantic", (512, 512), False)
    assert settings.name(3) == "LABEL_3"


@pytest.mark.parametrize("stuff_classes", [None, [2], [0, 1, 2]])
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_panoptic_segments_are_those_of_the_image_processor(read_settings, image_size, stuff_classes):
    processor = EomtImageProcessor(
        task="panoptic", size=64, threshold=0.4, overlap_mask_area_threshold=0.3, stuff_classes=stuff_classes
    )
    settings = read_settings(processor)
    num_segments = 0
    for seed in range(4):
        outputs = random_outputs(seed=seed)
        masks, classes = as_arrays(outputs)
        expected = processor.post_process(outputs, [image_size])[0]
        found = decoder.segment_panoptic(masks[0], classes[0], image_size, settings)
        np.testing.assert_array_equal(found["segmentation"], expected["segmentation"].numpy())
        compare_segments(found["segments_info"], expected["segments_info"])
        num_segments += len(found["segments_info"])
    assert num_segments >= 4


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_k": None}, {"mask_threshold": 0.9}, {"threshold": 0.0}])
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_instances_are_those_of_the_image_processor(read_settings, image_size, options):
    processor = EomtImageProcessor(**{"task": "instance", "size": 64, "threshold": 0.2, **options})
    settings = read_settings(processor)
    assert settings.top_k == options.get("top_k", 100)
    for seed in range(2):
        outputs = random_outputs(seed=seed)
        masks, classes = as_arrays(outputs)
        expected = processor.post_process(outputs, [image_size], return_coco_annotation=True)[0]
        found = decoder.segment_instances(masks[0], classes[0], image_size, settings)
        assert found["segmentation"] == expected["segmentation"]
        compare_segments(found["segments_info"], expected["segments_info"])
        assert len(found["segments_info"]) > 0 or image_size == (1, 1)


@pytest.mark.parametrize("do_split_image", [False, True])
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_semantic_segmentation_is_that_of_the_image_processor(read_settings, image_size, do_split_image):
    processor = EomtImageProcessor(task="semantic", size=64, do_split_image=do_split_image)
    settings = read_settings(processor)
    num_windows = len(decoder.compute_view(image_size, settings).windows)
    assert num_windows > 1 or not do_split_image or image_size in ((64, 64), (1, 1))
    outputs = random_outputs(num_windows)
    found = decoder.segment_semantic(*as_arrays(outputs), image_size, settings)
    np.testing.assert_array_equal(found, processor.post_process(outputs, [image_size])[0].numpy())


@pytest.mark.parametrize("task", ["panoptic", "instance"])
@pytest.mark.parametrize("num_queries", [1, 12])
def test_an_image_may_have_no_segment(read_settings, task, num_queries):
    processor = EomtImageProcessor(task=task, size=64)
    outputs = random_outputs(num_queries=num_queries)
    outputs.class_queries_logits[..., -1] = 50  # no object
    assert decoder.segment(*as_arrays(outputs), (40, 30), read_settings(processor)) == []


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_one_query_that_covers_everything(read_settings, task):
    processor = EomtImageProcessor(task=task, size=64, do_split_image=False, do_pad=True)
    outputs = random_outputs(num_queries=1)
    outputs.masks_queries_logits[:] = 20
    outputs.class_queries_logits[:] = torch.tensor([0.0, 20.0, 0.0, 0.0])
    (segment,) = decoder.segment(*as_arrays(outputs), (40, 30), read_settings(processor))
    assert (segment["label"], segment["label_id"], segment["area"]) == ("dog", 1, 1200)
    assert segment["bbox"] == [0, 0, 30, 40]
    assert segment["segmentation"] == {"size": [40, 30], "counts": "0`U1"}
    assert (segment["score"] is None) == (task == "semantic")


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_segments_are_what_json_holds(read_settings, task):
    settings = read_settings(EomtImageProcessor(task=task, size=64, threshold=0.3, do_split_image=False, do_pad=True))
    segments = decoder.segment(*as_arrays(random_outputs(seed=1)), (70, 50), settings)
    assert json.loads(json.dumps(segments)) == segments and segments
    for segment in segments:
        mask = coco_mask.decode(segment["segmentation"])
        assert mask.sum() == segment["area"]
        assert coco_mask.toBbox(segment["segmentation"]).tolist() == segment["bbox"]
        assert segment["label"] == ID2LABEL[segment["label_id"]]


def test_wrong_predictions_and_settings_are_refused(read_settings):
    settings = read_settings(EomtImageProcessor(task="panoptic", size=64, stuff_classes=[3]))
    masks, classes = as_arrays(random_outputs())
    with pytest.raises(ValueError, match="Stuff class 3 is out of range: the model has the classes 0 to 2"):
        decoder.segment(masks, classes, (64, 64), settings)
    settings.stuff_classes = None
    with pytest.raises(ValueError, match="not finite"):
        decoder.segment(masks, classes * np.nan, (64, 64), settings)
    for wrong in (np.zeros((3, 9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((9, 9), np.uint8)):
        with pytest.raises(ValueError, match="must be"):
            next(decoder.preprocess(wrong, settings))
    with pytest.raises(ValueError, match="resample must be 2"):
        Settings(resample=1)
    with pytest.raises(ValueError, match="task must be"):
        Settings(task="depth")
    with pytest.raises(ValueError, match="size must be"):
        Settings(size={"width": 3})


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    masks = [np.zeros((5, 4), bool), np.ones((5, 4), bool), np.ones((1, 1), bool)]
    masks += [rng.random(rng.integers(1, 60, 2)) < rng.random() for _ in range(50)]
    for mask in masks:
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        found = decoder.encode_mask(mask)
        assert found == {"size": expected["size"], "counts": expected["counts"].decode()}
        np.testing.assert_array_equal(decoder.decode_mask(found), mask)


def test_segments_are_painted_in_the_colours_of_their_classes():
    image = random_image(60, 80, seed=1)
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 10:30, 10:30] = masks[1, 20:50, 40:70] = True
    segments = [
        {"label_id": 4, "score": 0.9, "segmentation": decoder.encode_mask(masks[0])},
        {"label_id": 7, "score": None, "segmentation": decoder.encode_mask(masks[1])},
    ]
    drawn = decoder.draw(image, segments)
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    for label_id, rows, columns in ((4, slice(12, 28), slice(12, 28)), (7, slice(22, 48), slice(42, 68))):
        expected = (image[rows, columns].astype(int) + class_color(label_id)) / 2
        assert np.abs(drawn[rows, columns] - expected).max() <= 0.5
    np.testing.assert_array_equal(drawn[:8], image[:8])
    np.testing.assert_array_equal(decoder.draw(image, []), image)

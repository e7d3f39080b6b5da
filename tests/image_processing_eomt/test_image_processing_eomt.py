"""Both image processors, images in and pixel values out; every test runs with each of them."""

import json
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from pycocotools import mask as coco_mask
from transformers import AutoImageProcessor
from transformers.models.eomt.image_processing_eomt import EomtImageProcessor as TheirProcessor
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil as TheirProcessorPil

from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil


SETTINGS = {"size": 96, "stuff_classes": [1, 2], "threshold": 0.7, "ignore_index": 0, "do_reduce_labels": True}
CODE = {
    f"{name}_eomt.py"
    for name in ("image_processing", "geometry", "pipeline", "post_processing", "reading", "settings")
}


def test_published_settings_are_the_defaults(backend):
    processor = backend()
    assert (processor.threshold, processor.mask_threshold, processor.overlap_mask_area_threshold) == (0.8, 0.5, 0.8)
    assert (processor.ignore_index, processor.do_reduce_labels, processor.do_pad, processor.task) == (
        255,
        False,
        True,
        "panoptic",
    )


def test_settings_survive_saving(backend, tmp_path):
    backend(**SETTINGS).save_pretrained(tmp_path)
    loaded = backend.from_pretrained(tmp_path)
    assert loaded.to_dict() == backend(**SETTINGS).to_dict()
    assert (loaded.stuff_classes, loaded.threshold, loaded.ignore_index) == ([1, 2], 0.7, 0)


def test_both_backends_save_the_same_file(tmp_path):
    for name, processor_class in (("a", EomtImageProcessor), ("b", EomtImageProcessorPil)):
        processor_class(**SETTINGS).save_pretrained(tmp_path / name)
    saved = [json.loads((tmp_path / name / "preprocessor_config.json").read_text()) for name in "ab"]
    assert saved[0] == saved[1]
    assert saved[0]["size"] == {"shortest_edge": 96, "longest_edge": 96}


def test_transformers_own_class_reads_a_saved_processor(backend, tmp_path):
    backend(**SETTINGS).save_pretrained(tmp_path)
    theirs = transformers.EomtImageProcessor.from_pretrained(tmp_path)
    image = Image.new("RGB", (96, 48), "red")
    ours = backend.from_pretrained(tmp_path)
    # No resize happens at this size, so only the arithmetic of normalisation can differ.
    pixel_values = [processor(image, return_tensors="pt")["pixel_values"] for processor in (ours, theirs)]
    assert torch.allclose(*pixel_values, atol=1e-5)


@pytest.mark.parametrize("name", ["torchvision", "pil"])
def test_a_saved_processor_loads_and_saves_again_as_remote_code(name, tmp_path, remote_code_cache):
    EomtImageProcessor(**SETTINGS).save_pretrained(tmp_path / "first")
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "first", trust_remote_code=True, backend=name)
    assert type(loaded).__module__.startswith("transformers_modules")
    assert (type(loaded).__name__, loaded.backend) == ("EomtImageProcessor" + ("Pil" if name == "pil" else ""), name)

    loaded.save_pretrained(tmp_path / "second")
    files = [{file.name for file in (tmp_path / folder).iterdir()} for folder in ("first", "second")]
    assert files[0] == files[1]
    assert {name for name in files[0] if name.endswith(".py")} == CODE
    configs = [(tmp_path / folder / "preprocessor_config.json").read_text() for folder in ("first", "second")]
    assert configs[0] == configs[1]
    again = AutoImageProcessor.from_pretrained(tmp_path / "second", trust_remote_code=True, backend=name)
    assert again.to_dict() == loaded.to_dict()


def test_torchvision_is_not_needed():
    code = """
import sys, importlib.util
sys.modules["torchvision"] = None
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name.startswith("torchvision") else find_spec(name, *args)
from PIL import Image
from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil
print(EomtImageProcessorPil(size=32)(Image.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"].shape)
try:
    EomtImageProcessor()
except ImportError:
    print("asks for torchvision")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["torch.Size([1, 3, 32, 32])", "asks for torchvision"]


DAMAGED = {
    "": OSError,
    "{": OSError,
    "null": OSError,
    "[1, 2]": "must hold an object",
    "[" * 100_000: "cannot be read as an image processor",
    '{"image_std": [0, 0, 0]}': "image_std must be a finite number above 0",
    '{"image_mean": NaN}': "image_mean must be",
    '{"size": {"a": {"b": 1}}}': "size must be",
    '{"threshold": "high"}': "threshold must be",
    '{"stuff_classes": "all"}': "stuff_classes must be",
    '{"task": ["panoptic"]}': "task must be",
    '{"top_k": 1e999}': "top_k must be",
}


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_an_error_that_names_it_and_the_setting(backend, tmp_path, text):
    (tmp_path / "preprocessor_config.json").write_text(text)
    expected = DAMAGED[text]
    with pytest.raises((ValueError, OSError)) as error:
        backend.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert isinstance(error.value, expected) if isinstance(expected, type) else expected in str(error.value)
    assert isinstance(expected, type) or "preprocessor_config.json" in str(error.value)


def test_a_file_that_is_no_text_is_an_error_that_names_it(backend, tmp_path):
    (tmp_path / "preprocessor_config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json.*cannot be read as an image processor"):
        backend.from_pretrained(tmp_path)


def test_what_a_file_holds_beside_settings_harms_nothing(backend, tmp_path, caplog):
    stored = {"size": 64, "num_labels": 150, "processor_class": None, "_name_or_path": "x", "crop_size": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    assert backend.from_pretrained(tmp_path).size["shortest_edge"] == 64
    assert not caplog.records
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**stored, "resize": 5, "treshold": 0.3}))
    image = Image.new("RGB", (90, 40))
    assert backend.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    assert "no settings resize, treshold" in caplog.text


def test_a_misspelt_setting_given_when_loading_is_an_error_but_those_of_the_loader_are_not(backend, tmp_path):
    backend(size=64).save_pretrained(tmp_path)
    loaded = backend.from_pretrained(
        tmp_path, threshold=0.3, dtype="auto", attn_implementation="sdpa", device_map=None
    )
    assert loaded.threshold == 0.3
    with pytest.raises(ValueError, match="no setting 'treshold'; the closest is 'threshold'"):
        backend.from_pretrained(tmp_path, treshold=0.3)


def test_a_processor_that_transformers_saved_loads_without_a_word(backend, tmp_path, caplog):
    settings = {"size": {"shortest_edge": 64, "longest_edge": None}, "do_split_image": True, "ignore_index": 0}
    transformers.EomtImageProcessor(**settings).save_pretrained(tmp_path)
    loaded = backend.from_pretrained(tmp_path)
    assert (loaded.task, loaded.do_split_image, loaded.ignore_index) == ("semantic", True, 0)
    assert not caplog.records


def image_of(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pixel_values_match_the_original_code(backend, golden_processing, golden_pixels):
    task = golden_pixels
    processor = backend(size=golden_processing.settings["image_size"], task=task)
    batch = processor(golden_processing.images, return_tensors="pt")
    difference = (batch["pixel_values"] - golden_processing.tensors[f"{task}.pixel_values"]).abs()
    if processor.backend == "pil":
        assert difference.max() == 0
    else:
        # torchvision's antialiased resize rounds differently: at most two of 255 grey levels
        grey_levels = difference * torch.tensor(processor.image_std).view(3, 1, 1) * 255
        assert grey_levels.max() < 2.01
    if task == "semantic":
        assert torch.equal(torch.stack(batch["patch_offsets"]), golden_processing.tensors["semantic.window_origins"])
    else:
        assert "patch_offsets" not in batch


def check_panoptic_segments(backend, golden_processing):
    settings = golden_processing.settings
    names = ("threshold", "mask_threshold", "overlap_mask_area_threshold", "stuff_classes")
    processor = backend(size=settings["image_size"], **{name: settings[name] for name in names})
    results = processor.post_process(golden_processing.outputs("panoptic"), settings["original_sizes"])
    segment_maps, class_maps = (golden_processing.of_images(f"panoptic.{name}_map") for name in ("segment", "class"))
    for result, segment_map, class_map in zip(results, segment_maps, class_maps, strict=True):
        segmentation = result["segmentation"]
        assert len(result["segments_info"]) > 1
        assert (segmentation != segment_map).float().mean() < 1e-4
        classes = torch.full_like(segmentation, settings["void_class"])
        for info in result["segments_info"]:
            classes[segmentation == info["id"]] = info["label_id"]
        assert (classes != class_map).float().mean() < 1e-4


def check_instances(backend, golden_processing):
    settings = golden_processing.settings
    processor = backend(size=settings["image_size"], task="instance", threshold=0.0, top_k=settings["top_k"])
    outputs, sizes = golden_processing.outputs("instance"), settings["original_sizes"]
    results = processor.post_process(outputs, sizes, return_binary_maps=True)
    expected = (golden_processing.of_images(f"instance.{name}") for name in ("scores", "labels", "masks"))
    for result, scores, labels, masks in zip(results, *expected, strict=True):
        infos = result["segments_info"]
        assert torch.allclose(torch.tensor([info["score"] for info in infos]), scores, atol=1e-4)
        found = scores > 0  # those without a pixel all have the score 0, and no order
        assert torch.tensor([info["label_id"] for info in infos])[found].tolist() == labels[found].tolist()
        assert (result["segmentation"][found] != masks[found]).float().mean() < 1e-4


def check_semantic_classes_and_scores(backend, golden_processing):
    settings = golden_processing.settings
    processor = backend(size=settings["image_size"], task="semantic")
    outputs, sizes = golden_processing.outputs("semantic"), settings["original_sizes"]
    results = processor.post_process(outputs, sizes, return_segmentation_scores=True)
    expected = (golden_processing.of_images(f"semantic.{name}") for name in ("class_map", "scores"))
    for result, class_map, scores in zip(results, *expected, strict=True):
        assert (result.segmentation != class_map).float().mean() < 1e-4
        assert torch.allclose(result.segmentation_scores[:, ::7, ::7], scores, rtol=1e-4, atol=1e-4)


def test_results_match_the_original_code(backend, golden_processing, golden_task):
    {
        "panoptic": check_panoptic_segments,
        "instance": check_instances,
        "semantic": check_semantic_classes_and_scores,
    }[golden_task](backend, golden_processing)


def test_images_keep_their_shape_and_black_fills_the_rest(backend):
    processor = backend(size=64)
    pixel_values = processor(Image.new("RGB", (100, 50), "white"), return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 64, 64)
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    assert torch.allclose(pixel_values[0, :, :32], ((1 - mean) / std).view(3, 1, 1).expand(3, 32, 64), atol=1e-6)
    assert torch.allclose(pixel_values[0, :, 32:], (-mean / std).view(3, 1, 1).expand(3, 32, 64), atol=1e-6)


def test_size_is_height_and_width(backend):
    processor = backend(size={"height": 32, "width": 64})
    assert processor([image_of(50, 40), image_of(10, 200)], return_tensors="pt")["pixel_values"].shape == (
        2,
        3,
        32,
        64,
    )


def test_grey_images_and_arrays_are_images_too(backend):
    array = np.array(image_of(20, 30))
    processor = backend(size=32)
    of_image, of_array = (processor(x, return_tensors="pt")["pixel_values"] for x in (Image.fromarray(array), array))
    assert torch.equal(of_image, of_array)
    grey = processor(Image.new("L", (30, 20), 7), return_tensors="pt")["pixel_values"]
    assert grey.shape == (1, 3, 32, 32)


def test_an_image_that_is_neither_resized_nor_fits_is_an_error(backend):
    with pytest.raises(ValueError, match="does not fit"):
        backend(size=32, do_resize=False)(image_of(20, 40))


def test_without_padding_an_image_keeps_the_size_it_was_resized_to(backend):
    processor = backend(size=64, do_pad=False)
    assert processor(image_of(50, 100), return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 64)


def test_targets_follow_their_image(backend):
    label_map = np.full((50, 100), 255, dtype=np.uint8)
    label_map[:, :25] = 0
    label_map[:, 50:] = 2
    batch = backend(size=64)(image_of(50, 100), segmentation_maps=label_map, return_tensors="pt")
    (masks,), (classes,) = batch["mask_labels"], batch["class_labels"]
    assert classes.tolist() == [0, 2]
    assert masks.shape == (2, 64, 64)
    assert masks.dtype == torch.bool
    expected = torch.zeros(2, 64, 64, dtype=torch.bool)
    expected[0, :32, :16] = True
    expected[1, :32, 32:] = True
    assert torch.equal(masks, expected)


def test_images_of_mixed_sizes_take_their_own_instances(backend):
    batch = backend(size=64)(
        [image_of(30, 40), image_of(70, 20)],
        segmentation_maps=[np.full((30, 40), 5), np.full((70, 20), 6)],
        instance_id_to_semantic_id=[{5: 1}, {6: 2}],
        return_tensors="pt",
    )
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert [labels.tolist() for labels in batch["class_labels"]] == [[1], [2]]
    assert [masks.sum().item() for masks in batch["mask_labels"]] == [48 * 64, 64 * 18]


@pytest.mark.parametrize(
    ("maps", "mapping", "message"),
    [
        ([np.zeros((5, 6), int)], None, "Segmentation map 0 is .5, 6., its image .6, 5."),
        ([np.zeros((6, 5), int)] * 2, None, "1 images but 2 segmentation maps"),
        ([np.zeros((6, 5), int)], [{0: 0}, {0: 0}], "1 images but 2 mappings"),
        ([np.full((6, 5), 3)], {0: 0}, "Id 3 of segmentation map 0 has no class"),
    ],
)
def test_maps_that_do_not_fit_are_errors(backend, maps, mapping, message):
    with pytest.raises(ValueError, match=message):
        backend(size=32)(image_of(6, 5), maps, mapping)


def test_without_return_tensors_everything_is_in_lists(backend):
    processor = backend(size=32, task="semantic")
    batch, tensors = (processor(image_of(32, 50), return_tensors=name) for name in (None, "pt"))
    kind = torch.Tensor if processor.backend == "torchvision" else np.ndarray
    assert all(isinstance(window, kind) for window in batch["pixel_values"])
    assert np.array_equal(np.stack(batch["pixel_values"]), tensors["pixel_values"])
    assert (
        batch["patch_offsets"] == [offset.tolist() for offset in tensors["patch_offsets"]] == [[0, 0, 32], [0, 18, 50]]
    )


def test_windows_take_their_part_of_the_targets(backend):
    label_map = np.full((32, 80), 255)
    label_map[:, :10], label_map[:, 70:] = 1, 2
    processor = backend(size=32, task="semantic")
    batch = processor(image_of(32, 80), segmentation_maps=label_map, return_tensors="pt")
    assert [offsets.tolist() for offsets in batch["patch_offsets"]] == [[0, 0, 32], [0, 24, 56], [0, 48, 80]]
    assert [labels.tolist() for labels in batch["class_labels"]] == [[1], [], [2]]
    assert [masks.shape for masks in batch["mask_labels"]] == [(1, 32, 32), (0, 32, 32), (1, 32, 32)]
    assert batch["mask_labels"][2][0, :, 22:].all() and batch["mask_labels"][2].sum() == 32 * 10


def test_masks_that_overlap_follow_their_image(backend):
    masks = np.zeros((2, 50, 100), bool)
    masks[0, :, :50], masks[1, :, 25:] = True, True
    batch = backend(size=64)(image_of(50, 100), [masks], {0: 5, 1: 3}, return_tensors="pt")
    assert batch["class_labels"][0].tolist() == [5, 3]
    assert batch["mask_labels"][0].sum((1, 2)).tolist() == [32 * 32, 32 * 48]
    assert batch["mask_labels"][0].shape == (2, 64, 64)


@pytest.mark.parametrize("label_map", [np.full((30, 60), 255), np.zeros((30, 60), int)])
def test_padding_is_never_a_class(backend, label_map):
    batch = backend(size=64)(image_of(30, 60), segmentation_maps=label_map, return_tensors="pt")
    (masks,), (classes,) = batch["mask_labels"], batch["class_labels"]
    assert classes.tolist() == ([] if label_map.max() else [0])
    assert not masks[:, 32:].any()


@pytest.mark.parametrize(
    ("given", "task", "do_split_image", "do_pad"),
    [
        ({}, "panoptic", False, True),
        ({"task": "instance"}, "instance", False, True),
        ({"task": "semantic"}, "semantic", True, False),
        ({"do_split_image": True}, "semantic", True, False),  # as in checkpoints of Transformers' own processor
        ({"task": "semantic", "do_split_image": False}, "semantic", False, True),
        ({"task": "panoptic", "do_pad": False}, "panoptic", False, False),
        ({"do_split_image": True, "do_pad": True}, "semantic", True, True),
    ],
)
def test_task_splitting_and_padding_are_separate_but_suggest_each_other(backend, given, task, do_split_image, do_pad):
    processor = backend(**given)
    assert (processor.task, processor.do_split_image, processor.do_pad) == (task, do_split_image, do_pad)


def test_a_task_given_later_brings_its_splitting_and_padding_along(backend, tmp_path):
    processor = backend(size=32)
    batch = processor(image_of(32, 50), task="semantic", return_tensors="pt")
    assert len(batch["patch_offsets"]) == 2
    assert "patch_offsets" not in processor(image_of(32, 50), task="semantic", do_split_image=False)
    processor.save_pretrained(tmp_path)
    loaded = backend.from_pretrained(tmp_path, task="semantic")
    assert (loaded.do_split_image, loaded.do_pad) == (True, False)
    assert dict(loaded.size) == {"shortest_edge": 32}
    loaded.save_pretrained(tmp_path)
    assert backend.from_pretrained(tmp_path).do_split_image
    again = backend.from_pretrained(tmp_path, task="instance", threshold=0.3)
    assert (again.do_split_image, again.do_pad, again.threshold) == (False, True, 0.3)
    assert dict(again.size) == {"shortest_edge": 32, "longest_edge": 32}


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_transformers_own_processor_sees_the_same_of_a_image(backend, tmp_path, task):
    backend(size=64, task=task).save_pretrained(tmp_path)
    their_class = TheirProcessor if backend is EomtImageProcessor else TheirProcessorPil
    theirs, ours = their_class.from_pretrained(tmp_path), backend.from_pretrained(tmp_path)
    images = [image_of(100, 64), image_of(64, 200), image_of(64, 64)]  # sizes that need no rounding
    one, other = (processor(images, return_tensors="pt") for processor in (theirs, ours))
    assert torch.allclose(one["pixel_values"], other["pixel_values"], atol=1e-5)
    expected = [list(offset) for offset in one["patch_offsets"]]
    assert [list(offset) for offset in other.get("patch_offsets", [])] == expected


def test_grey_arrays_and_tensors_of_two_dimensions_are_images(backend):
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    expected = backend(size=32)(Image.fromarray(grey), return_tensors="pt")["pixel_values"]
    for images in (grey, torch.from_numpy(grey), [grey], [torch.from_numpy(grey), grey], (grey,)):
        for pixel_values in backend(size=32)(images, return_tensors="pt")["pixel_values"]:
            assert torch.equal(pixel_values, expected[0])
    last = backend(size=32)([grey], return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    assert torch.equal(last, expected)


def test_a_negative_class_is_an_error(backend):
    with pytest.raises(ValueError, match="Id -1 would be of class -1"):
        backend(size=32)(image_of(6, 5), np.full((6, 5), -1))


def test_a_task_that_does_not_exist_is_an_error_at_once(backend):
    with pytest.raises(ValueError, match="task must be one of 'panoptic', 'instance', 'semantic', got 'pose'"):
        backend(task="pose")


@pytest.mark.parametrize(
    ("task", "methods"),
    [
        ("panoptic", ["panoptic", "instance", "semantic"]),
        ("instance", ["instance", "semantic"]),
        ("semantic", ["semantic"]),
    ],
)
def test_no_method_comes_before_the_one_of_the_task(backend, random_outputs, task, methods):
    processor = backend(size=64, task=task, do_split_image=False)
    names = ["panoptic", "instance", "semantic"]
    assert [name for name in names if hasattr(processor, f"post_process_{name}_segmentation")] == methods
    for name in names:  # whatever is stored, all can be asked for
        assert len(processor.post_process(random_outputs, task=name)) == 2


def test_post_process_does_the_stored_task_with_the_stored_settings(backend, random_outputs):
    settings = {"threshold": 0.4, "mask_threshold": 0.6, "overlap_mask_area_threshold": 0.2, "stuff_classes": [1]}
    sizes = torch.tensor([[30, 40], [70, 20]])
    results = backend(size=64, **settings).post_process(random_outputs, sizes)
    expected = backend(size=64).post_process_panoptic_segmentation(random_outputs, [(30, 40), (70, 20)], **settings)
    assert [result["segmentation"].shape for result in results] == [(30, 40), (70, 20)]
    for result, other in zip(results, expected):
        assert len(result["segments_info"]) > 1
        assert torch.equal(result["segmentation"], other["segmentation"])
        assert result["segments_info"] == other["segments_info"]


def test_an_argument_beats_the_stored_setting(backend, random_outputs):
    results = backend(size=64, threshold=0.1).post_process(random_outputs, threshold=1.0)
    assert [result["segments_info"] for result in results] == [[], []]


def test_without_target_sizes_results_have_the_size_the_model_saw(backend, random_outputs):
    results = backend(size=(48, 64)).post_process(random_outputs)
    assert [result["segmentation"].shape for result in results] == [(48, 64), (48, 64)]


def test_without_padding_target_sizes_are_needed(backend, random_outputs):
    with pytest.raises(ValueError, match="pass their sizes as target_sizes"):
        backend(size=64, do_pad=False).post_process(random_outputs)


def test_target_sizes_that_do_not_fit_are_errors(backend, random_outputs):
    with pytest.raises(ValueError, match="2 inputs, which are not what 1 images"):
        backend(size=64).post_process(random_outputs, [(30, 40)])
    with pytest.raises(ValueError, match="Target size 1 must be"):
        backend(size=64).post_process(random_outputs, [(30, 40), (30, 40, 3)])
    with pytest.raises(ValueError, match="task must be one of 'panoptic', 'instance', 'semantic', got 'pose'"):
        backend(size=64).post_process(random_outputs, task="pose")


def outputs_for(batch):
    """Random logits for a batch that a processor made."""
    num_inputs, height = batch["pixel_values"].shape[0], batch["pixel_values"].shape[2]
    return SimpleNamespace(
        masks_queries_logits=torch.randn(num_inputs, 6, height // 4, height // 4) * 4,
        class_queries_logits=torch.randn(num_inputs, 6, 4) * 3,
        patch_offsets=batch["patch_offsets"],
    )


def test_windows_are_put_together_with_and_without_their_offsets(backend):
    processor = backend(size=32, task="semantic")
    sizes = [(30, 70), (20, 20), (90, 30)]
    outputs = outputs_for(processor([image_of(*size) for size in sizes], return_tensors="pt"))
    results = processor.post_process(outputs, sizes)
    assert [result.shape for result in results] == sizes
    del outputs.patch_offsets
    assert all(torch.equal(one, other) for one, other in zip(results, processor.post_process(outputs, sizes)))


def test_windows_that_do_not_fit_are_errors(backend):
    processor = backend(size=32, task="semantic")
    outputs = outputs_for(processor([image_of(30, 70), image_of(20, 20)], return_tensors="pt"))
    with pytest.raises(ValueError, match="cannot be put together without target_sizes"):
        processor.post_process(outputs)
    with pytest.raises(ValueError, match="4 inputs, which are not what 2 images"):
        processor.post_process(outputs, [(30, 700), (20, 20)])
    with pytest.raises(ValueError, match="A window of image 0 starts at pixel"):
        processor.post_process(outputs, [(30, 90), (20, 20)])
    with pytest.raises(ValueError, match="A window of image 0 starts at pixel"):
        processor.post_process(outputs, [(20, 20), (30, 70)])
    for task in ("panoptic", "instance"):
        with pytest.raises(ValueError, match="different windows are different objects"):
            processor.post_process(outputs, [(30, 70), (20, 20)], task=task)


def test_a_processor_that_splits_can_also_pad(backend, random_outputs):
    images = [image_of(30, 70), image_of(20, 20)]
    sizes = [(30, 70), (20, 20)]
    splitting, padding = backend(size=64, task="semantic"), backend(size=64, task="panoptic")
    settings = {"do_split_image": False, "do_pad": True, "return_tensors": "pt"}
    pixel_values = [processor(images, **settings)["pixel_values"] for processor in (splitting, padding)]
    assert torch.equal(*pixel_values)
    random_outputs.patch_offsets = None
    for task in ("panoptic", "instance", "semantic"):
        one, other = (processor.post_process(random_outputs, sizes, task=task) for processor in (splitting, padding))
        assert str(one) == str(other)


@pytest.mark.parametrize("seed", range(12))
def test_any_size_and_any_threshold_give_results_that_add_up(backend, seed):
    chance = random.Random(seed)
    sizes = [(chance.choice([1, 2, 7, 50, 300]), chance.choice([1, 3, 50, 640, 3000])) for _ in range(2)]
    sizes = [(3000, 50), (1, 1)] if seed == 0 else [chance.choice([size, size[::-1]]) for size in sizes]
    settings = {name: chance.random() for name in ("threshold", "mask_threshold", "overlap_mask_area_threshold")}
    processor = backend(size=chance.choice([32, (32, 48)]), stuff_classes=[2], **settings)
    height, width = processor.size["shortest_edge"], processor.size["longest_edge"]
    batch = processor([image_of(*size) for size in sizes], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, height, width)
    outputs = SimpleNamespace(
        masks_queries_logits=torch.randn(2, 9, height // 4, width // 4) * 4,
        class_queries_logits=torch.randn(2, 9, 4) * chance.choice([1, 9]),
    )
    for size, result in zip(sizes, processor.post_process(outputs, sizes), strict=True):
        segmentation, infos = result["segmentation"], result["segments_info"]
        assert segmentation.shape == size
        assert [info["id"] for info in infos] == list(range(len(infos)))
        assert [info["area"] for info in infos] == [(segmentation == info["id"]).sum() for info in infos]
        assert sum(info["area"] for info in infos) == (segmentation >= 0).sum()
        assert sum(info["was_fused"] for info in infos) <= 1
        assert all(info["score"] > settings["threshold"] for info in infos)
    for form in ({}, {"return_binary_maps": True}, {"return_coco_annotation": True}):
        for size, result in zip(sizes, processor.post_process(outputs, sizes, task="instance", **form), strict=True):
            infos, segmentation = result["segments_info"], result["segmentation"]
            assert [info["id"] for info in infos] == list(range(len(infos)))
            scores = [info["score"] for info in infos]
            assert scores == sorted(scores, reverse=True) and all(score >= settings["threshold"] for score in scores)
            if "return_coco_annotation" in form:
                assert [info["area"] for info in infos] == [coco_mask.area(rle) for rle in segmentation]
            elif form:
                assert segmentation.shape == (len(infos), *size)
                assert [info["area"] for info in infos] == segmentation.sum((1, 2)).tolist()
            else:
                assert segmentation.shape == size
                assert segmentation.max() < len(infos)
    for result, size in zip(processor.post_process(outputs, sizes, task="semantic"), sizes, strict=True):
        assert result.shape == size and result.min() >= 0 and result.max() < 3

    splitting = backend(size=processor.size, task="semantic")
    split = splitting([image_of(*size) for size in sizes], return_tensors="pt")
    num_inputs = len(split["pixel_values"])
    outputs = SimpleNamespace(
        masks_queries_logits=torch.randn(1, 9, height // 4, width // 4).expand(num_inputs, -1, -1, -1),
        class_queries_logits=torch.randn(1, 9, 4).expand(num_inputs, -1, -1),
        patch_offsets=split["patch_offsets"],
    )
    for result, size in zip(splitting.post_process(outputs, sizes), sizes, strict=True):
        assert result.shape == size and result.min() >= 0 and result.max() < 3


def pixel_values_of(processor, image, **settings):
    return processor(image, return_tensors="pt", **settings)["pixel_values"]


def test_arrays_of_every_kind_give_the_pixel_values_of_the_image(backend):
    image, processor = image_of(20, 30), backend(size=32)
    array = np.array(image)
    expected = pixel_values_of(processor, image)
    for same in (array / 255, (array / 255).astype(np.float16), array.astype(np.float32), array.astype(np.int64)):
        assert torch.equal(pixel_values_of(processor, same), expected)
    assert torch.equal(pixel_values_of(processor, torch.from_numpy(array).permute(2, 0, 1) / 255), expected)
    scaled = pixel_values_of(backend(size=32, do_rescale=False), array / 255)
    assert torch.allclose(scaled, expected, atol=1 / 255 / 0.22)  # without rounding to grey levels


def test_without_rescaling_any_finite_values_are_taken(backend):
    values = torch.randn(3, 20, 30) * 50
    processor = backend(size=32, do_rescale=False, do_normalize=False)
    resized = pixel_values_of(processor, values)
    assert resized.min() < -20 and resized.max() > 20
    assert torch.allclose(pixel_values_of(processor, values, do_resize=False)[0, :, :20, :30], values)


WRONG_IMAGES = [
    (np.zeros((0, 5, 3), np.uint8), "nothing in it"),
    (np.full((4, 5, 3), np.nan), "not finite"),
    (np.zeros((4, 5, 3), complex), "complex"),
    (np.full((4, 5, 3), -1.0), "from 0 to 1 or from 0 to 255"),
    (np.zeros((5, 6, 7), np.uint8), "channel"),
    (np.zeros(5, np.uint8), "channel"),
    ("none.png", "There is no file 'none.png'"),
    ({"image": 1}, "got dict"),
    (None, "got NoneType"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_IMAGES)
def test_an_image_that_cannot_be_taken_is_an_error_that_says_which(backend, wrong, message):
    processor = backend(size=32)
    with pytest.raises((ValueError, OSError), match=message):
        processor(wrong)
    if not isinstance(wrong, str):
        with pytest.raises(ValueError, match=f"Image 1: .*{message}"):
            processor([image_of(20, 30), wrong])
    with pytest.raises(ValueError, match="no image"):
        processor([])


def test_an_image_that_would_become_thousands_of_windows_is_an_error(backend):
    with pytest.raises(ValueError, match="10000 windows"):
        backend(size=640, task="semantic")(Image.new("RGB", (1, 10_000)))


@pytest.mark.parametrize("settings", [{"image_std": 0.0}, {"threshold": 2}, {"size": 0}, {"top_k": "all"}])
def test_a_setting_that_is_wrong_is_an_error_wherever_it_comes_in(backend, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        backend(**settings)
    processor = backend(size=32)
    with pytest.raises(ValueError, match=name):
        processor(image_of(20, 30), **settings)
    setattr(processor, name, settings[name])
    with pytest.raises(ValueError, match=name):
        processor(image_of(20, 30))


def test_an_unknown_setting_is_an_error_that_names_the_closest(backend, random_outputs):
    with pytest.raises(ValueError, match="no setting 'treshold'; the closest is 'threshold'"):
        backend(treshold=0.5)
    processor = backend(size=64)
    with pytest.raises(ValueError, match="no setting 'do_resise'; the closest is 'do_resize'"):
        processor(image_of(20, 30), do_resise=False)
    with pytest.raises(ValueError, match="no setting 'treshold'; the closest is 'threshold'"):
        processor.post_process(random_outputs, treshold=0.5)
    with pytest.raises(ValueError, match="no setting 'topk'; the closest is 'top_k'"):
        processor.post_process_instance_segmentation(random_outputs, topk=5)


def test_none_is_the_default_of_a_setting(backend):
    assert backend(**dict.fromkeys(backend.valid_kwargs.__annotations__)).to_dict() == {
        **backend().to_dict(),
        "ignore_index": None,
        "top_k": None,
    }


def test_filters_that_torchvision_does_not_have_are_an_error():
    with pytest.raises(ValueError, match="resample=4"):
        EomtImageProcessor(resample=4)
    assert (
        EomtImageProcessorPil(resample=4, size=32)(image_of(20, 30), return_tensors="pt")["pixel_values"]
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_and_size_can_be_resized(backend, channels):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    processor = backend(do_convert_rgb=False, do_normalize=False)
    for size in ((1, 1), (1, 9), (32, 48)):
        pixel_values = pixel_values_of(processor, image, size=size, input_data_format="channels_last")
        assert pixel_values.shape == (1, channels, *size)
        if size == (32, 48):
            assert (pixel_values[0].mean((1, 2)) - torch.tensor(image.mean((0, 1)) / 255)).abs().max() < 0.05


@pytest.mark.parametrize("mapping", [5, "ab", [5], {5: "cat"}])
def test_mappings_of_ids_that_are_none_are_errors(backend, mapping):
    with pytest.raises(ValueError, match=r"must map ids to classes|must be a whole number"):
        backend(size=32)(image_of(6, 5), np.full((6, 5), 5), mapping)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize("name", ["masks_queries_logits", "class_queries_logits"])
def test_predictions_that_are_not_finite_are_an_error(backend, random_outputs, task, name):
    random_outputs.class_queries_logits[0, :, 0] = 9.0  # some are sure enough
    getattr(random_outputs, name)[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="predictions are not finite"):
        backend(size=64, task=task, do_split_image=False).post_process(random_outputs)


def test_windows_in_a_list_give_what_they_give_in_a_tensor(backend):
    processor = backend(size=32, task="semantic")
    outputs = outputs_for(processor(image_of(30, 70), return_tensors="pt"))
    expected = processor.post_process(outputs, [(30, 70)])
    outputs.masks_queries_logits = list(outputs.masks_queries_logits)
    assert torch.equal(processor.post_process(outputs, [(30, 70)])[0], expected[0])

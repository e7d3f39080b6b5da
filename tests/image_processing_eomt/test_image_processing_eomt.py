import json
import subprocess
import sys

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor

from image_processing_eomt import EomtImageProcessor, EomtImageProcessorPil


SETTINGS = {"size": 96, "stuff_classes": [1, 2], "threshold": 0.7, "ignore_index": 0, "do_reduce_labels": True}
CODE = {"image_processing_eomt.py", "pipeline_eomt.py", "panoptic_eomt.py", "processor_mixin_eomt.py"}


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
    assert files[0] > CODE
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
    "[" * 100_000: "holds no settings",
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
    with pytest.raises(ValueError, match=r"preprocessor_config\.json.*holds no settings"):
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

"""A run starts from what there is, and nothing is lost or kept by accident."""

import json
from types import SimpleNamespace

import pytest
import torch

from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.data.samples import Category, LabelSpace
from training_eomt.script.arguments import ModelArguments
from training_eomt.script.starting_model import load_model, read_labels, read_task, set_classes


@pytest.fixture
def model(tiny_config):
    return EomtForUniversalSegmentation(tiny_config).eval()  # cat, dog, sky


def test_classes_of_the_same_name_keep_their_scores_wherever_they_are(model):
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(pixels)
        set_classes(model, {0: "sky", 1: "bird", 2: "cat", 3: "fish"})
        after = model(pixels)
    torch.testing.assert_close(after.masks_queries_logits, before.masks_queries_logits)
    # sky, cat and "no object"
    torch.testing.assert_close(after.class_queries_logits[..., [0, 2, 4]], before.class_queries_logits[..., [2, 0, 3]])
    assert model.config.num_labels == 4 and model.config.label2id["fish"] == 3


def test_other_classes_are_new_even_if_they_are_as_many(model):
    before = model.class_predictor.weight.clone()
    set_classes(model, {0: "one", 1: "two", 2: "three"})
    assert not (model.class_predictor.weight[:3] == before[:3]).all(1).any()
    assert model.class_predictor.weight[3].equal(before[3])


def test_a_model_with_other_classes_learns_and_is_saved(model, tmp_path):
    set_classes(model, {0: "one", 1: "two", 2: "three", 3: "four", 4: "five"})
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, :32] = True
    loss = model.train()(torch.randn(1, 3, 64, 64), [masks], [torch.tensor([4])]).loss
    loss.backward()
    assert model.class_predictor.weight.grad is not None
    model.save_pretrained(tmp_path)
    saved = EomtForUniversalSegmentation.from_pretrained(tmp_path)
    assert saved.class_predictor.weight.equal(model.class_predictor.weight)
    assert saved.criterion.empty_weight.shape == (6,)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["sky", "bird", "cat"], "Class head: 2 of 3 classes are kept by name; new are bird."),
        (["cat", "dog", "sky"], "Class head: 3 of 3 classes are kept by name."),
        (["\x1b[31mred"], "Class head: 0 of 1 classes are kept by name; new are \\x1b[31mred."),
        (
            [f"n{index}" for index in range(12)],
            "Class head: 0 of 12 classes are kept by name; new are n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 2 more.",
        ),
    ],
)
def test_what_is_kept_of_the_class_head_is_said(model, names, line):
    assert set_classes(model, dict(enumerate(names))) == line


@pytest.fixture
def stored(model, tmp_path):
    model.save_pretrained(tmp_path)
    EomtImageProcessor(size=64, stuff_classes=[2]).save_pretrained(tmp_path)
    return tmp_path


def start(folder, pixels=None, **arguments):
    labels = LabelSpace((Category(1, "cat", True), Category(2, "bird", True)))
    data = SimpleNamespace(pixels=pixels)
    return load_model(ModelArguments(model_name_or_path=str(folder), **arguments), data, "panoptic", labels)


def test_how_a_stored_model_learns_can_be_changed_and_what_it_is_cannot(stored, capsys):
    model, _ = start(stored, model_config={"mask_weight": 7, "drop_path_rate": 0.25})
    assert model.config.mask_weight == 7 and model.criterion.config.mask_weight == 7
    assert model.layers[0].drop_path.rate == 0.25
    assert "1 of 2 classes are kept by name; new are bird." in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"sets hidden_size, num_channels, which .*only no_object_weight"):
        start(stored, model_config={"hidden_size": 64, "mask_weight": 7, "num_channels": 4})
    with pytest.raises(ValueError, match="mask_weight='x'"):
        start(stored, model_config={"mask_weight": "x"})


@pytest.mark.parametrize("pixels", [128, (64, 128)])
def test_model_and_image_processor_get_the_same_size(stored, tmp_path, pixels, caplog):
    model, processor = start(stored, pixels)
    assert model.config.image_size == pixels
    folder = tmp_path / "resized"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert EomtImageProcessor.from_pretrained(folder).size == EomtImageProcessor(size=pixels).size


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 10000,
        '{"model_type": 5}',
        '{"model_type": ["eomt"]}',
        '{"model_type": "eomt", "hidden_size": "x"}',
        '{"model_type": "eomt", "id2label": ["cat"]}',
        '{"model_type": "dinov2", "hidden_size": []}',
    ],
)
def test_a_folder_whose_configuration_is_broken_is_named(stored, content):
    (stored / "config.json").write_text(content)
    with pytest.raises((ValueError, OSError), match=str(stored)):
        start(stored)
    for stored_value in (read_labels, read_task):
        if stored_value is read_labels or ("hidden_size" not in content and "id2label" not in content):
            with pytest.raises((ValueError, OSError), match=str(stored)):
                stored_value(ModelArguments(model_name_or_path=str(stored)))


def test_weights_that_do_not_fit_are_not_started_from(stored):
    settings = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 5}))
    with pytest.raises(ValueError, match=r"missing: layers\.3"):
        start(stored)

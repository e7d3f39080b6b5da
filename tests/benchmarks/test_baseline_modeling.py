"""The baseline is from outside like EoMT, and inside Mask2Former."""

import pytest
import torch
from transformers import AutoModelForUniversalSegmentation, Dinov2WithRegistersConfig, Dinov2WithRegistersModel
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss, Mask2FormerTransformerModule

from benchmarks.baselines import STEPS, BaselineConfig, BaselineForUniversalSegmentation, stepwise_model
from modeling_eomt import EomtForUniversalSegmentation
from modeling_eomt.checkpoints_eomt import is_backbone
from modeling_eomt.random_eomt import StepRandomness


BASELINE = (0, 1, 2, 3)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_takes_and_returns_the_same(tiny_step, batch, step):
    model = tiny_step(step).train()
    outputs = model(**batch, output_auxiliary_logits=True)
    assert outputs.masks_queries_logits.shape == (2, 7, 16, 16)
    assert outputs.class_queries_logits.shape == (2, 7, 4)
    number = model.config.num_blocks
    assert len(outputs.auxiliary_logits) == number == len(model.mask_probabilities)
    terms = {f"{term}{end}" for term in ("loss_mask", "loss_dice", "loss_cross_entropy") for end in ("", "_0")}
    assert terms <= outputs.loss_dict.keys() and len(outputs.loss_dict) == 3 * (number + 1)
    outputs.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    model.eval()
    with torch.no_grad():
        other_size = model(torch.randn(1, 3, 96, 64))
    assert other_size.masks_queries_logits.shape == (1, 7, 24, 16) and other_size.auxiliary_logits is None


@pytest.mark.parametrize("step", BASELINE)
def test_wrong_inputs_are_the_same_errors(tiny_step, batch, step):
    model = tiny_step(step)
    with pytest.raises(ValueError, match="divisible"):
        model(torch.randn(1, 3, 60, 64))
    with pytest.raises(ValueError, match="together"):
        model(batch["pixel_values"], mask_labels=batch["mask_labels"])


@pytest.mark.parametrize("step", BASELINE)
def test_the_decoder_is_that_of_transformers(tiny_step, step):
    model = tiny_step(step)
    with torch.no_grad():
        maps, mask_features = model.head.decode_pixels(model.make_pyramid(torch.randn(2, 3, 64, 96), None))
        queries, predictions = model.decode_queries(maps, mask_features, None, keep_all=True)
        theirs = Mask2FormerTransformerModule.forward(
            model.head.transformer, maps, mask_features, output_hidden_states=True
        )
    assert len(maps) == (1 if step == 3 else 3)
    assert len(predictions) == len(theirs.masks_queries_logits) == 10
    for ours, masks, hidden in zip(predictions, theirs.masks_queries_logits, theirs.intermediate_hidden_states):
        torch.testing.assert_close(ours["masks_queries_logits"], masks, rtol=0, atol=1e-5)
        classes = model.class_predictor(hidden.transpose(0, 1))
        torch.testing.assert_close(ours["class_queries_logits"], classes, rtol=0, atol=1e-5)
    torch.testing.assert_close(queries, theirs.intermediate_hidden_states[-1].transpose(0, 1), rtol=0, atol=1e-5)


def test_the_loss_is_that_of_transformers(tiny_step, monkeypatch):
    model = tiny_step(0).train()
    predictions = [
        {"masks_queries_logits": torch.randn(2, 7, 16, 16), "class_queries_logits": torch.randn(2, 7, 4)}
        for _ in range(3)
    ]
    # Both draw points of their own: with the same one everywhere there is nothing left to draw.
    masks = [torch.rand(2, 64, 64), torch.rand(3, 64, 64)]
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, 0.3))
    monkeypatch.setattr(StepRandomness, "points", lambda self, stream, number: torch.full((2, number, 2), 0.3))
    labels = [torch.tensor([0, 2]), torch.tensor([1, 1, 0])]
    ours = model.criterion.for_predictions(predictions, masks, labels)
    config = model.config.mask2former()
    config.num_labels, config.train_num_points = 3, 64
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    theirs = Mask2FormerLoss(config, weights)(
        **predictions[-1], mask_labels=masks, class_labels=labels, auxiliary_predictions=predictions[:-1]
    )
    _, terms = model.criterion.weighted_sum(ours)
    assert terms.keys() == theirs.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", BASELINE)
def test_a_saved_model_is_the_same_loaded(tiny_step, tmp_path, step):
    model = tiny_step(step)
    model.set_mask_probabilities([0.25] * 8 + [1.0])
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    pixels = torch.randn(1, 3, 64, 64)
    for model_class in (BaselineForUniversalSegmentation, AutoModelForUniversalSegmentation):
        loaded = model_class.from_pretrained(tmp_path)
        assert type(loaded) is BaselineForUniversalSegmentation and loaded.config.step == step
        assert loaded.mask_probabilities == model.mask_probabilities
        with torch.no_grad():
            assert loaded(pixels).masks_queries_logits.equal(model(pixels).masks_queries_logits)


def test_a_smaller_head_is_part_of_the_configuration(tiny_step, tmp_path):
    settings = {"hidden_dim": 64, "feature_size": 64, "mask_feature_size": 64, "encoder_layers": 2}
    model = tiny_step(0, num_blocks=3, mask2former_settings=settings)
    assert len(model.head.transformer.decoder.layers) == 3 and len(model.head.pixel_decoder.encoder.layers) == 2
    model.save_pretrained(tmp_path)
    again, pixels = BaselineForUniversalSegmentation.from_pretrained(tmp_path), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = model(pixels).masks_queries_logits, again(pixels).masks_queries_logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_weight_that_is_missing_is_an_error(tiny_step, tmp_path):
    model = tiny_step(0)
    weights = {name: value for name, value in model.state_dict().items() if name != "adapter.level_embeddings"}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"missing: adapter\.level_embeddings"):
        BaselineForUniversalSegmentation.from_pretrained(tmp_path)


@pytest.mark.parametrize("step", BASELINE)
def test_the_vit_starts_from_the_same_backbones_as_eomt(tmp_path, step):
    config = Dinov2WithRegistersConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56)
    Dinov2WithRegistersModel(config).save_pretrained(tmp_path)
    model = BaselineForUniversalSegmentation.from_backbone(tmp_path, image_size=64, step=step)
    assert model.config.num_blocks == 9
    weights = model.state_dict()
    expected = EomtForUniversalSegmentation.from_backbone(tmp_path, image_size=64).state_dict()
    shared = {name for name in expected if is_backbone(name)}
    assert shared == {name for name in weights if is_backbone(name)}
    assert all(weights[name].equal(expected[name]) for name in shared)


def test_masks_may_fade_out(tiny_step):
    model = tiny_step(1)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        masked = model(pixels)
        model.set_mask_probabilities([0.999] * 9)
        unmasked = model(pixels)
        model.set_mask_probabilities([0.0] * 9)
        assert model(pixels).masks_queries_logits.equal(unmasked.masks_queries_logits)
    assert not masked.masks_queries_logits.allclose(unmasked.masks_queries_logits)


def test_images_of_a_training_step_depend_on_their_seeds_alone(tiny_step, batch):
    model = tiny_step(1).train()  # without batch norm
    model.set_mask_probabilities([0.5] * 9)
    with torch.no_grad():
        both = model(batch["pixel_values"], image_seeds=batch["image_seeds"])
        first = model(batch["pixel_values"][:1], image_seeds=batch["image_seeds"][:1])
        other = model(batch["pixel_values"][:1], image_seeds=batch["image_seeds"][1:])
    torch.testing.assert_close(both.masks_queries_logits[:1], first.masks_queries_logits, rtol=0, atol=1e-4)
    assert not other.masks_queries_logits.allclose(first.masks_queries_logits, atol=1e-3)


def test_gradient_checkpointing_changes_no_gradient(tiny_step, batch):
    gradients = []
    for checkpoints in (False, True):
        model = tiny_step(0).train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        model(**batch).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_optimised_for_inference_it_predicts_the_same(tiny_step):
    model = tiny_step(0)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(pixels).masks_queries_logits
        after = model.optimize_for_inference()(pixels).masks_queries_logits
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_steps_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="expected 0 to 5"):
        stepwise_model(6, "small")
    with pytest.raises(ValueError, match="small, base, large, giant"):
        stepwise_model(0, "huge")
    with pytest.raises(ValueError, match="step=4"):
        BaselineConfig(step=4)
    with pytest.raises(ValueError, match="num_hidden_layers=6"):
        BaselineConfig(num_hidden_layers=6)
    with pytest.raises(ValueError, match="patch_size=14"):
        BaselineConfig(patch_size=14, image_size=56)
    with pytest.raises(ValueError, match="at least one layer"):
        BaselineConfig(num_blocks=0)

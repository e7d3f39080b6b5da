"""The loss has the original's statistics (golden results), and odd targets are handled or refused."""

import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file

from configuration_eomt import EomtConfig
from modeling_eomt import (
    MODEL_CLASSES,
    EomtForUniversalSegmentation,
    EomtLoss,
    NonFinitePredictionsError,
)
from modeling_eomt.loss_eomt import Targets, count_items
from modeling_eomt.random_eomt import StepRandomness


NUM_SEEDS = 100


def prediction(masks, classes):
    return {"masks_queries_logits": masks, "class_queries_logits": classes}


def randomness(*seeds):
    return StepRandomness(torch.tensor(seeds), len(seeds), torch.device("cpu"))


@pytest.fixture
def golden_loss(golden):
    inputs = load_file(golden / "loss_inputs.safetensors")
    statistics = json.loads((golden / "loss_statistics.json").read_text())
    arguments = (
        inputs["masks_queries_logits"],
        inputs["class_queries_logits"],
        [inputs[f"mask_labels.{i}"] for i in range(3)],
        [inputs[f"class_labels.{i}"] for i in range(3)],
    )
    config = EomtConfig(
        num_labels=inputs["class_queries_logits"].shape[-1] - 1,
        class_weight=statistics["weights"]["loss_cross_entropy"],
        mask_weight=statistics["weights"]["loss_mask"],
        dice_weight=statistics["weights"]["loss_dice"],
        no_object_weight=statistics["no_object_weight"],
        train_num_points=statistics["num_points"],
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    return EomtLoss.from_config(config), arguments, statistics


def test_terms_have_the_originals_mean_over_random_points(golden_loss):
    loss, arguments, statistics = golden_loss
    values: dict[str, list[float]] = {}
    for seed in range(NUM_SEEDS):
        torch.manual_seed(seed)
        for name, value in loss(*arguments).items():
            values.setdefault(name, []).append(value.item())
    assert set(values) == {"loss_mask", "loss_dice", "loss_cross_entropy"}
    for name, sample in values.items():
        sample = torch.tensor(sample, dtype=torch.float64)
        expected = statistics[name]
        # Four standard errors of the difference of two means over 100 seeds; float32 rounding where nothing is random.
        tolerance = 4 * math.sqrt((sample.var().item() + expected["std"] ** 2) / NUM_SEEDS) + 1e-6 * expected["mean"]
        assert abs(sample.mean().item() - expected["mean"]) <= tolerance, name


def test_matched_pairs_are_the_originals(golden_loss):
    loss, (mask_logits, class_logits, mask_labels, class_labels), statistics = golden_loss
    masks = Targets.join(mask_labels, class_labels, mask_logits.device).masks
    random = randomness(*range(len(class_labels)))
    matched_queries = loss.match(mask_logits[None], class_logits[None], masks, class_labels, random)[0]
    first = 0
    for labels, expected in zip(class_labels, statistics["assignment"], strict=True):
        queries = matched_queries[first : first + len(labels)].tolist()
        assert {(query, target) for target, query in enumerate(queries)} == {tuple(pair) for pair in expected}
        first += len(labels)


def test_several_predictions_at_once_are_scored_like_one_at_a_time(golden_loss):
    loss, (mask_logits, class_logits, mask_labels, class_labels), _ = golden_loss
    noisy = mask_logits + torch.randn_like(mask_logits)
    random = randomness(*range(len(class_labels)))
    together = loss.for_predictions(
        [prediction(mask_logits, class_logits), prediction(noisy, class_logits)],
        mask_labels,
        class_labels,
        random=random,
    )
    for terms, masks in zip(together, (mask_logits, noisy), strict=True):
        alone = loss(masks, class_logits, mask_labels, class_labels, random)
        for name, value in alone.items():
            torch.testing.assert_close(terms[name], value, rtol=1e-6, atol=0)


def run_model(config, counts, dtype=torch.bool, size=64):
    model = EomtForUniversalSegmentation(config).train()
    masks = [torch.rand(count, size, size).gt(0.5).to(dtype) for count in counts]
    labels = [torch.randint(config.num_labels, (count,)) for count in counts]
    return model, model(torch.randn(len(counts), 3, size, size), mask_labels=masks, class_labels=labels)


@pytest.mark.parametrize("counts", [[0, 3], [0, 0], [9, 1]], ids=["one empty", "all empty", "more than queries"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_any_number_of_targets_gives_finite_loss_and_gradients(tiny_config, counts, dtype):
    model, outputs = run_model(tiny_config, counts, dtype)
    outputs.loss.backward()
    assert outputs.loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_loss_is_the_weighted_sum_of_the_terms_of_all_predictions(tiny_config):
    _, outputs = run_model(tiny_config, [2, 3])
    names = ["loss_mask", "loss_dice", "loss_cross_entropy"]
    assert set(outputs.loss_dict) == {f"{name}{suffix}" for name in names for suffix in ("", "_0", "_1")}
    weights = {"mask": 5.0, "dice": 5.0, "cross": 2.0}
    expected = sum(weights[name.split("_")[1]] * value for name, value in outputs.loss_dict.items())
    torch.testing.assert_close(outputs.loss, expected)


def test_a_change_of_the_configuration_reaches_matching_and_sum(tiny_config):
    """As if the model had been made with the changed configuration."""
    batch = uneven_batch(tiny_config)
    model = new_model(tiny_config)
    before = model(**batch).loss
    changed = {"class_weight": 9.0, "mask_weight": 0.5, "dice_weight": 3.0, "no_object_weight": 0.7}
    for name, value in (changed | {"train_num_points": 100}).items():
        setattr(model.config, name, value)
    other = EomtForUniversalSegmentation(model.config).train()
    other.load_state_dict(model.state_dict())
    loss = model(**batch).loss
    assert loss.equal(other(**batch).loss) and not loss.equal(before)
    assert model.state_dict()["criterion.empty_weight"].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.7])


def test_a_perfect_prediction_costs_nearly_nothing(tiny_config):
    masks = torch.zeros(2, 64, 64)
    masks[0, :32], masks[1, 32:] = 1, 1
    mask_logits = torch.full((1, 7, 64, 64), -20.0)
    mask_logits[0, :2] = masks * 40 - 20
    class_logits = torch.zeros(1, 7, 4)
    class_logits[0, 0, 1] = class_logits[0, 1, 2] = 20
    class_logits[0, 2:, 3] = 20
    terms = EomtLoss.from_config(tiny_config)(mask_logits, class_logits, [masks], [torch.tensor([1, 2])])
    # Points on the edge are interpolated in the target too, so a small mask loss remains.
    assert terms["loss_cross_entropy"] < 1e-6 and terms["loss_mask"] < 0.5 and terms["loss_dice"] < 0.05


def test_a_class_out_of_range_names_image_and_target(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config)
    masks = [torch.ones(1, 64, 64), torch.ones(2, 64, 64)]
    with pytest.raises(ValueError, match=r"class_labels\[1\]\[1\] is out of range: the model has 3 classes"):
        model(torch.randn(2, 3, 64, 64), mask_labels=masks, class_labels=[torch.tensor([0]), torch.tensor([2, 3])])


def test_masks_and_classes_that_do_not_agree_are_refused(tiny_config):
    loss = EomtLoss.from_config(tiny_config)
    logits = torch.zeros(2, 7, 16, 16), torch.zeros(2, 7, 4)
    with pytest.raises(ValueError, match=r"class_labels\[1\]"):
        loss(*logits, [torch.ones(1, 8, 8), torch.ones(2, 8, 8)], [torch.tensor([0]), torch.tensor([0])])
    with pytest.raises(ValueError, match="same size"):
        loss(*logits, [torch.ones(1, 8, 8), torch.ones(1, 8, 9)], [torch.tensor([0]), torch.tensor([0])])
    with pytest.raises(ValueError, match="batch of 2"):
        loss(*logits, [torch.ones(1, 8, 8)], [torch.tensor([0])])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["masks", "classes"])
def test_images_whose_predictions_are_not_finite_are_named_instead_of_matched(tiny_config, value, which):
    loss = EomtLoss.from_config(tiny_config)
    masks = [torch.ones(count, 8, 8) for count in (1, 0, 2, 0)]
    labels = [torch.zeros(count, dtype=torch.int64) for count in (1, 0, 2, 0)]
    predictions = [(torch.zeros(4, 7, 16, 16), torch.zeros(4, 7, 4)) for _ in range(3)]
    broken = {"masks": 0, "classes": 1}[which]
    predictions[1][broken][2, 3, 1] = value
    predictions[0][broken][3, 6, 2] = value  # an image without targets
    with pytest.raises(FloatingPointError, match=r"images 2, 3 of the batch .* not finite") as caught:
        loss.for_predictions(
            [prediction(mask.requires_grad_(), classes) for mask, classes in predictions], masks, labels
        )
    assert isinstance(caught.value, NonFinitePredictionsError) and caught.value.images == [2, 3]
    copy = pickle.loads(pickle.dumps(caught.value))  # as when it comes from another process
    assert copy.images == [2, 3] and str(copy) == str(caught.value)


def test_logits_too_large_for_their_cost_are_named_too(tiny_config):
    mask_logits = torch.full((1, 7, 16, 16), 3e38)
    with pytest.raises(NonFinitePredictionsError, match="image 0 of the batch"):
        EomtLoss.from_config(tiny_config)(
            mask_logits, torch.zeros(1, 7, 4), [torch.ones(1, 8, 8)], [torch.tensor([0])]
        )


def uneven_batch(config):
    """Four images with 0, 1, 3 and 9 targets (two more than there are queries), and a seed each."""
    generator = torch.Generator().manual_seed(3)
    masks = [torch.randn(count, 64, 64, generator=generator) > 0 for count in (0, 1, 3, 9)]
    return {
        "pixel_values": torch.randn(4, 3, 64, 64, generator=generator),
        "mask_labels": masks,
        "class_labels": [torch.arange(len(image)) % config.num_labels for image in masks],
        "image_seeds": torch.tensor([11, 12, 2**62, -5]),
    }


def select_images(batch, images):
    """Some images of a batch, in the order given."""
    return {
        name: values[images] if isinstance(values, torch.Tensor) else [values[image] for image in images]
        for name, values in batch.items()
    }


def loss_and_gradients(model, parts, **kwargs):
    """The sum over parts of a batch."""
    model.zero_grad()
    total = 0.0
    for part in parts:
        loss = model(**part, **kwargs).loss
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def new_model(config):
    """A model in training with everything random that may be: masks, points, stochastic depth, rotary positions."""
    torch.manual_seed(0)
    config.drop_path_rate = 0.3
    if config.model_type == "eomt_dinov3":
        config.pos_embed_shift, config.pos_embed_jitter = 0.3, 1.5
    model = MODEL_CLASSES[config.model_type](config).train()
    model.set_mask_probabilities([0.6, 0.4])
    return model


def assert_same_gradients(gradients, expected):
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        # Rounding is relative to the largest of the numbers that were summed up; what a key's bias adds to all scores
        # alike has no gradient but rounding.
        atol = 1e-7 if name.endswith("k_proj.bias") else 1e-5 * gradient.abs().max().item()
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=atol, msg=lambda m, name=name: name + m)


@pytest.mark.parametrize(
    "parts",
    [[[0, 1], [2, 3]], [[0], [1], [2], [3]], [[0], [1, 2, 3]], [[3, 1], [0, 2]], [[2, 0, 3, 1]]],
    ids=["2 + 2", "1 + 1 + 1 + 1", "1 + 3", "2 + 2 of another order", "another order"],
)
def test_a_step_has_the_same_loss_and_gradients_however_its_images_are_split(family_config, parts):
    batch = uneven_batch(family_config)
    model = new_model(family_config)
    expected, expected_gradients = loss_and_gradients(model, [batch])
    micro_batches = [select_images(batch, images) for images in parts]
    num_items = sum(count_items(part["class_labels"], family_config.num_queries) for part in micro_batches)
    assert num_items.tolist() == [4, 0 + 1 + 3 + 7]
    loss, gradients = loss_and_gradients(model, micro_batches, num_items_in_batch=num_items)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(gradients, expected_gradients)


def test_another_order_of_the_images_changes_the_order_of_the_predictions_only(family_config):
    batch, order = uneven_batch(family_config), [2, 0, 3, 1]
    model = new_model(family_config)
    outputs, permuted = model(**batch), model(**select_images(batch, order))
    for name in ("masks_queries_logits", "class_queries_logits", "last_hidden_state"):
        torch.testing.assert_close(permuted[name], outputs[name][order], rtol=1e-5, atol=1e-5)
    for name, value in outputs.loss_dict.items():
        torch.testing.assert_close(permuted.loss_dict[name], value, rtol=1e-5, atol=0)


def test_other_seeds_are_other_random_numbers_and_the_default_follows_torchs_generator(tiny_config):
    batch = uneven_batch(tiny_config)
    model = new_model(tiny_config)
    loss = model(**batch).loss
    assert not loss.equal(model(**batch | {"image_seeds": batch["image_seeds"] + 1}).loss)
    del batch["image_seeds"]
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(model(**batch).loss)
    assert drawn[0].equal(drawn[2]) and not drawn[0].equal(drawn[1])


def train_on_half(rank, folder, config):
    """One of two processes, with two of the four images, and DistributedDataParallel's mean of gradients."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    half = select_images(uneven_batch(config), [2 * rank, 2 * rank + 1])
    model = torch.nn.parallel.DistributedDataParallel(new_model(config))
    loss, _ = loss_and_gradients(model, [half])
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    model.eval()
    if rank == 0:  # in evaluation a process may be alone with its batch
        model.module(**half)
    torch.save((loss, gradients), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradients_of_one(tiny_config, tmp_path):
    torch.multiprocessing.spawn(train_on_half, args=(tmp_path, tiny_config), nprocs=2)
    (loss0, gradients), (loss1, _) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    expected, expected_gradients = loss_and_gradients(new_model(tiny_config), [uneven_batch(tiny_config)])
    assert (loss0 + loss1) / 2 == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(gradients, expected_gradients)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float16])
def test_masks_of_any_dtype_give_the_same_loss(tiny_config, dtype):
    batch = uneven_batch(tiny_config)
    model = new_model(tiny_config)
    cast = [image.to(dtype) for image in batch["mask_labels"]]
    assert torch.equal(model(**batch | {"mask_labels": cast}).loss, model(**batch).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_low_precision_model_has_a_float32_loss(tiny_config, dtype):
    model = EomtForUniversalSegmentation(tiny_config).to(dtype).train()
    batch = uneven_batch(tiny_config)
    outputs = model(**batch | {"pixel_values": batch["pixel_values"].to(dtype)})
    assert outputs.loss.dtype == torch.float32 and outputs.loss.isfinite()
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_all_empty_batch_trains_the_classes_only(tiny_config):
    model = new_model(tiny_config)
    masks, labels = [torch.zeros(0, 64, 64)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    outputs = model(torch.randn(2, 3, 64, 64), mask_labels=masks, class_labels=labels)
    assert outputs.loss_dict["loss_mask"] == 0 and outputs.loss_dict["loss_cross_entropy"] > 0
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # no process waits for another's

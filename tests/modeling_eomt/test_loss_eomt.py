"""The loss has the original's statistics (golden results), and odd targets are handled or refused."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from modeling_eomt import EomtForUniversalSegmentation, EomtLoss
from modeling_eomt.loss_eomt import flatten_targets


NUM_SEEDS = 100


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
    loss = EomtLoss(
        num_labels=inputs["class_queries_logits"].shape[-1] - 1,
        class_weight=statistics["weights"]["loss_cross_entropy"],
        mask_weight=statistics["weights"]["loss_mask"],
        dice_weight=statistics["weights"]["loss_dice"],
        no_object_weight=statistics["no_object_weight"],
        num_points=statistics["num_points"],
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    return loss, arguments, statistics


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
    masks, _, _ = flatten_targets(mask_labels, class_labels, mask_logits.device)
    query_of_target = loss.match(mask_logits[None], class_logits[None], masks, class_labels)[0]
    first = 0
    for labels, expected in zip(class_labels, statistics["assignment"], strict=True):
        queries = query_of_target[first : first + len(labels)].tolist()
        assert {(query, target) for target, query in enumerate(queries)} == {tuple(pair) for pair in expected}
        first += len(labels)


def test_several_predictions_at_once_are_scored_like_one_at_a_time(golden_loss):
    loss, (mask_logits, class_logits, mask_labels, class_labels), statistics = golden_loss
    noisy = mask_logits + torch.randn_like(mask_logits)
    together = loss.for_predictions([(mask_logits, class_logits), (noisy, class_logits)], mask_labels, class_labels)
    for terms, masks in zip(together, (mask_logits, noisy), strict=True):
        alone = loss(masks, class_logits, mask_labels, class_labels)
        for name, value in alone.items():
            # Two draws of the points: six of the golden standard deviations.
            torch.testing.assert_close(terms[name], value, rtol=0, atol=6 * statistics[name]["std"] + 1e-6)


def outputs_of(config, counts, dtype=torch.bool, size=64):
    model = EomtForUniversalSegmentation(config).train()
    masks = [torch.rand(count, size, size).gt(0.5).to(dtype) for count in counts]
    labels = [torch.randint(config.num_labels, (count,)) for count in counts]
    return model, model(torch.randn(len(counts), 3, size, size), mask_labels=masks, class_labels=labels)


@pytest.mark.parametrize("counts", [[0, 3], [0, 0], [9, 1]], ids=["one empty", "all empty", "more than queries"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_any_number_of_targets_gives_finite_loss_and_gradients(tiny_config, counts, dtype):
    model, outputs = outputs_of(tiny_config, counts, dtype)
    outputs.loss.backward()
    assert outputs.loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_loss_is_the_weighted_sum_of_the_terms_of_all_predictions(tiny_config):
    _, outputs = outputs_of(tiny_config, [2, 3])
    names = ["loss_mask", "loss_dice", "loss_cross_entropy"]
    assert set(outputs.loss_dict) == {f"{name}{suffix}" for name in names for suffix in ("", "_0", "_1")}
    weights = {"mask": 5.0, "dice": 5.0, "cross": 2.0}
    expected = sum(weights[name.split("_")[1]] * value for name, value in outputs.loss_dict.items())
    torch.testing.assert_close(outputs.loss, expected)


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


def test_predictions_that_are_not_finite_are_named_instead_of_matched(tiny_config):
    loss = EomtLoss.from_config(tiny_config)
    mask_logits = torch.zeros(1, 7, 16, 16)
    mask_logits[0, 3] = math.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        loss(mask_logits, torch.zeros(1, 7, 4), [torch.ones(1, 8, 8)], [torch.tensor([0])])


def count_matched(rank, folder, config):
    """What one of two processes divides its mask losses by, in training and in evaluation."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss = EomtLoss.from_config(config)
    matched = torch.ones(2, 3 if rank == 0 else 1)  # two predictions; three masks here, one there
    counts = [loss.train().num_matched(matched).tolist()]
    if rank == 0:  # in evaluation a process may be alone with its batch
        counts.append(loss.eval().num_matched(matched).tolist())
    (folder / f"counts{rank}.json").write_text(json.dumps(counts))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_every_process_divides_by_the_mean_number_of_masks(tiny_config, tmp_path):
    """Not by their number times the number of processes again, which would make the loss grow with it."""
    torch.multiprocessing.spawn(count_matched, args=(tmp_path, tiny_config), nprocs=2)
    assert json.loads((tmp_path / "counts0.json").read_text()) == [[2.0, 2.0], [3.0, 3.0]]
    assert json.loads((tmp_path / "counts1.json").read_text()) == [[2.0, 2.0]]

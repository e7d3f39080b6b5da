"""The Trainer optimises as the paper says and measures the model as it is deployed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer

import training_eomt
from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.card import TRAINING, is_generated
from training_eomt.inputs import TrainingInputs
from training_eomt.metrics import MaskAveragePrecision, MeanIoU, PanopticQuality
from training_eomt.optimization import layerwise_learning_rates, two_stage_warmup_poly
from training_eomt.resumable_trainer import ResumableTrainer
from training_eomt.trainer import EomtTrainer
from training_eomt.training_arguments import EomtTrainingArguments


def test_every_parameter_is_optimised_at_its_own_rate(make_trainer):
    trainer = make_trainer(learning_rate=1e-3, layer_decay=0.5, weight_decay=0.05)
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(num_training_steps=100, optimizer=optimizer)
    expected = layerwise_learning_rates(trainer.model, 1e-3, 0.5)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    for _ in range(20):
        optimizer.step()
        scheduler.step()
    for group in optimizer.param_groups:
        multiplier = two_stage_warmup_poly(20, 100, (5, 10), 0.9, group["is_backbone"])
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(expected[names[id(parameter)]] * multiplier)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_masks_fade_out_during_training(make_trainer):
    trainer = make_trainer(max_steps=6)
    seen = []
    trainer.model.register_forward_pre_hook(lambda model, _: seen.append(model.mask_probabilities))
    trainer.train()
    assert seen[0] == [1.0, 1.0] and seen[-1] == [0.0, 0.0]
    assert trainer.model.mask_probabilities == [0.0, 0.0]


def test_without_annealing_the_models_own_probabilities_stay(make_trainer):
    trainer = make_trainer(mask_annealing=False)
    trainer.model.set_mask_probabilities([0.5, 1.0])
    trainer.train()
    assert trainer.model.mask_probabilities == [0.5, 1.0]


def test_every_evaluation_in_training_draws_its_first_images(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    drawn = tmp_path / "output" / "evaluation_pictures"
    assert sorted(str(path.relative_to(drawn)) for path in drawn.rglob("*.png")) == [
        f"step-{step}/{index:06}.png" for step in (1, 2) for index in range(3)
    ]
    with Image.open(drawn / "step-2" / "000000.png") as figure:
        assert figure.width > 3 * 320  # input, target and prediction
    trainer = make_trainer(output_dir=str(tmp_path / "later"))  # a finished model, which is only measured
    trainer.evaluate()
    assert not (tmp_path / "later" / "evaluation_pictures").exists()


def test_what_is_drawn_is_what_is_evaluated(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    held_out, trainer.eval_dataset = trainer.eval_dataset, None
    trainer.train()
    trainer.evaluate(held_out)
    assert len(list((tmp_path / "output" / "evaluation_pictures" / "step-1").iterdir())) == 3


def test_while_masks_fade_out_the_model_is_measured_without_them(make_trainer):
    trainer = make_trainer(max_steps=2, eval_strategy="steps", eval_steps=1)
    seen: dict[str, list[list[float]]] = {"train": [], "eval": []}
    trainer.model.register_forward_pre_hook(
        lambda model, _: seen["train" if model.training else "eval"].append(model.mask_probabilities)
    )
    trainer.train()
    assert seen["train"][0] == [1.0, 1.0] and set(map(tuple, seen["eval"])) == {(0.0, 0.0)}


@pytest.mark.parametrize("probabilities", [[0.0, 0.0], [0.5, 1.0]])
def test_a_finished_model_is_measured_as_it_is_at_original_size(make_trainer, probabilities):
    trainer = make_trainer()
    trainer.model.set_mask_probabilities(probabilities)
    metrics = trainer.evaluate()
    assert trainer.model.mask_probabilities == probabilities

    model, processor = trainer.model.eval(), trainer.image_processor
    metric = PanopticQuality(10, processor.stuff_classes)
    for sample, example in zip(trainer.eval_dataset.samples, trainer.eval_dataset, strict=True):
        with torch.no_grad():
            outputs = model(**processor(sample.image, return_tensors="pt"))
        prediction = processor.post_process_panoptic_segmentation(outputs, target_sizes=[sample.size])[0]
        (reference,) = example["references"]
        assert reference["segmentation"].shape == sample.size
        metric.add(prediction=prediction, reference=reference)
    expected = metric.compute()
    assert metrics["eval_pq"] == pytest.approx(expected["pq"])
    assert trainer.per_class == expected["per_class"]
    assert metrics["eval_loss"] > 0


def test_evaluating_twice_gives_the_same_quality(make_trainer):
    trainer = make_trainer()
    assert trainer.evaluate()["eval_pq"] == trainer.evaluate()["eval_pq"]


def test_training_learns(make_trainer):
    trainer = make_trainer(
        max_steps=40, learning_rate=3e-3, layer_decay=1.0, max_grad_norm=1.0, backbone_warmup_steps=2, logging_steps=10
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]


AUGMENTATION = SegmentationAugmentation((64, 64), (0.5, 2.0), color_jitter=True)


def assert_same_weights(one, other, **tolerance):
    for (name, parameter), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def test_images_whose_predictions_are_not_finite_are_named(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=5)
    inputs, damaged = trainer.train_dataset, "000003.png"

    class Damaged(TrainingInputs):
        def __getitem__(self, draw):
            example = super().__getitem__(draw)
            if example["file_names"] == [damaged]:
                example["pixel_values"] = example["pixel_values"] * math.nan
            return example

    trainer.train_dataset = Damaged(inputs.samples, inputs.image_processor, None)
    with pytest.raises(FloatingPointError, match=r"Step 1, 000003\.png: .* not finite"):
        trainer.train()


def test_frozen_parts_stay_as_they_are(make_trainer):
    trainer = make_trainer(freeze_layers=2, learning_rate=1e-2, backbone_warmup_steps=0, max_steps=4)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not value.equal(before[name])}
    assert not any(name.startswith(("embeddings.", "layers.0.", "layers.1.")) for name in changed)
    assert "layers.2.mlp.fc1.weight" in changed and "query.weight" in changed
    trainer = make_trainer(freeze_backbone=True)
    trained = {name.split(".")[0] for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert trained == {"query", "upscale_block", "mask_head", "class_predictor"}
    with pytest.raises(ValueError, match="the ViT has 3 blocks"):
        make_trainer(freeze_layers=4)


def test_the_log_has_loss_terms_rates_and_mask_probabilities(make_trainer, capsys):
    trainer = make_trainer(max_steps=3, logging_steps=1, layer_decay=0.5)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    weights = {"loss_mask": 5.0, "loss_dice": 5.0, "loss_cross_entropy": 2.0}
    for entry in entries:
        terms = {f"{name}{suffix}": weight for name, weight in weights.items() for suffix in ("", "_0", "_1")}
        assert sum(weight * entry[name] for name, weight in terms.items()) == pytest.approx(entry["loss"], rel=1e-4)
    assert {name for name in entries[0] if name.startswith("learning_rate_")} == {
        "learning_rate_new", "learning_rate_embeddings", "learning_rate_layers.1", "learning_rate_layers.2"
    }  # fmt: skip
    assert [entry["mask_probability_0"] for entry in entries] == [1.0, 0.0, 0.0]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(lines) == 3 and "mask" in lines[0] and lines[2].startswith("step 3/3  loss ")


def test_tensorboard_gets_figures_of_every_evaluation(make_trainer, tmp_path):
    make_trainer(max_steps=2, logging_steps=1, eval_strategy="steps", eval_steps=1, report_to="tensorboard").train()
    (log,) = (tmp_path / "output" / "runs").iterdir()
    accumulator = EventAccumulator(str(log), size_guidance={"images": 0})
    accumulator.Reload()
    assert {"train/loss_mask_0", "train/mask_probability_1", "eval/pq"} <= set(accumulator.Tags()["scalars"])
    assert [event.step for event in accumulator.Images("evaluation/2")] == [1, 2]


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_other_tasks_are_measured_as_the_model_is_used(make_trainer, task):
    """What post-processing finds in images one by one, against their annotations."""
    trainer = make_trainer(task)
    metrics = trainer.evaluate()
    model, processor, dataset = trainer.model.eval(), trainer.image_processor, trainer.eval_dataset.samples
    metric = MaskAveragePrecision(5) if task == "instance" else MeanIoU(10)
    for sample in dataset:
        inputs = processor(sample.image, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        if task == "instance":
            found = processor.post_process_instance_segmentation(
                outputs, target_sizes=[sample.size], threshold=0.0, return_coco_annotation=True
            )[0]
            reference = {
                "image_id": sample.image_id,
                "segmentation": [target.rle for target in sample.targets],
                "segments_info": [
                    {"label_id": target.label_id, "iscrowd": target.iscrowd, "area": target.area}
                    for target in sample.targets
                ],
            }
        else:
            assert len(inputs["pixel_values"]) > 1 or sample.size[0] == sample.size[1]  # windows
            found = processor.post_process_semantic_segmentation(outputs, target_sizes=[sample.size])[0]
            reference = np.full(sample.size, -1)
            for target in sample.targets:
                reference[target.mask()] = target.label_id
        metric.add(prediction=found, reference=reference)
    expected = metric.compute()
    assert trainer.per_class == expected.pop("per_class")
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, nan_ok=True), name


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_the_evaluation_does_not_depend_on_the_batches(make_trainer, task):
    one, three = (make_trainer(task, per_device_eval_batch_size=size).evaluate() for size in (1, 3))
    for name, value in one.items():
        if not name.endswith(("_runtime", "_per_second", "_time")):
            assert three[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize(
    ("settings", "total_steps", "stages"),
    [
        ({}, 88692, (500, 1000)),  # as published
        ({}, 1000, (50, 100)),
        ({"new_parameters_warmup_steps": 0.1, "backbone_warmup_steps": 7}, 200, (20, 7)),
        ({"new_parameters_warmup_steps": 0, "backbone_warmup_steps": 0}, 200, (0, 0)),
    ],
)
def test_the_warmup_follows_from_the_length_of_training(tmp_path, settings, total_steps, stages):
    arguments = EomtTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)
    assert arguments.warmup_stages(total_steps) == stages


def test_the_package_names_the_trainer_and_its_arguments():
    assert training_eomt.EomtTrainer is EomtTrainer and training_eomt.EomtTrainingArguments is EomtTrainingArguments
    with pytest.raises(AttributeError, match="no attribute 'EomtTrainr'"):
        _ = training_eomt.EomtTrainr


def test_accumulated_batches_train_like_one_large_batch(make_trainer):
    """Images with very different numbers of segments, augmented, while masks fade out: an image is the same
    whatever batch it is in."""
    trained = []
    for at_once in (4, 1):
        trainer = make_trainer(
            max_steps=5, optim="sgd", learning_rate=1e-3, total_batch_size=4, per_device_train_batch_size=at_once,
            augmentation=AUGMENTATION, logging_steps=1,
        )  # fmt: skip
        assert trainer.args.gradient_accumulation_steps == 4 // at_once
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        trained.append((losses, trainer.model))
    (losses, whole), (accumulated_losses, accumulated) = trained
    assert accumulated_losses == pytest.approx(losses, rel=1e-4)
    assert_same_weights(accumulated, whole, rtol=1e-5, atol=1e-6)


def test_the_trainers_push_brings_this_projects_card(make_trainer, hub, tmp_path, monkeypatch):
    pushed = []

    def upload_folder(self, *, repo_id, folder_path, **options):
        pushed.append((repo_id, (tmp_path / "output" / "README.md").read_text()))
        return SimpleNamespace()

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    trainer = make_trainer(push_to_hub=True, hub_model_id="pets")
    trainer.save_model()
    trainer.push_to_hub(license="mit", tags="shapes", dataset="shapes", finetuned_from="me/base")
    assert [repo_id for repo_id, _ in pushed] == ["me/pets", "me/pets"]
    for _, text in pushed:
        assert 'model="me/pets"' in text and is_generated(text, TRAINING) and "panoptic segmentation" in text
    data = ModelCard(pushed[1][1]).data
    assert (data.license, data.datasets, data.base_model) == ("mit", ["shapes"], "me/base")
    assert data.tags == ["eomt", "panoptic-segmentation", "shapes"]


def test_the_trainers_card_is_named_after_its_folder_and_a_persons_own_stays(make_trainer, tmp_path):
    trainer, card = make_trainer(), tmp_path / "output" / "README.md"
    trainer.save_model()
    trainer.create_model_card(model_name="anything")
    assert f'model="{tmp_path / "output"}"' in card.read_text()
    card.write_text("# Mine\n")
    trainer.create_model_card()
    assert card.read_text() == "# Mine\n"


def test_the_trainers_push_leaves_a_card_alone_that_a_person_wrote_on_the_hub(make_trainer, hub):
    hub.files["README.md"] = b"# Mine\n"
    trainer = make_trainer(push_to_hub=True, hub_model_id="pets")
    trainer.save_model()
    assert hub.files["README.md"] == b"# Mine\n" and "modeling_eomt.py" in hub.files


@pytest.mark.parametrize(("task", "headline"), [("panoptic", "pq"), ("instance", "ap"), ("semantic", "miou")])
def test_the_best_checkpoint_is_the_best_in_the_tasks_own_figure(make_trainer, task, headline):
    best = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = make_trainer(task, load_best_model_at_end=True, **best)
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == (headline, True)
    trainer.train()
    measured = [entry[f"eval_{headline}"] for entry in trainer.state.log_history if f"eval_{headline}" in entry]
    assert trainer.state.best_metric == max(measured)
    trainer = make_trainer(task, load_best_model_at_end=True, metric_for_best_model="loss", **best)
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("loss", False)


def test_an_evaluation_whose_outputs_are_not_finite_names_the_images(make_trainer):
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.class_predictor.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"Evaluation of 000000\.png, 000001\.png: .* not finite"):
        trainer.evaluate()


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_the_confusion_matrix_of_an_evaluation_is_kept_where_pixels_are_compared(make_trainer, task):
    trainer = make_trainer(task)
    trainer.evaluate()
    if task == "instance":  # which overlap, and are measured at every score
        assert trainer.confusion_matrix is None
        return
    samples = trainer.eval_dataset.samples
    areas = [0] * 10
    for sample in (samples[index] for index in range(len(samples))):
        for target in sample.targets:
            areas[target.label_id] += int(target.mask().sum())
    assert trainer.confusion_matrix.sum(axis=1).tolist() == areas


def test_no_private_function_of_transformers_trainer_is_overridden():
    private = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    assert not private & (vars(EomtTrainer).keys() | vars(ResumableTrainer).keys())

"""The Trainer optimises as the paper says and measures the model as it is deployed."""

from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image

import training_eomt
from configuration_eomt import EomtConfig
from configuration_eomt.model_card_eomt import WRITTEN_BY_SAVE
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.inputs import EvaluationInputs, TrainingInputs
from training_eomt.metrics import PanopticQuality
from training_eomt.optimization import layerwise_learning_rates, two_stage_warmup_poly
from training_eomt.shapes import generate_shapes_dataset
from training_eomt.trainer import EomtTrainer
from training_eomt.training_arguments import EomtTrainingArguments


@pytest.fixture
def make_trainer(tmp_path):
    data = generate_shapes_dataset(tmp_path / "data", 4, 3, 0, image_size=(40, 64))
    train = CocoPanopticDataset(data / "train")
    validation = CocoPanopticDataset(data / "validation", train.label_space.id2label)
    processor = EomtImageProcessor(size=64, stuff_classes=train.label_space.stuff_classes, threshold=0.0)

    def make(**settings):
        torch.manual_seed(0)
        config = EomtConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_blocks=2,
            num_queries=8,
            image_size=64,
            train_num_points=64,
            id2label=train.label_space.id2label,
        )
        arguments = {
            "output_dir": str(tmp_path / "output"),
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        }
        return EomtTrainer(
            model=EomtForUniversalSegmentation(config),
            args=EomtTrainingArguments(**arguments),
            processing_class=processor,
            train_dataset=TrainingInputs(train, processor, None),
            eval_dataset=EvaluationInputs(validation, processor),
        )

    return make


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


def test_every_evaluation_in_training_draws_its_first_pictures(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    drawn = tmp_path / "output" / "evaluation_pictures"
    assert sorted(str(path.relative_to(drawn)) for path in drawn.rglob("*.png")) == [
        f"step-{step}/{index:06}.png" for step in (1, 2) for index in range(3)
    ]
    with Image.open(drawn / "step-2" / "000000.png") as figure:
        assert figure.width > 3 * 320  # input, target and prediction
    trainer.args.output_dir = str(tmp_path / "later")
    trainer.evaluate()
    assert not (tmp_path / "later").exists()


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
    metric = PanopticQuality(6, processor.stuff_classes)
    for sample, example in zip(trainer.eval_dataset.samples, trainer.eval_dataset, strict=True):
        with torch.no_grad():
            outputs = model(**processor(sample.image, return_tensors="pt"))
        prediction = processor.post_process_panoptic_segmentation(outputs, target_sizes=[sample.size])[0]
        assert example["reference"]["segmentation"].shape == sample.size
        metric.add(prediction=prediction, reference=example["reference"])
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


def test_a_stopped_and_resumed_training_ends_with_the_same_weights(make_trainer, tmp_path):
    whole = make_trainer(max_steps=4, save_strategy="steps", save_steps=2)
    whole.train()
    resumed = make_trainer(max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "output" / "checkpoint-2"))
    for (name, parameter), other in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        torch.testing.assert_close(parameter, other[1], rtol=0, atol=1e-6, msg=name)


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


def test_accumulated_batches_train_like_one_large_batch(make_trainer, monkeypatch):
    """Pictures with very different numbers of segments: a mask counts the same whatever batch it is in."""
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 0.3))  # the same points for every mask
    trained = []
    for settings in (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    ):
        trainer = make_trainer(max_steps=2, optim="sgd", learning_rate=1e-3, mask_annealing=False, **settings)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        trained.append((losses, dict(trainer.model.named_parameters())))
    (losses, whole), (accumulated_losses, accumulated) = trained
    assert accumulated_losses == pytest.approx(losses, rel=1e-4)
    for name, parameter in whole.items():
        torch.testing.assert_close(accumulated[name], parameter, rtol=1e-5, atol=1e-6, msg=name)


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
        assert 'model="me/pets"' in text and WRITTEN_BY_SAVE in text and "panoptic segmentation" in text
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

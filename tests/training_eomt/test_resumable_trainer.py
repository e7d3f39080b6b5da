"""A training goes on as if it had never been stopped, or says why it cannot; nothing damaged is saved."""

import json
import logging
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from modeling_eomt import EomtForUniversalSegmentation
from training_eomt import checkpoints, comparison
from training_eomt.augmentation import SegmentationAugmentation


AUGMENTATION = SegmentationAugmentation((64, 64), (0.5, 2.0), color_jitter=True)


def assert_same_weights(one, other, **tolerance):
    for (name, parameter), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_in_the_middle_of_an_epoch_and_resumed_is_never_stopped(make_trainer, tmp_path, workers):
    """With masks that fade out, augmentation and an average of the weights; an epoch is five steps."""
    settings = {"max_steps": 8, "per_device_train_batch_size": 1, "ema_decay": 0.9, "augmentation": AUGMENTATION}
    settings |= {"dataloader_num_workers": workers, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    whole = make_trainer(**settings)
    whole.train()
    expected = whole.evaluate()
    for stopped_at in (3, 6):
        resumed = make_trainer(**settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "output" / f"checkpoint-{stopped_at}"))
        assert_same_weights(resumed.model, whole.model)
        metrics = resumed.evaluate()
        for name in ("eval_pq", "eval_sq", "eval_loss"):
            assert metrics[name] == expected[name]
        assert resumed.per_class == whole.per_class


def test_the_averaged_weights_are_what_is_evaluated_saved_and_left(make_trainer, tmp_path):
    trainer = make_trainer(
        max_steps=4, ema_decay=0.5, learning_rate=1e-2, eval_strategy="steps", eval_steps=2, save_strategy="steps",
        save_steps=2,
    )  # fmt: skip
    expected, evaluated = {}, []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            decay = min(0.5, (1 + state.global_step) / (10 + state.global_step))
            for name, parameter in model.named_parameters():
                expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()

    expected |= {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.add_callback(Watch())
    trainer.model.register_forward_pre_hook(
        lambda model, _: None if model.training else evaluated.append(model.query.weight.detach().clone())
    )
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(evaluated[-1], expected["query.weight"], rtol=1e-5, atol=1e-6)
    saved = EomtForUniversalSegmentation.from_pretrained(tmp_path / "output" / "checkpoint-4")
    assert_same_weights(saved, trainer.model)


def test_a_checkpoint_without_average_is_not_resumed_with_one(make_trainer, tmp_path):
    make_trainer(max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match="saved without ema_decay"):
        make_trainer(max_steps=2, ema_decay=0.9).train(resume_from_checkpoint=True)


def test_an_average_is_not_taken_for_the_trained_weights(make_trainer):
    make_trainer(max_steps=1, save_strategy="steps", save_steps=1, ema_decay=0.9).train()
    with pytest.raises(ValueError, match="saved with ema_decay: give it again"):
        make_trainer(max_steps=2).train(resume_from_checkpoint=True)


def test_a_checkpoint_is_the_model_as_it_was_evaluated(make_trainer, tmp_path):
    make_trainer(max_steps=6, save_strategy="steps", save_steps=1).train()
    early = EomtForUniversalSegmentation.from_pretrained(tmp_path / "output" / "checkpoint-1")
    assert early.mask_probabilities == [0.0, 0.0]


def test_what_an_interrupted_run_left_is_passed_over_and_removed(make_trainer, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(**settings)
    whole.train()
    (tmp_path / "output" / "checkpoint-4" / "trainer_state.json").unlink()
    (tmp_path / "output" / "checkpoint-3" / "trainer_state.json").write_text('{"epoch":')
    resumed = make_trainer(**settings)
    seen = []
    resumed.model.register_forward_pre_hook(lambda model, _: seen.append(resumed.state.global_step))
    resumed.train(resume_from_checkpoint=True)
    assert seen == [2, 3]
    assert_same_weights(resumed.model, whole.model)
    with pytest.raises(ValueError, match="is not a complete checkpoint"):
        (tmp_path / "output" / "checkpoint-1" / "trainer_state.json").unlink()
        make_trainer(**settings).train(resume_from_checkpoint=str(tmp_path / "output" / "checkpoint-1"))


def test_there_must_be_something_to_resume_from(make_trainer):
    with pytest.raises(ValueError, match="no complete checkpoint to resume from"):
        make_trainer().train(resume_from_checkpoint=True)


def test_old_checkpoints_go_when_the_new_one_is_complete(make_trainer, tmp_path):
    make_trainer(max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=2).train()
    assert sorted(path.name for path in (tmp_path / "output").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_an_old_checkpoint_stays_until_all_processes_have_written_the_new_one(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    present = []

    def look():
        checkpoints = (tmp_path / "output").glob("checkpoint-*")
        present.append({path.name[-1] for path in checkpoints if (path / "trainer_state.json").is_file()})

    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", look)
    trainer.train()
    assert present == [set(), {"1"}, {"1"}, {"1", "2"}, {"2"}, {"2", "3"}]  # before and after each
    look()
    assert present[-1] == {"3"} and trainer.args.save_total_limit == 1
    saved = torch.load(tmp_path / "output" / "checkpoint-3" / "training_args.bin", weights_only=False)
    assert saved.save_total_limit == 1


def test_a_checkpoint_that_is_written_again_is_not_complete_before_its_end(make_trainer, tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(**settings).train()
    first, second = (tmp_path / "output" / f"checkpoint-{step}" for step in (1, 2))
    assert checkpoints.is_complete(second)
    resumed = make_trainer(**settings)

    def kill(*args):
        raise KeyboardInterrupt

    resumed._save_optimizer_and_scheduler = kill
    with pytest.raises(KeyboardInterrupt):
        resumed.train(resume_from_checkpoint=str(first))
    assert checkpoints.last_complete(tmp_path / "output") == first


def test_the_best_checkpoint_is_kept_and_loaded(make_trainer, tmp_path):
    trainer = make_trainer(
        max_steps=3, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, save_total_limit=1,
        load_best_model_at_end=True, metric_for_best_model="pq", learning_rate=1e-2,
    )  # fmt: skip
    quality = iter([0.1, 0.9, 0.5])
    evaluate = trainer._evaluate
    trainer._evaluate = lambda *args, **kwargs: {**evaluate(*args, **kwargs), "eval_pq": next(quality)}
    trainer.train()
    best = EomtForUniversalSegmentation.from_pretrained(tmp_path / "output" / "checkpoint-2")
    assert_same_weights(trainer.model, best)


SAVING = {"save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_finished_training_that_is_resumed_stays_as_it_is(make_trainer, ema_decay):
    """It ends in the middle of an epoch of two steps, where `Trainer` would make one more."""
    settings = {**SAVING, "max_steps": 3, "ema_decay": ema_decay, "learning_rate": 1e-2, "logging_steps": 1}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.model.register_forward_pre_hook(lambda *_: pytest.fail("nothing is left to do"))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3
    assert_same_weights(resumed.model, whole.model)
    assert resumed.model.mask_probabilities == whole.model.mask_probabilities
    logged = [entry for entry in whole.state.log_history if "train_runtime" not in entry]
    assert [{**entry} for entry in resumed.state.log_history] == logged


def test_a_training_that_was_ended_early_stays_there(make_trainer, tmp_path):
    class EndAfterTwo(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    settings = {**SAVING, "max_steps": 4}
    whole = make_trainer(**settings)
    whole.add_callback(EndAfterTwo())
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 2
    assert_same_weights(resumed.model, whole.model)


@pytest.mark.parametrize("max_grad_norm", [0.01, 0.0])
def test_a_gradient_that_is_not_finite_is_never_saved(make_trainer, tmp_path, max_grad_norm):
    """It is that of the last step, after which no forward pass would notice."""
    trainer = make_trainer(**SAVING, max_steps=2, per_device_train_batch_size=5, max_grad_norm=max_grad_norm)

    class Overflow(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                model.query.weight.register_hook(lambda gradient: gradient * float("inf"))

    trainer.add_callback(Overflow())
    with pytest.raises(FloatingPointError, match=r"Step 2: the gradient is not finite.*0000\d\d\.png, 0"):
        trainer.train()
    output = tmp_path / "output"
    assert [folder.name for folder in output.iterdir()] == ["checkpoint-1"]
    saved = EomtForUniversalSegmentation.from_pretrained(output / "checkpoint-1")
    assert all(parameter.isfinite().all() for parameter in saved.parameters())


def test_without_checkpoints_a_gradient_that_is_not_finite_ends_the_training_too(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.model.query.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="Step 1: the gradient is not finite"):
        trainer.train()


def test_weights_that_are_not_finite_are_not_saved_and_the_former_model_stays(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_model()
    with torch.no_grad():
        trainer.model.query.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"not saved: query\.weight"):
        trainer.save_model()
    saved = EomtForUniversalSegmentation.from_pretrained(tmp_path / "output")
    assert saved.query.weight.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"max_steps": 4}, "steps: 2 there, 4 now"),
        ({"max_steps": -1, "num_train_epochs": 3}, "steps: 2 there, 6 now"),
        ({"per_device_train_batch_size": 1}, "images_per_step: 2 there, 1 now"),
        ({"learning_rate": 1e-3}, r"learning_rate: 0\.0001 there, 0\.001 now"),
        ({"backbone_warmup_steps": 1}, r"warm_up: \[0, 0\] there, \[0, 1\] now"),
        (
            {"mask_annealing_starts": [0, 0], "mask_annealing_ends": [2, 2]},
            r"mask_annealing_starts_and_ends: \[\[0, 1\], \[1, 2\]\] there, \[\[0, 0\], \[2, 2\]\] now",
        ),
        ({"freeze_layers": 1}, "freeze_layers: 0 there, 1 now"),
        ({"adam_beta2": 0.9}, r"adam_beta2: 0\.999 there, 0\.9 now"),
        ({"task": "semantic"}, 'task: "panoptic" there, "semantic" now'),
    ],
)
def test_another_training_is_not_resumed_and_what_differs_is_said(make_trainer, tmp_path, changed, difference):
    settings = {**SAVING, "max_steps": 2}
    make_trainer(**settings).train()
    resumed = make_trainer(**{**settings, **changed})
    resumed.model.register_forward_pre_hook(lambda *_: pytest.fail("it goes on"))
    message = rf"checkpoint-2 is of another training:\n  {difference}[\s\S]*start a new"
    with pytest.raises(ValueError, match=message):
        resumed.train(resume_from_checkpoint=True)


def test_a_model_that_computes_something_else_is_of_another_training(make_trainer, tmp_path):
    """Its weights fit, those of any number of heads."""
    settings = {**SAVING, "max_steps": 2}
    make_trainer(**settings).train()
    resumed = make_trainer(**settings)
    resumed.model.config.num_attention_heads = 4
    for checkpoint in (True, str(tmp_path / "output" / "checkpoint-1")):
        with pytest.raises(ValueError, match=r"of another training:\n  num_attention_heads: 2 there, 4 now\n"):
            resumed.train(resume_from_checkpoint=checkpoint)


def test_other_images_are_another_training(make_trainer, monkeypatch):
    settings = {**SAVING, "max_steps": 2}
    make_trainer(**settings).train()
    fewer, others = make_trainer(**settings), make_trainer(**settings)
    fewer.train_dataset.samples.images.pop()
    with pytest.raises(ValueError, match="training_images: 5 there, 4 now"):
        fewer.train(resume_from_checkpoint=True)
    monkeypatch.setattr(others.train_dataset.samples, "name", lambda index: f"other/{index}.png")
    with pytest.raises(ValueError, match="training_image_names_sha256"):
        others.train(resume_from_checkpoint=True)


def test_another_loss_and_another_augmentation_are_another_training(make_trainer):
    settings = {**SAVING, "max_steps": 2, "augmentation": AUGMENTATION}
    make_trainer(**settings).train()
    heavier = make_trainer(**settings)
    heavier.model.config.mask_weight = 7.0
    with pytest.raises(ValueError, match=r"  mask_weight: 5\.0 there, 7\.0 now"):
        heavier.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"  augmentation: true there, false now"):
        make_trainer(**{**settings, "augmentation": None}).train(resume_from_checkpoint=True)
    wider = {**settings, "augmentation": SegmentationAugmentation((64, 64), (0.1, 2.0), color_jitter=True)}
    with pytest.raises(ValueError, match=r"  scale_range: \[0\.5, 2\.0\] there, \[0\.1, 2\.0\] now"):
        make_trainer(**wider).train(resume_from_checkpoint=True)


def test_how_often_to_save_may_change(make_trainer, tmp_path, caplog):
    make_trainer(max_steps=6, save_strategy="steps", save_steps=3).train()
    (tmp_path / "output" / "checkpoint-6" / "trainer_state.json").unlink()
    comparing = logging.getLogger("transformers.trainer_utils")
    comparing.addHandler(caplog.handler)
    make_trainer(max_steps=6, save_strategy="steps", save_steps=1).train(resume_from_checkpoint=True)
    comparing.removeHandler(caplog.handler)
    assert "do not match" not in caplog.text  # they do not, and what was given is what happens
    names = sorted(folder.name for folder in (tmp_path / "output").iterdir())
    assert names == [f"checkpoint-{step}" for step in (3, 4, 5, 6)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    """As long as it was, and nothing of it."""
    path.write_bytes(bytes(path.stat().st_size))


def change_state(**values):
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def drop_a_weight(path: Path) -> None:
    weights = load_file(path)
    del weights["query.weight"]
    save_file(weights, path, metadata={"format": "pt"})


def spoil_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights["query.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def other_content(path: Path) -> None:
    torch.save({"anything": torch.zeros(3)}, path)


DAMAGES = [
    *((name, change, message)
      for name in ("model.safetensors", "trained_weights.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
      for change, message in ((cut, f"{name} is damaged"), (zero, f"{name} is damaged"),
                              (Path.unlink, f"{name} is missing"), (folder_instead, f"{name} is missing"))),
    ("model.safetensors", drop_a_weight, r"The model in .* cannot be used, 1 weights are missing: query\.weight"),
    ("model.safetensors", spoil_a_weight, r"The model in .* cannot be used, .* not finite.*query\.weight"),
    ("trained_weights.safetensors", drop_a_weight, r"The trained weights in .*missing or too many: query\.weight"),
    ("trained_weights.safetensors", spoil_a_weight, r"The trained weights in .*query\.weight is not finite"),
    ("optimizer.pt", other_content, "The state of optimizer or scheduler in .* cannot be used"),
    ("rng_state.pth", other_content, "The random state in .* cannot be used"),
    ("trainer_state.json", cut, r"trainer_state\.json is damaged"),
    ("trainer_state.json", lambda path: path.write_text("[" * 100_000), r"trainer_state\.json is damaged"),
    ("trainer_state.json", lambda path: path.write_text("[]"), r"trainer_state\.json is damaged, Expected `object`"),
    ("trainer_state.json", change_state(global_step="2"), r"Expected `int`, got `str` - at `\$.global_step`"),
    ("trainer_state.json", change_state(global_step=-1), r"at `\$.global_step`"),
    ("trainer_state.json", change_state(global_step=9), "is at step 9 of 4"),
    ("trainer_state.json", change_state(global_step=3), r"scheduler .* is after step 2, while .* is after step 3"),
    ("trainer_state.json", change_state(log_history=[1]), r"at `\$.log_history\[0\]`"),
    ("trainer_state.json", change_state(stateful_callbacks=[]), r"at `\$.stateful_callbacks`"),
    ("trainer_state.json", change_state(train_batch_size=None), r"at `\$.train_batch_size`"),
    ("trainer_state.json", change_state(mood="good"), "has 'mood', which this version of Transformers does not know"),
    ("training_settings.json", cut, r"training_settings\.json is damaged"),
    ("training_settings.json", lambda path: path.write_text("{}"), r"training_settings\.json is damaged, .*processes"),
]  # fmt: skip


def test_a_damaged_checkpoint_is_an_error_that_names_the_file_before_the_first_step(make_trainer, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "ema_decay": 0.9}
    make_trainer(**settings).train()
    checkpoint = tmp_path / "output" / "checkpoint-2"
    shutil.move(checkpoint, tmp_path / "good")
    trainer = make_trainer(**settings)
    trainer.model.register_forward_pre_hook(lambda *_: pytest.fail("it goes on"))
    for name, change, message in DAMAGES:
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.copytree(tmp_path / "good", checkpoint)
        change(checkpoint / name)
        with pytest.raises(ValueError, match=message) as error:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        assert str(checkpoint) in str(error.value), (name, change)


def test_a_checkpoint_of_the_weights_alone_is_not_resumed_from(make_trainer):
    make_trainer(**SAVING, max_steps=2, save_only_model=True).train()
    with pytest.raises(ValueError, match=r"optimizer\.pt is missing"):
        make_trainer(**SAVING, max_steps=2).train(resume_from_checkpoint=True)


def test_a_checkpoint_that_does_not_say_of_which_training_it_is_is_spoken_of(make_trainer, tmp_path, caplog):
    settings = {**SAVING, "max_steps": 2}
    make_trainer(**settings).train()
    for checkpoint in (tmp_path / "output").iterdir():
        (checkpoint / "training_settings.json").unlink()
    comparison.logger.addHandler(caplog.handler)
    make_trainer(**settings).train(resume_from_checkpoint=True)
    comparison.logger.removeHandler(caplog.handler)
    assert "training_settings.json is missing" in caplog.text and "2 steps long" in caplog.text
    with pytest.raises(ValueError, match="steps: 2 there, 3 now"):
        make_trainer(**{**settings, "max_steps": 3}).train(resume_from_checkpoint=True)


def test_random_states_of_another_number_of_processes_are_spoken_of(make_trainer, tmp_path, caplog):
    settings = {**SAVING, "max_steps": 2}
    make_trainer(**settings).train()
    checkpoint = tmp_path / "output" / "checkpoint-1"
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    shutil.copyfile(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    change_state(processes=2)(checkpoint / "training_settings.json")
    checkpoints.logger.addHandler(caplog.handler)
    make_trainer(**settings).train(resume_from_checkpoint=str(checkpoint))
    checkpoints.logger.removeHandler(caplog.handler)
    assert "was written by 2 processes and goes on with 1" in caplog.text


def test_a_disk_that_is_full_names_the_last_complete_checkpoint(make_trainer, full_disk, tmp_path):
    trainer = make_trainer(**SAVING, max_steps=3)
    save = trainer._save_optimizer_and_scheduler

    def save_where_there_is_no_room(folder: str) -> None:
        with full_disk() if folder.endswith("checkpoint-2") else nullcontext():
            save(folder)

    trainer._save_optimizer_and_scheduler = save_where_there_is_no_room
    with pytest.raises(OSError, match=r"checkpoint-2 cannot be written: .*checkpoint-1 is the last complete one"):
        trainer.train()
    assert [folder.name for folder in (tmp_path / "output").iterdir()] == ["checkpoint-1"]


def test_a_saved_model_replaces_the_former_one_as_a_whole(make_trainer, tmp_path):
    output = tmp_path / "output"
    trainer = make_trainer()
    trainer.save_model()
    card = output / "README.md"
    assert f'model="{output}"' in card.read_text() and not (output / ".draft").exists()
    (output / "model-00001-of-00002.safetensors").write_text("of a former model")
    card.write_text("# Mine\n")
    write = trainer._write_model

    def killed_at_the_end(folder):
        write(folder)
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in output.iterdir()}
    trainer._write_model = killed_at_the_end
    with torch.no_grad():
        trainer.model.query.weight.add_(1)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_model()
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    trainer._write_model = write
    trainer.save_model()
    assert card.read_text() == "# Mine\n" and not (output / "model-00001-of-00002.safetensors").exists()
    assert_same_weights(EomtForUniversalSegmentation.from_pretrained(output), trainer.model)


def test_files_have_the_mode_that_the_umask_asks_for(make_trainer, tmp_path):
    before = os.umask(0o027)
    try:
        trainer = make_trainer(**SAVING, max_steps=1, ema_decay=0.9)
        trainer.train()
        trainer.save_model()
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "output").rglob("*")}
    assert {name: mode for name, mode in modes.items() if mode != "0o640"} == {"checkpoint-1": "0o750"}

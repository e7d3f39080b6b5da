"""The steps are trained alike, and a set of runs that was stopped goes on."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import pretraining, stepwise_training
from benchmarks.camvid import VOID


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """One width, one seed and the two ends, two steps each; returns the folder of a CamVid of noise."""
    monkeypatch.setattr(stepwise_training, "WIDTHS", (32,))
    monkeypatch.setattr(stepwise_training, "SEEDS", (0,))
    monkeypatch.setattr(stepwise_training, "MIDDLE", 32)
    monkeypatch.setattr(stepwise_training, "STEPS", {step: stepwise_training.STEPS[step] for step in (0, 5)})
    monkeypatch.setitem(stepwise_training.VIT, "num_hidden_layers", 4)
    monkeypatch.setitem(stepwise_training.OPTIMISER, "per_device_train_batch_size", 2)
    for name in ("num_train", "num_validation"):
        monkeypatch.setitem(stepwise_training.SHAPES, name, 2)
    for settings in stepwise_training.TRAINING.values():
        monkeypatch.setitem(settings, "max_steps", 2)
        monkeypatch.setitem(settings, "image_size", 64)
    for name, value in {"CURVE_POINTS": 2, "LOSS_POINTS": 2, "ROUNDS": 2}.items():
        monkeypatch.setattr(stepwise_training, name, value)
    for name, value in {"NUM_TRAIN": 4, "NUM_VALIDATION": 2, "BATCH_SIZE": 2, "MAX_STEPS": 2}.items():
        monkeypatch.setattr(pretraining, name, value)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder, shape in (("images", (48, 64, 3)), ("masks", (48, 64))):
            (tmp_path / "camvid" / split / folder).mkdir(parents=True)
            values = rng.integers(0, VOID + 1, shape, dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / "camvid" / split / folder / "0.png")
    return tmp_path / "camvid"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["stepwise_training", *map(str, words)])
    stepwise_training.main()


@pytest.mark.slow
def test_a_set_that_was_stopped_goes_on_where_it_was(monkeypatch, tmp_path, tiny, capsys):
    output = tmp_path / "results" / "training.json"
    words = "--work", tmp_path / "work", "--camvid", tiny, "--output", output
    train, trained = stepwise_training.train, []

    def train_until(number):
        def call(run, model, *others):
            if len(trained) == number:
                raise KeyboardInterrupt
            trained.append((run["data"], run["step"], run["pretrained"]))
            assert model.mask_probabilities == [float(run["step"] == 0)] * model.config.num_blocks
            return train(run, model, *others)

        return call

    monkeypatch.setattr(stepwise_training, "train", train_until(2))
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *words)
    assert [each["step"] for each in json.loads(output.read_text())["runs"]] == [0, 5]
    monkeypatch.setattr(stepwise_training, "train", train_until(None))
    run(monkeypatch, *words)

    shapes, camvid = [("shapes", 0, False), ("shapes", 5, False)], [("camvid", 0, False), ("camvid", 5, False)]
    assert trained == [*shapes, ("shapes", 0, True), ("shapes", 5, True), *camvid]
    results = json.loads(output.read_text())
    for each in results["runs"]:
        headline = stepwise_training.HEADLINE[each["data"]]
        assert 0 <= each[headline] <= 1 and each["step_seconds"] > 0
        assert [point["step"] for point in each["evaluations"]] == [1, 2]
        assert each["evaluations"][-1][headline] == each[headline]
        assert all(0 < entry["last_loss"] < entry["loss"] for entry in each["losses"])
    whole, plain = (results["inference"]["shapes 32"][step] for step in ("0", "5"))
    assert whole["parameters"] > plain["parameters"] and whole["multiply_adds"] > plain["multiply_adds"]
    assert 0 <= results["pretraining"]["32 seed 0"]["accuracy"] <= 1
    table = capsys.readouterr().out.rpartition("| data, width")[2].splitlines()
    assert len(table) == 2 + len(trained) and "shapes, 32, pre-trained" in table[4]
    assert Image.open(output.with_suffix(".png")).width > 300


def test_runs_with_other_settings_are_not_mixed(monkeypatch, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"settings": {"learning_rate": 1.0}, "runs": []}))
    with pytest.raises(ValueError, match="other settings"):
        run(monkeypatch, "--output", tmp_path / "training.json")


def test_pretraining_changes_the_vit_that_is_copied(tmp_path, tiny):
    vit = stepwise_training.build_model("shapes", 32, 5, {0: "unused"})
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    figures = pretraining.pretrain(vit, tmp_path, 64, seed=0)
    assert figures["steps"] == 2 and 0 < figures["always_yes"] <= 1
    target = stepwise_training.build_model("shapes", 32, 0, {0: "unused"})
    pretraining.copy_vit(vit, target)
    for name, value in vit.state_dict().items():
        if name.startswith(pretraining.VIT_PARTS):
            assert torch.equal(target.state_dict()[name], value)
            # A linear layer's share of AdamW's first steps is as long as the learning rate.
            assert torch.equal(before[name], value) == (name == "embeddings.register_tokens")
        else:
            assert torch.equal(before[name], value)

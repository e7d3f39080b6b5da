"""Predictions that were made differently are not mixed."""

import pytest
import torch

from training_eomt.prediction.run_settings import check_settings, hash_weights
from training_eomt.prediction.shared_folder import SharedFolder


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 90, b'{"a": ' + b"[" * 100_000])
def test_a_folder_whose_run_is_not_known_is_refused_by_name_unless_nothing_is_in_it(tmp_path, content):
    run, folder = {"task": "panoptic"}, SharedFolder(tmp_path, "0-of-1")
    check_settings(folder, run)
    (tmp_path / "run.json").write_bytes(content)
    check_settings(folder, run)  # nothing was predicted yet: written again
    check_settings(folder, run)
    folder.write_text("records/a/b.png.json", ["{}"])
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged.* Choose another folder, or remove"):
        check_settings(folder, run)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        check_settings(folder, run)


def test_a_folder_of_other_predictions_is_refused_with_what_differs(tmp_path):
    folder = SharedFolder(tmp_path / "out", "0-of-1")
    run = {"task": "panoptic", "model": {"size": [64, 64], "id2label": {0: "cat"}}}
    check_settings(folder, run)
    check_settings(folder, run)
    with pytest.raises(ValueError, match="out holds predictions") as error:
        check_settings(folder, {"task": "panoptic", "model": {"size": [32, 64], "new": True}})
    lines = str(error.value).splitlines()[1:-1]
    assert lines == [
        '  model.id2label.0: "cat" there, null now',
        "  model.new: null there, true now",
        "  model.size: [64, 64] there, [32, 64] now",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hash_is_that_of_every_weight(dtype):
    def model(seed, change=0.0):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(dtype)
        model[1].bias.data[1] += change
        return model

    assert hash_weights(model(0)) == hash_weights(model(0))
    assert len({hash_weights(m) for m in (model(0), model(1), model(0, 1.0), model(0).double())}) == 4

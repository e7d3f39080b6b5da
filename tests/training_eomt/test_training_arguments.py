"""A training is described without arithmetic."""

import pickle

import pytest
import torch

from training_eomt.training_arguments import EomtTrainingArguments, _cores_per_process


@pytest.fixture
def make(tmp_path):
    def make(**settings):
        return EomtTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)

    return make


@pytest.mark.parametrize(
    ("total", "fits", "expected"),
    [(16, 8, (8, 2)), (16, 16, (16, 1)), (16, 5, (4, 4)), (7, 4, (1, 7)), (2, 8, (2, 1))],
)
def test_a_total_batch_is_accumulated_where_it_does_not_fit(make, total, fits, expected):
    arguments = make(total_batch_size=total, per_device_train_batch_size=fits)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"total_batch_size": 0}, "cannot be shared evenly"),
        ({"total_batch_size": 8, "gradient_accumulation_steps": 2}, "leave out gradient_accumulation_steps"),
        ({"mask_annealing_starts": [0.1]}, "go together"),
        ({"ema_decay": 1.0}, "between 0 and 1"),
        ({"freeze_layers": -1}, "cannot be negative"),
    ],
)
def test_what_cannot_be_is_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_seed": 3}, "seed also decides"),
        ({"warmup_steps": 10}, "new_parameters_warmup_steps"),
        ({"lr_scheduler_type": "cosine"}, "poly_power"),
        ({"label_smoothing_factor": 0.1}, "no smoothed labels"),
        ({"report_to": "weather"}, "report_to=weather: there is no such tracker.* tensorboard"),
        ({"log_level": "loud"}, "log_level is 'loud': it must be one of .*warning"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        EomtTrainingArguments(**{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, **settings})


def test_the_hubs_token_is_used_and_never_written(make, tmp_path):
    arguments = make(hub_token="hf_secret")
    assert arguments.hub_token == "hf_secret"
    torch.save(arguments, tmp_path / "training_args.bin")  # as the Trainer does
    assert b"hf_secret" not in (tmp_path / "training_args.bin").read_bytes()
    again = pickle.loads(pickle.dumps(arguments))
    assert again.hub_token is None and again.learning_rate == arguments.learning_rate
    for text in (str(arguments), repr(arguments), arguments.to_json_string(), str(arguments.to_sanitized_dict())):
        assert "hf_secret" not in text


def test_a_training_is_logged_a_hundred_times_and_evaluated_as_it_is_saved_where_the_best_is_kept(make):
    assert (make().logging_steps, make().eval_strategy, make().evaluates_by_default) == (0.01, "no", True)
    assert not make(eval_strategy="no").evaluates_by_default
    assert make(eval_strategy="steps").eval_steps == 500  # not a hundred times
    assert make(eval_steps=20).eval_strategy == "steps"
    best = make(load_best_model_at_end=True, save_steps=20)
    assert (best.eval_strategy, best.eval_steps, best.evaluates_by_default) == ("steps", 20, False)
    assert make(load_best_model_at_end=True, save_strategy="epoch").eval_strategy == "epoch"


def test_a_total_batch_has_to_be_shared_evenly_by_the_devices(make, monkeypatch):
    monkeypatch.setattr(EomtTrainingArguments, "world_size", 3)
    arguments = make(total_batch_size=12, per_device_train_batch_size=4)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 1)
    with pytest.raises(ValueError, match="total_batch_size=16 cannot be shared evenly by 3 devices"):
        make(total_batch_size=16)


def test_annealing_is_given_in_steps_or_fractions_of_training(make):
    arguments = make(mask_annealing_starts=[0, 0.5], mask_annealing_ends=[3000, 0.75])
    assert arguments.annealing_schedule(40000, 2) == ([0, 20000], [3000, 30000])
    arguments = make(mask_annealing_starts=[0, 0.5], mask_annealing_ends=[0.5, 1.0])
    assert arguments.annealing_schedule(40000, 2) == ([0, 20000], [20000, 40000])
    with pytest.raises(ValueError, match="has 3 query blocks"):
        arguments.annealing_schedule(40000, 3)
    assert make().annealing_schedule(600, 4) == ([100, 200, 300, 400], [200, 300, 400, 500])


def test_processes_that_prepare_images_share_the_cores(make, monkeypatch):
    assert make().dataloader_num_workers == 0  # on a CPU
    assert make(dataloader_num_workers=3).dataloader_num_workers == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(12), raising=False)
    assert _cores_per_process(at_most=8) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert _cores_per_process(at_most=8) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert _cores_per_process(at_most=8) == 1

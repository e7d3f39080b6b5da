"""What nobody said is decided well, and what is odd is said."""

from types import SimpleNamespace

import pytest
from transformers import TrainerState

from training_eomt.script.decisions import count_steps, find_last_evaluation, find_odd_settings, schedule_evaluations
from training_eomt.training_arguments import EomtTrainingArguments


@pytest.fixture
def make(tmp_path):
    def make(**settings):
        return EomtTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)

    return make


def trainer_of(arguments, num_samples=100, num_queries=8, probabilities=(0.0,), **others):
    config = SimpleNamespace(num_queries=num_queries, num_blocks=2)
    model = SimpleNamespace(config=config, mask_probabilities=list(probabilities))
    return SimpleNamespace(args=arguments, bare_model=model, train_dataset=range(num_samples), **others)


def test_steps_follow_from_epochs_of_whole_batches(make):
    assert count_steps(make(num_train_epochs=3, per_device_train_batch_size=8), 100) == 3 * 12
    assert count_steps(make(num_train_epochs=3, total_batch_size=16, per_device_train_batch_size=4), 100) == 3 * 6
    assert count_steps(make(num_train_epochs=3), 5) == 3
    assert count_steps(make(max_steps=7), 100) == 7


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_train_epochs": 20}, ("epoch", None)),
        ({"num_train_epochs": 21}, ("steps", 0.05)),
        ({"max_steps": 400, "per_device_train_batch_size": 2}, ("epoch", None)),
        ({"max_steps": 4000, "per_device_train_batch_size": 2}, ("steps", 0.05)),
    ],
)
def test_it_is_evaluated_after_each_epoch_and_twenty_times_at_most(make, settings, expected):
    arguments = make(**settings)
    schedule_evaluations(arguments, 100)
    assert (arguments.eval_strategy, arguments.eval_steps) == expected


def evaluated(arguments, step=10, of=10, best=None, per_class=True, **settings):
    state = TrainerState(global_step=of, best_global_step=best)
    state.log_history = [{"loss": 1.0, "step": 10}, {"eval_loss": 0.5, "eval_pq": 0.3, "epoch": 1.0, "step": step}]
    return find_last_evaluation(trainer_of(arguments, state=state, per_class={0: {}} if per_class else {}, **settings))


def test_the_same_weights_are_not_measured_twice_and_others_are(make):
    measured = {"eval_loss": 0.5, "eval_pq": 0.3, "epoch": 1.0}
    assert evaluated(make()) == measured
    assert evaluated(make(), step=8) == {}  # the training went on
    assert evaluated(make(), per_class=False) == {}  # it was another process that measured
    assert evaluated(make(), probabilities=(0.0, 0.3)) == {}  # during training it is measured without masks
    best = {"load_best_model_at_end": True, "save_strategy": "epoch"}
    assert evaluated(make(**best), best=5) == {}
    assert evaluated(make(**best), best=10) == measured


def odd(arguments, counts=None, **settings):
    return find_odd_settings(trainer_of(arguments, **settings), {"train": {"pictures_by_segments": counts or {3: 10}}})


def test_usual_settings_are_not_spoken_of(make):
    assert odd(make(), {0: 1, 8: 3}) == []
    assert odd(make(max_steps=1), {0: 1, 8: 3}) == []


def test_more_segments_than_queries_are_spoken_of(make):
    (line,) = odd(make(), {3: 1, 6: 2, 9: 1}, num_queries=5)
    assert line.startswith("75.0% of the training images have more segments than the 5") and "up to 9" in line


def test_masks_that_are_left_at_the_end_are_spoken_of(make):
    annealing = {"mask_annealing_starts": [0, 10], "mask_annealing_ends": [10, 30]}
    (line,) = odd(make(max_steps=20, **annealing))
    assert "Masks are left when the training ends after 20 steps" in line and "[10, 30]" in line
    assert "0.00, 0.54" in line  # half of the way: (1 - 0.5) ** 0.9
    assert odd(make(max_steps=30, **annealing)) == []


def test_a_warm_up_longer_than_the_training_is_spoken_of(make):
    (line,) = odd(make(max_steps=100, new_parameters_warmup_steps=50, backbone_warmup_steps=60))
    assert line == "The warm-up takes 110 steps, more than the 100 of the whole training."

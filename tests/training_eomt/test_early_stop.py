"""A training ends when it gets no better, and not before masks are gone."""

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from training_eomt.early_stop import EarlyStop
from training_eomt.training_arguments import EomtTrainingArguments


@pytest.fixture
def stops(tmp_path):
    """Whether a training ends, given its evaluations by step."""

    def stops(values: dict[int, float], **settings):
        settings = {"eval_strategy": "epoch", "metric_for_best_model": "pq", "mask_annealing": False, **settings}
        arguments = EomtTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)
        state = TrainerState(max_steps=60)
        name = f"eval_{settings['metric_for_best_model']}"
        state.log_history = [{"loss": 1.0, "step": 1}, *({name: value, "step": s} for s, value in values.items())]
        control = TrainerControl()
        model = SimpleNamespace(config=SimpleNamespace(num_blocks=2))
        EarlyStop(2).on_evaluate(arguments, state, control, model=model)
        return control.should_training_stop

    return stops


def test_it_ends_after_so_many_evaluations_without_a_better_one(stops):
    assert not stops({1: 0.5, 2: 0.4})
    assert stops({1: 0.5, 2: 0.4, 3: 0.5})  # as good is not better
    assert not stops({1: 0.5, 2: 0.4, 3: 0.6})
    assert stops({1: 0.1, 2: 0.6, 3: 0.2, 4: 0.3})


def test_a_loss_is_better_when_it_is_less(stops):
    assert stops({1: 0.5, 2: 0.6, 3: 0.7}, metric_for_best_model="loss")
    assert not stops({1: 0.7, 2: 0.6, 3: 0.5}, metric_for_best_model="loss")


def test_evaluations_count_from_when_no_masks_are_left(stops):
    falling = {step: 1 - step / 60 for step in range(10, 70, 10)}  # masks are gone at 5/6 of 60 steps
    assert not stops(falling, mask_annealing=True)
    assert stops(falling, mask_annealing=True, mask_annealing_starts=[0, 0], mask_annealing_ends=[10, 20])


def test_it_needs_evaluations(tmp_path):
    arguments = EomtTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match="early_stopping_patience counts evaluations"):
        EarlyStop(1).on_train_begin(arguments, TrainerState(), TrainerControl())

"""What a training says is short and readable."""

from types import SimpleNamespace

from transformers import TrainerState

from training_eomt.progress import log_line, tensorboard_writer


STATE = TrainerState(global_step=7, max_steps=90)


def test_a_training_step_is_one_line_with_its_loss_terms():
    logs = {
        "loss": 12.3456,
        "loss_mask": 0.5,
        "loss_dice": 0.25,
        "loss_cross_entropy": 1.0,
        "loss_mask_0": 9.0,
        "grad_norm": 3.0,
        "learning_rate": 0.0,
        "learning_rate_new": 1e-4,
        "mask_probability_0": 0.5,
        "mask_probability_1": 1.0,
    }
    assert log_line(STATE, logs) == (
        "step 7/90  loss 12.346  (mask 0.500, dice 0.250, class 1.000)  gradient 3.00  rate 1.00e-04  masks 0.50 1.00"
    )


def test_an_evaluation_is_one_line_with_its_figures():
    logs = {"eval_pq": 0.5, "eval_loss": 2.0, "eval_runtime": 1.0, "eval_samples_per_second": 3.0, "epoch": 1.0}
    assert log_line(STATE, logs) == "step 7/90  evaluation: pq 0.500  loss 2.000"
    assert log_line(STATE, {**logs, "eval_pq_stuff": float("nan")}) == log_line(STATE, logs)  # there is no stuff


def test_what_says_nothing_is_left_out():
    assert log_line(STATE, {"train_runtime": 3.0, "epoch": 1.0}) is None


def test_the_writer_is_that_of_the_tensorboard_callback():
    callbacks = [SimpleNamespace(), SimpleNamespace(tb_writer=None), SimpleNamespace(tb_writer="writer")]
    assert tensorboard_writer(SimpleNamespace(callbacks=callbacks)) == "writer"
    assert tensorboard_writer(SimpleNamespace(callbacks=callbacks[:2])) is None

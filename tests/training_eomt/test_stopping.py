"""A signal ends a training after its step, with a checkpoint from which it goes on as if it had never been stopped."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState

from training_eomt import stopping
from training_eomt.shapes import generate_shapes_dataset
from training_eomt.stopping import EarlyStop, Stopped
from training_eomt.training_arguments import EomtTrainingArguments


ROOT = Path(__file__).resolve().parents[2]


class SignalAt(TrainerCallback):
    """This process gets signals when a step begins, in its middle as far as the loop is concerned."""

    def __init__(self, step, *numbers):
        self.step, self.numbers = step, numbers

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "status", "step"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 3), (signal.SIGTERM, 143, 4)]
)
def test_the_step_is_finished_and_the_training_goes_on_from_there(make_trainer, tmp_path, capfd, number, status, step):
    """In the middle of an epoch, at its end, which is evaluated first, and in the last step."""
    settings = {"max_steps": 4, "per_device_train_batch_size": 1, "eval_strategy": "steps", "eval_steps": 2}
    settings |= {"learning_rate": 1e-2, "save_strategy": "no", "ema_decay": 0.9}
    whole = make_trainer(**settings)
    whole.train()
    stopped = make_trainer(**settings)
    stopped.add_callback(SignalAt(step, number))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped, match=rf"stopped after step {step} of 4.*--resume_from_checkpoint true") as raised:
        stopped.train()
    assert raised.value.exit_status == status
    assert "the step is finished and a checkpoint is written. Once more stops at once" in capfd.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert [folder.name for folder in (tmp_path / "output").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    for (name, parameter), expected in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert parameter.equal(expected), name
    measured = [
        [(entry["step"], entry["eval_pq"]) for entry in trainer.state.log_history if "eval_pq" in entry]
        for trainer in (whole, resumed)
    ]
    assert measured[0] == measured[1] and len(measured[0]) == 2


def test_what_belongs_to_the_end_of_an_epoch_is_done_before(make_trainer):
    settings = {"max_steps": 4, "eval_strategy": "epoch", "save_strategy": "no"}
    stopped = make_trainer(**settings)  # an epoch is two steps
    stopped.add_callback(SignalAt(2, signal.SIGTERM))
    with pytest.raises(Stopped, match="after step 2 of 4"):
        stopped.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in resumed.state.log_history if "eval_pq" in entry] == [2, 4]


def test_a_launcher_may_send_it_twice_and_a_person_who_does_does_not_wait(make_trainer, tmp_path, monkeypatch):
    stopped = make_trainer(max_steps=3)
    stopped.add_callback(SignalAt(1, signal.SIGINT, signal.SIGINT))
    with pytest.raises(Stopped, match="after step 1 of 3"):
        stopped.train()
    monkeypatch.setattr(stopping, "_ONE_REQUEST", 0)
    stopped = make_trainer(max_steps=3, output_dir=str(tmp_path / "other"))
    stopped.add_callback(SignalAt(1, signal.SIGINT, signal.SIGTERM))
    with pytest.raises(Stopped, match="from the last checkpoint, if there is one") as raised:
        stopped.train()
    assert raised.value.exit_status == 143 and not list((tmp_path / "other").glob("checkpoint-*"))


def test_in_an_evaluation_it_is_at_once(make_trainer, tmp_path):
    stopped = make_trainer(max_steps=3, eval_strategy="steps", eval_steps=1)
    stopped.model.register_forward_pre_hook(
        lambda model, _: None if model.training else os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(Stopped, match="from the last checkpoint, if there is one"):
        stopped.train()
    assert not list((tmp_path / "output").glob("checkpoint-*"))


def test_processes_that_prepare_data_leave_it_to_the_training(make_trainer):
    """A terminal sends SIGINT to all of them, and a scheduler SIGTERM."""
    trainer = make_trainer(max_steps=3, dataloader_num_workers=1)
    pids = []

    class ToTheWorkers(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            children = [child.pid for child in multiprocessing.active_children()]
            pids.extend(children)
            for pid in children:
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)

    trainer.add_callback(ToTheWorkers())
    trainer.train()
    assert pids and trainer.state.global_step == 3


def test_in_a_thread_signals_are_left_to_others(make_trainer):
    trainer, before = make_trainer(max_steps=1), signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 1 and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_a_command_that_is_stopped_says_how_to_go_on_and_ends_with_the_signals_status(tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 4, 0, 0, image_size=32)
    model = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_blocks": 1,
        "train_num_points": 16,
    }
    arguments = {
        "train_data": data / "train", "output_dir": tmp_path / "output", "image_size": 32, "max_steps": 5000,
        "model_config": json.dumps(model), "logging_steps": 1, "use_cpu": "true", "report_to": "none",
        "disable_tqdm": "true",
    }  # fmt: skip
    words = [str(word) for name, value in arguments.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-u", "run_segmentation.py", "--do_train", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step 2/"):
            break
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert re.fullmatch(
        r"stopped after step \d+ of 5000, and a checkpoint is written: --resume_from_checkpoint true goes on from.*",
        said.strip().splitlines()[-1],
    )
    assert "Traceback" not in said


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

"""What ends a training before its last step: a signal, with a checkpoint, or evaluations that get no better."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_REQUEST = 1.0  # seconds: a launcher passes on what the terminal has sent to all of its processes already


class Stopped(KeyboardInterrupt):
    """A signal has ended the work.

    Args:
        number: the signal.
        message: for the user.

    Attributes:
        exit_status: what a shell expects of a process that the signal ended, 130 or 143.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


def _stop_now(number: int, frame: Any = None) -> None:
    raise Stopped(number, "stopped: --resume_from_checkpoint true goes on from the last checkpoint, if there is one")


def answer_sigterm() -> None:
    """Makes SIGTERM end a run as SIGINT does, with a message; for the main thread of a command."""
    signal.signal(signal.SIGTERM, _stop_now)


class StopRequest(TrainerCallback):
    """Ends a training after a step when a signal asks for it, with a checkpoint; it must come after other callbacks.

    During a step a signal is noted; at the end of the step, or of the epoch if they coincide, a checkpoint is written
    and [`Stopped`] is raised. Outside of steps, in an evaluation or while a checkpoint is loaded, and at a second
    signal, it is raised at once.

    Attributes:
        number: the signal that this process got, None if there was none.
        is_agreed: whether all processes know that one of them got a signal, and stop after this step. Whoever trains
            with several processes sets it, at the same step in all of them.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_agreed = False
        self._requested_at = 0.0
        self._is_waiting_for_save = False
        self._stops_at_once = True

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handles signals as described above, in the main thread; others cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.number, self.is_agreed, self._is_waiting_for_save, self._stops_at_once = None, False, False, True
        former = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield
            if self.number is not None:
                raise Stopped(self.number, "stopped: the training is finished. --resume_from_checkpoint true goes on.")
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self._stops_at_once or self.number is not None:
            if self.number is not None and time.monotonic() - self._requested_at < _ONE_REQUEST:
                return
            _stop_now(number)
        self.number, self._requested_at = number, time.monotonic()
        if os.environ.get("RANK", "0") == "0":
            # Not `print`: the signal may have come in the middle of one.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _FINISHING.encode())

    @contextmanager
    def stop_at_once(self) -> Iterator[None]:
        """Raises [`Stopped`] at once for a signal: no step is under way."""
        before, self._stops_at_once = self._stops_at_once, True
        try:
            yield
        finally:
            self._stops_at_once = before

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._stops_at_once = False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.epoch != int(state.epoch or 0):  # else there may be more to do for this epoch
            self._save_if_asked(args, control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._save_if_asked(args, control)

    def _save_if_asked(self, args: Any, control: TrainerControl) -> None:
        if self.is_agreed or (self.number is not None and args.world_size == 1):
            self._is_waiting_for_save = control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._is_waiting_for_save:
            raise Stopped(
                self.number or signal.SIGTERM,
                f"stopped after step {state.global_step} of {state.max_steps}, and a checkpoint is written: "
                "--resume_from_checkpoint true goes on from there",
            )

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._stops_at_once = True


_FINISHING = "\nStopping: the step is finished and a checkpoint is written. Once more stops at once.\n"


def ignore_signals(worker: int) -> None:
    """Makes a process that loads data ignore signals, which a terminal sends to all processes; its parent ends it."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class EarlyStop(TrainerCallback):
    """
    Ends a training after so many evaluations in a row of which none was better than the best before them.

    Evaluations count from when no masks are left in training: what is measured is a model without. Everything is read
    off the log, so a training that was stopped and resumed ends at the same step.

    Args:
        patience: number of evaluations.

    Raises:
        ValueError: at the beginning of a training that is not evaluated.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.eval_strategy == "no":
            raise ValueError("early_stopping_patience counts evaluations, and eval_strategy is no: give another.")

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        first_step = 0
        if args.mask_annealing:
            num_blocks = getattr(model, "module", model).config.num_blocks
            first_step = max(args.annealing_schedule(state.max_steps, num_blocks)[1])
        sign = 1 if args.greater_is_better else -1
        values = [sign * entry[name] for entry in state.log_history if name in entry and entry["step"] >= first_step]
        if len(values) > self.patience and max(values[-self.patience :]) <= max(values[: -self.patience]):
            control.should_training_stop = True

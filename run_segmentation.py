#!/usr/bin/env python
"""Trains, evaluates and applies EoMT on your own images: the one command.

    python run_segmentation.py --recipe recipes/shapes_demo.yaml --do_train --do_eval --do_predict

A recipe is a YAML file of arguments; arguments of the command line come on top. `--help` lists those that
most need, `--help_all` all of them.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

from training_eomt.script.arguments import ScriptArguments
from training_eomt.script.checks import check_arguments
from training_eomt.script.command_line import complete_arguments, parse_arguments, read_arguments
from training_eomt.script.error_lines import describe_error, escape_lines, warn


# Nothing above needs torch: a mistake in the arguments is reported before the seconds that importing it takes.

__all__ = ["command", "main", "parse_arguments"]


def main(arguments: ScriptArguments) -> dict[str, float]:
    """Runs what the arguments ask for, and returns the metrics of the evaluation."""
    check_arguments(*arguments)
    from training_eomt.script.run import run

    return run(arguments)


def command(words: Sequence[str] | None = None, prog: str | None = None) -> None:
    """
    The console command: runs what the command line asks for, and ends in a line where that is not possible.

    Args:
        words: of the command line. Default: of this process.
        prog: what the help calls the command. Default: the program.
    """
    trackers: list[str] = []
    handler = signal.getsignal(signal.SIGTERM)
    # Transformers imports torchao if it is installed, which warns of things that nobody here can change.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    try:
        arguments = read_arguments(sys.argv[1:] if words is None else words, prog)
        check_arguments(arguments.model, arguments.data, arguments.training)
        if os.environ.get("RANK", "0") == "0":
            for warning in arguments.warnings:
                warn(warning)
        completed = complete_arguments(arguments)
        trackers = completed[2].report_to
        from training_eomt.stopping import answer_sigterm

        answer_sigterm()
        main(completed)
        leave_the_others()
    except KeyboardInterrupt as stop:
        _ignore_sigterm()
        message = "stopped: --resume_from_checkpoint true goes on from the last checkpoint, if there is one"
        print(f"\n{str(stop) or message}", file=sys.stderr)
        sys.exit(getattr(stop, "exit_status", 130))
    except Exception as error:
        _ignore_sigterm()
        line = describe_error(error, trackers)
        if line is None:
            raise
        # On a line of its own, below a progress bar; at once, before other processes notice that this one is gone.
        print(f"\nerror: {escape_lines(line)}", file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, handler)


def _ignore_sigterm() -> None:
    """Lets a process say why it ends: a launcher sends the signal to all that are left when one of them fails."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leave_the_others() -> None:
    """Ends the connection of several processes."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # PyTorch 2.6 waits for ever for a gloo thread that still has to let go of its last tensor: let it.
        time.sleep(0.5)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    command()

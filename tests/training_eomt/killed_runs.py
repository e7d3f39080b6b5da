"""What the processes of `test_kill_and_resume.py` run: the command, which kills itself at a file operation."""

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

import run_segmentation


# Imported once, in the process that others are forked from; the command imports them where it uses them.
for name in ("script.run", "checkpoints"):
    importlib.import_module(f"training_eomt.{name}")

# What Python does with files, as it tells `sys.addaudithook`.
_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "os.truncate", "os.chmod")


def run(
    words: list[str], folders: tuple[str, ...], log: str, kill_at: int | None, environment: dict[str, str]
) -> None:
    """
    Runs the command, and kills this process before one of its operations on files.

    Args:
        words: the command line.
        folders: whose files count: what is read in the middle of steps, and what is written after them.
        log: a file for what is printed, and in its last line the number of operations.
        kill_at: which of them is the last, the first being 1; None for an undisturbed run.
        environment: variables, which of how many processes this is among them.
    """
    os.environ |= environment
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    operations = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal operations
        if event in _FILE_EVENTS and str(arguments[0]).startswith(folders):
            operations += 1
            if operations == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        run_segmentation.main(run_segmentation.parse_arguments(words))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    Path(f"{log}.operations").write_text(str(operations))
    os._exit(0)

"""Runs the commands of the pages, each at the size that its stand-ins have.

A command of the project runs in this process: its function is given the words of the page. What can only be checked is
said where it is done.
"""

import re
import runpy
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import setuptools
from accelerate.commands.launch import launch_command_parser
from packaging.requirements import Requirement
from page_blocks import ROOT
from page_stand_ins import provide, provide_on_the_hub
from torch.distributed.run import get_args_parser

import run_segmentation
from deployment_eomt import __main__ as deployment
from eomt_transformers.command import main as eomt
from modeling_eomt import convert_official
from training_eomt.publishing import __main__ as publishing
from training_eomt.script.checks import check_arguments
from training_eomt.script.command_line import read_arguments


# At the end of each training: two steps on a CPU, whatever the page and its recipes say about length and machine.
SMALL = {
    "max_steps": "2",
    "image_size": "64",
    "total_batch_size": "2",
    "per_device_train_batch_size": "2",
    "use_cpu": "true",
    "bf16": "false",
    "fp16": "false",
    "dataloader_num_workers": "0",
    "disable_tqdm": "true",
}
# What "..." stands for in a command of `run_segmentation.py`, as far as it is not given.
ELIDED = {
    "do_train": "true",
    "do_eval": "true",
    "do_predict": "true",
    "model_name_or_path": "tue-mps/coco_panoptic_eomt_large_640",
    "dataset": "my_data",
    "predict_data": "my_data/new_images",
    "output_dir": "outputs/my_model",
}


class Programs:
    """
    The programs that the pages call.

    Args:
        folder: the folder in which they run.
        cache: where models on the Hub are kept.
    """

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.cache, self.monkeypatch = folder, cache, monkeypatch

    def run(self, words: list[str]) -> None:
        """Runs one command."""
        program = getattr(self, f"run_{Path(words[0]).name.replace('-', '_')}", None)
        if program is None:
            raise ValueError(f"No way to run or check {words[0]!r}: add one to {Path(__file__).name}.")
        program(words[1:])

    def run_python(self, words: list[str]) -> None:
        """Modules and `run_segmentation.py` in this process, other files, which are short, in one of their own."""
        modules = {
            "training_eomt.publishing": publishing.main,
            "deployment_eomt": deployment.main,
            "modeling_eomt.convert_official": convert_official.main,
        }
        if words[0] == "-m":
            modules[words[1]](words[2:])
        elif words[0] == "run_segmentation.py":
            self.run_segmentation(words[1:])
        else:
            file = Path(words[0]) if Path(words[0]).exists() else ROOT / words[0]
            subprocess.run([sys.executable, file, *words[1:]], check=True, cwd=self.folder)

    def run_eomt(self, words: list[str]) -> None:
        """Every verb in this process; the page is made, and not served."""
        verb, *rest = words
        if verb in ("train", "eval", "predict"):
            self.run_segmentation([f"--do_{verb}", *rest])
            return
        if verb == "app":
            if find_spec("app_eomt") is None or find_spec("gradio") is None:
                warnings.warn("eomt app is not run: gradio is not installed", stacklevel=1)
                return
            self.monkeypatch.setattr("app_eomt.page.serve", lambda *options: None)
        eomt(words)

    def run_segmentation(self, words: list[str]) -> None:
        """Trains for two steps, evaluates, predicts."""
        words = self.check_segmentation(words)
        checks_data = read_arguments(words).data.check_data
        run_segmentation.main(run_segmentation.parse_arguments([*words, *([] if checks_data else as_words(SMALL))]))

    def check_segmentation(self, words: list[str]) -> list[str]:
        """Checks the arguments as the command does before it starts; returns them all."""
        given = {word.removeprefix("--") for word in words if word.startswith("--")}
        words = [str(self.folder) + word if word.startswith("/") else word for word in words]
        if "..." in words:
            words.remove("...")
            words += as_words({name: value for name, value in ELIDED.items() if name not in given})
        provide(" ".join(words), self.folder, self.cache)
        arguments = read_arguments(words)
        name = arguments.model.model_name_or_path
        if name and "/" in name and not Path(name).exists():  # in a recipe
            provide_on_the_hub(name, self.cache)
        output, resumes = arguments.training.output_dir, arguments.training.resume_from_checkpoint
        if output and not resumes and output != name:
            shutil.rmtree(output, ignore_errors=True)  # on a page one training comes after the other
        check_arguments(arguments.model, arguments.data, arguments.training)
        return words

    def run_torchrun(self, words: list[str]) -> None:
        """Checked only: several processes are started in the tests of distributed training."""
        options = get_args_parser().parse_args(words)
        assert options.training_script == "run_segmentation.py"
        self.check_segmentation(options.training_script_args)

    def run_accelerate(self, words: list[str]) -> None:
        """Checked only, as `torchrun`."""
        assert words[0] == "launch"
        options = launch_command_parser().parse_args(words[1:])
        assert options.training_script == "run_segmentation.py"
        self.check_segmentation(options.training_script_args)

    def run_hf(self, words: list[str]) -> None:
        """`hf download REPOSITORY FILE --local-dir FOLDER`, from the cache: there is no network."""
        assert words[0] == "download" and words[3] == "--local-dir" and len(words) == 5, words
        folder = Path(words[4])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(provide_on_the_hub(words[1], self.cache) / words[2], folder)

    def run_pip(self, words: list[str]) -> None:
        """Checked only: a package is this project with extras that it has, or one that its extras name."""
        assert words[0] == "install", words
        setup: dict = {}
        with self.monkeypatch.context() as patch:
            patch.setattr(setuptools, "setup", setup.update)
            patch.chdir(ROOT)
            runpy.run_path("setup.py")
        extras = setup["extras_require"]
        named = {Requirement(text).name for texts in (setup["install_requires"], *extras.values()) for text in texts}
        for word in words[1:]:
            if word in ("-e", "--editable", "-U", "--upgrade", "-q", "--quiet"):
                continue
            is_local = word.startswith(".")
            requirement = Requirement(setup["name"] + word[1:] if is_local else word)
            assert requirement.name in {setup["name"], *named}, word
            assert requirement.extras <= set(extras), f"setup.py has no extras {requirement.extras - set(extras)}"

    def run_make(self, words: list[str]) -> None:
        """Checked only: the Makefile has the target."""
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words and set(words) <= set(targets), words

    def run_pre_commit(self, words: list[str]) -> None:
        """Checked only: it would change the repository that the tests are in."""
        assert words == ["install"] and (ROOT / ".pre-commit-config.yaml").is_file()

    def run_git(self, words: list[str]) -> None:
        """Checked only: there is no network."""
        assert words[0] == "clone" and re.fullmatch(r"https://\S+", words[1]), words

    def run_cd(self, words: list[str]) -> None:
        """Nothing to do: each page has a folder of its own."""
        assert len(words) == 1, words


def as_words(arguments: dict[str, str]) -> list[str]:
    """Returns arguments as a command line has them."""
    return [word for name, value in arguments.items() for word in (f"--{name}", value)]

"""
Every code block of the README and of the guides runs, with small stand-ins for what it names.

None is passed over: a block, a command or a language that there is no way to run or check fails. What is checked
without being run, such as an installation, says why where it is done, in `page_commands.py`.
"""

import io
import json
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import yaml
from huggingface_hub import HfApi
from page_blocks import PAGES, ROOT, Block, read_blocks, read_commands
from page_commands import Programs
from page_stand_ins import provide
from stand_ins import shrink_sizes


class Workplace:
    """The folder in which the blocks of a page run one after the other, the names they define and what they print."""

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.cache, self.names = folder, cache, {"__name__": "__main__"}
        self.programs = Programs(folder, cache, monkeypatch)
        self.printed: list[str] = []

    def run(self, block: Block) -> None:
        """Runs a block of code, or checks one of something else. Raises whatever is wrong with it."""
        provide(block.text, self.folder, self.cache)
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
            with self.reads_output():
                exec(code, self.names)
            for number in re.findall(r"^print\(.*\)  # ([\d.]+)$", block.text, re.MULTILINE):
                assert number in self.printed, f"{number} is not what is printed"
        elif block.language == "bash":
            for words in read_commands(block.text):
                with self.reads_output():
                    self.programs.run(words)
        elif block.language == "bibtex":
            assert block.text in (ROOT / "training_eomt" / "model_card.md").read_text(), "as cards cite it"
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "text" and "── " in block.text:
            check_tree(block.text)
        elif block.language == "text":
            self.check_output(block.text)
        else:
            raise ValueError(f"No way to run {block.language or 'a block without a language'!r}: add one here.")

    @contextmanager
    def reads_output(self) -> Iterator[None]:
        """Within this, what is printed is noted."""
        output = io.StringIO()
        try:
            with redirect_stdout(output):
                yield
        finally:
            self.printed += output.getvalue().splitlines()
            print(output.getvalue())

    def check_output(self, text: str) -> None:
        """The lines, but for numbers and names of classes, are among those that the page's commands have printed."""
        printed = set(map(without_data, self.printed))
        for line in text.splitlines():
            assert line == "..." or without_data(line) in printed, f"nothing prints {line!r}"


def without_data(line: str) -> str:
    """Puts 0 for each number, and "a class" before the numbers of a row."""
    line = " ".join(re.sub(r"\d+(\.\d+)?", "0", line).split())
    return re.sub(r"^[a-z ]+(?=( 0){2,}$)", "a class", line)


def check_tree(text: str) -> None:
    """A drawing of a folder names what is in it; N stands for a number, and `a.csv/.png` for two files."""
    folder, *lines = text.splitlines()
    for line in lines:
        names = re.split(r"\s{2,}", line.removeprefix("├── ").removeprefix("└── "))[0]
        for name in re.sub(r"(\w+)(\.\w+)/(\.\w+)", r"\1\2, \1\3", names).split(", "):
            assert [*Path(folder).glob(name.replace("-N", "-*"))], f"{folder} has no {name}"


@pytest.fixture
def workplace(tmp_path, monkeypatch, hub, remote_code_cache) -> Workplace:
    """With models on the Hub in a cache, and without a network."""
    folder, cache = tmp_path / "folder", tmp_path / "hub_cache"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))  # of other processes
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def download(repo_id, filename, **options):
        """Models come from the cache; what the pages upload goes to the stand-in for the Hub, and comes from there."""
        where = hub if repo_id.startswith("me/") else huggingface_hub
        return where.hf_hub_download(repo_id, filename, **options)

    monkeypatch.setattr(HfApi, "hf_hub_download", staticmethod(download))
    shrink_sizes(monkeypatch)
    return Workplace(folder, cache, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if read_blocks(page)])
def test_every_block_of_a_page_runs(page, workplace):
    for block in read_blocks(page):
        try:
            workplace.run(block)
        except (Exception, SystemExit) as error:
            lines = traceback.format_exc()
            pytest.fail(f"{block.place}: {type(error).__name__}: {error}\n\n{block.text}\n{lines}", pytrace=False)


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("", "pip install .", "No way to run"),
        ("python", "from eomt_transformers import Eomt", "has no attribute 'Eomt'|cannot import name 'Eomt'"),
        ("python", "print(1 + 1)  # 3", "3 is not what is printed"),
        ("bash", "pip install .[onix]", "no extras"),
        ("bash", "pip install somebody-elses", "somebody-elses"),
        ("bash", "make coffee", "coffee"),
        ("bash", "eomt sgement photo.jpg", "sgement"),
        ("bash", "python run_segmentation.py ... --learing_rate 1", "learning_rate"),
        ("bash", "torchrun --nproc_per_node 2 run_segmentation.py ... --dataset no/such/folder", "no/such/folder"),
        ("bash", "format c:", "No way to run or check 'format'"),
        ("text", "no program says this", "nothing prints"),
        ("text", "my_data\n├── train/       images\n├── nothing.txt  is not there", "my_data has no nothing.txt"),
    ],
)
def test_a_block_that_is_wrong_fails(language, text, message, workplace):
    with pytest.raises((Exception, SystemExit), match=message):
        workplace.run(Block("page.md", 1, language, text))

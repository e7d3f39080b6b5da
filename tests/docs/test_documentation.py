"""Every code block of the README and of the guides runs, with small stand-ins for what it names."""

import json
import re
import traceback
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


# What cannot run, by page and first line, and why.
NOT_RUN = {
    ("docs/training.md", "train data: my_data/train/panoptic.json: 24 images for panoptic segmentation"): (
        "what --check_data prints of a dataset that is not here; tests of the report compare it"
    ),
    ("CONTRIBUTING.md", "make test           # sets up .venv with the newest dependencies and runs all tests"): (
        "its last command installs a hook of git"
    ),
}


class Workplace:
    """The folder in which the blocks of a page run, one after the other, and the names that they define."""

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.cache, self.names = folder, cache, {"__name__": "__main__"}
        self.programs = Programs(folder, cache, monkeypatch)

    def run(self, block: Block) -> None:
        """Runs a block, or checks what is no program."""
        provide(block.text, self.folder, self.cache)
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
            exec(code, self.names)
        elif block.language == "bash":
            for words in read_commands(block.text):
                self.programs.run(words)
        elif block.language == "bibtex":
            assert block.text in (ROOT / "training_eomt" / "model_card.md").read_text(), "as cards cite it"
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "text" and "── " in block.text:
            check_tree(block.text)
        else:
            raise ValueError(f"No way to run {block.language or 'a block without a language'}: add it, or list it.")


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
        if (page, block.text.splitlines()[0]) in NOT_RUN:
            continue
        try:
            workplace.run(block)
        except (Exception, SystemExit) as error:
            lines = traceback.format_exc()
            pytest.fail(f"{block.place}: {type(error).__name__}: {error}\n\n{block.text}\n{lines}", pytrace=False)


def test_what_is_not_run_is_there():
    first_lines = {(block.page, block.text.splitlines()[0]) for page in PAGES for block in read_blocks(page)}
    assert set(NOT_RUN) <= first_lines

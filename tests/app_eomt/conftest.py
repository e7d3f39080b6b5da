"""What the page's tests share."""

from pathlib import Path

import pytest
from tiny_checkpoints import save_checkpoint, save_photograph  # of this folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "first", seed=34)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "second", seed=55)


@pytest.fixture
def photograph(tmp_path) -> Path:
    return save_photograph(tmp_path / "my cat.png", 60, 80)

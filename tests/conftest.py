"""Fixtures that all tests share."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors import safe_open
from tiny_models import TINY
from torch.autograd.graph import saved_tensors_hooks

from configuration_eomt import EomtConfig, EomtDinov3Config, EomtEva02Config
from modeling_eomt import kernels_eomt


_FOLDER = Path(__file__).resolve().parent
_SHARED = Path(os.environ.get("EOMT_TEST_DATA", _FOLDER.parents[1] / "shared"))


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not here; EOMT_TEST_DATA names the folder that holds it")
    return path


_GOLDEN = next(folder for folder in (_SHARED / "golden", _FOLDER / "golden") if folder.is_dir())


@pytest.fixture
def golden() -> Path:
    """Folder of the reference results: `tests/golden/`, or one that has more of them."""
    return _GOLDEN


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests of reference models for all models, and tests of image processing for all tasks, that are there."""
    for name, pattern in (("golden_name", "*.outputs.safetensors"), ("golden_delta", "*.delta_weights.safetensors")):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, sorted(path.name.partition(".")[0] for path in _GOLDEN.glob(pattern)))
    with safe_open(_GOLDEN / "processing.safetensors", "pt") as file:
        names = [name.split(".") for name in file.keys()]  # noqa: SIM118
    for name, what in (("golden_task", "masks_queries_logits"), ("golden_pixels", "pixel_values")):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, sorted(task for task, *rest in names if rest[0] == what))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests that need a GPU where there is none."""
    if item.get_closest_marker("cuda") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def coco_sample() -> Path:
    """Two COCO photographs with panoptic annotations; skips where they are not at hand."""
    return _existing(_SHARED / "data" / "coco_panoptic_sample")


@pytest.fixture
def ade20k_sample() -> Path:
    """Three ADE20K photographs with label maps; skips where they are not at hand."""
    return _existing(_SHARED / "data" / "ade20k_sample")


@pytest.fixture
def camvid() -> Path:
    """CamVid, photographs from a car with label maps in `train`, `val` and `test`; skips where it is not at hand."""
    return _existing(_SHARED / "data" / "camvid")


@pytest.fixture
def reference() -> Path:
    """Tables of the published checkpoints, trainings and classes; skips where they are not at hand."""
    return _existing(_SHARED / "reference")


@pytest.fixture
def remote_code_cache(tmp_path, monkeypatch) -> Iterator[None]:
    """Remote code is copied to a folder of this test, and forgotten after it."""

    def imported() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]

    for name in imported():
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in imported():
        del sys.modules[name]


@pytest.fixture
def fresh_compiler_cache(tmp_path_factory, monkeypatch) -> None:
    """Generated code is compiled in this test: what lies in the cache may be another processor's, and crash."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def kept_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """A function that returns the number of values of each tensor that autograd keeps of what the test ran so far."""
    kept = {}

    def record_with(pack: Any, unpack: Any) -> saved_tensors_hooks:
        def record(tensor: torch.Tensor) -> Any:
            packed = pack(tensor)
            if isinstance(packed, torch.Tensor):
                kept[packed.untyped_storage().data_ptr()] = packed.numel()
            return packed

        return saved_tensors_hooks(record, unpack)

    monkeypatch.setattr(kernels_eomt, "saved_tensors_hooks", record_with)
    with record_with(lambda tensor: tensor, lambda tensor: tensor):
        yield lambda: list(kept.values())


@pytest.fixture
def tiny_config() -> EomtConfig:
    """With learned position embeddings."""
    return EomtConfig(**TINY)


@pytest.fixture
def tiny_dinov3_config() -> EomtDinov3Config:
    """The same with rotary position embeddings."""
    return EomtDinov3Config(**TINY, intermediate_size=64)


@pytest.fixture
def tiny_eva02_config() -> EomtEva02Config:
    """The same with rotary position embeddings beside the learned ones, and with gated and normalised MLPs."""
    return EomtEva02Config(**TINY, intermediate_size=64)


@pytest.fixture(
    params=["tiny_config", "tiny_dinov3_config", "tiny_eva02_config"], ids=["eomt", "eomt_dinov3", "eomt_eva02"]
)
def family_config(request) -> EomtConfig:
    """Each of the three, one after the other."""
    return request.getfixturevalue(request.param)


class FakeHub:
    """One repository of the Hugging Face Hub in memory, behind `HfApi`.

    `files` maps names to contents, `commits` holds for each commit its options and the names of its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.commits, self.calls = folder, {}, [], []

    def create_repo(self, repo_id: str, **options: Any) -> SimpleNamespace:
        self.calls.append(("create_repo", repo_id, options))
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def create_branch(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_branch", repo_id, options))

    def hf_hub_download(self, repo_id: str, filename: str, **options: Any) -> str:
        if filename not in self.files:
            raise RemoteEntryNotFoundError(filename, response=SimpleNamespace(headers={}, request=None))
        (self.folder / filename).write_bytes(self.files[filename])
        return str(self.folder / filename)

    def create_commit(self, repo_id: str, operations: Any, **options: Any) -> str:
        added = {}
        for operation in operations:
            with operation.as_file() as file:
                added[operation.path_in_repo] = file.read()
        self.files.update(added)
        self.commits.append({"repo_id": repo_id, "files": sorted(added), **options})
        return f"commit {len(self.commits)}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: Any = None, **options: Any) -> str:
        paths = (path for path in Path(folder_path).iterdir() if path.is_file())
        names = filter_repo_objects((path.name for path in paths), allow_patterns=allow_patterns)
        operations = [CommitOperationAdd(name, Path(folder_path, name)) for name in names]
        return self.create_commit(repo_id, operations, **options)


@pytest.fixture
def hub(tmp_path_factory, monkeypatch) -> FakeHub:
    """A Hub that nothing leaves the machine for."""
    fake = FakeHub(tmp_path_factory.mktemp("hub"))
    for name in ("create_repo", "create_branch", "hf_hub_download", "create_commit", "upload_folder"):
        monkeypatch.setattr(HfApi, name, staticmethod(getattr(fake, name)))
    monkeypatch.setattr("huggingface_hub.repocard.hf_hub_download", fake.hf_hub_download)
    return fake

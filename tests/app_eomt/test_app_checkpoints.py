"""What a page makes of several checkpoints."""

import pytest
from tiny_checkpoints import OWN_THRESHOLDS, save_checkpoint  # of this folder


pytest.importorskip("gradio", reason="the page needs gradio: pip install 'eomt-transformers[app]'")

from app_eomt.page import Page
from app_eomt.segmenter import Segmenter


@pytest.fixture
def page(tmp_path):
    panoptic = save_checkpoint(tmp_path / "one" / "final", seed=0)
    instance = save_checkpoint(tmp_path / "two" / "final", seed=1, task="instance", threshold=0.25)
    return Page([Segmenter(str(panoptic)), Segmenter(str(instance))], tmp_path)


def test_tasks_are_those_that_all_can_do(page):
    assert page.tasks == ["instance", "semantic"]
    assert page.task == "instance"


def test_checkpoints_of_one_name_are_numbered_so_that_their_files_are_two(page):
    assert page.names == ["final (1)", "final (2)"]


def test_thresholds_that_were_not_moved_are_each_checkpoints_own(page):
    shown = [page.set_slider(name)["value"] for name in OWN_THRESHOLDS]
    assert shown == list(OWN_THRESHOLDS.values())
    assert page.read_thresholds("instance", *shown) == {}
    assert page.read_thresholds("instance", 0.3, *shown[1:]) == {"threshold": 0.3}
    assert page.read_thresholds("instance", *shown[:2], 0.9) == {}  # which only panoptic segmentation has
    assert "each checkpoint takes its own" in page.set_slider("threshold")["info"]
    assert "each checkpoint takes its own" not in page.set_slider("mask_threshold")["info"]

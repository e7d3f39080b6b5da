"""The page in a real browser: Debian's Chromium, or the one that EOMT_CHROMIUM names."""

import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tiny_checkpoints import CLASSES, save_photograph  # of this folder


pytest.importorskip("gradio", reason="the page needs gradio: pip install 'eomt-transformers[app]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")

CHROMIUM = os.environ.get("EOMT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
TIMEOUT = 120_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Served:
    """A page that is served: its address, and how often each of its models ran."""

    def __init__(self, folder: Path, *checkpoints: Path):
        from app_eomt.page import LAUNCH, Page
        from app_eomt.segmenter import Segmenter

        self.segmenters = [Segmenter(str(checkpoint)) for checkpoint in checkpoints]
        self.num_forwards = [0] * len(checkpoints)
        for index, segmenter in enumerate(self.segmenters):
            segmenter.pipeline.model.register_forward_hook(lambda *_, index=index: self.count(index))
        self.blocks = Page(self.segmenters, folder).build()
        _, self.address, _ = self.blocks.launch(**LAUNCH, prevent_thread_lock=True)

    def count(self, index: int) -> None:
        self.num_forwards[index] += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where what is uploaded goes: one folder in a process."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("served")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def served(folder, checkpoint):
    served = Served(folder, checkpoint)
    yield served
    served.blocks.close()


@pytest.fixture(scope="module")
def served_two(folder, checkpoint, other_checkpoint):
    served = Served(folder, checkpoint, other_checkpoint)
    yield served
    served.blocks.close()


@pytest.fixture
def open_page(browser):
    """Opens a page in a session of its own."""
    contexts = []

    def open_page(served, width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(served.address)
        page.get_by_role("heading", level=1).wait_for()
        page.get_by_role("button", name="drop files").wait_for()  # what a page is made of appears one by one
        page.get_by_role("button", name=re.compile("Example")).nth(1).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


def upload(page, path):
    """Uploads a photograph and waits for its segments, all of them."""
    page.get_by_test_id("file-upload").first.set_input_files(path)
    page.get_by_alt_text(f"The photograph {path.name}").wait_for()
    page.get_by_alt_text(f"{path.name} with its segments drawn over it").first.wait_for()
    settle(page)


def settle(page):
    """Waits until nothing is being computed."""
    page.wait_for_timeout(150)
    page.wait_for_function("() => !document.querySelector('.eomt-output .generating, .eomt-output .pending')")
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-testid=status-tracker]')].every(e => e.matches('.hide'))"
    )
    page.wait_for_timeout(150)


def read_legend(page, index=0):
    """Returns `(class, score, area)` as the legend shows them."""
    rows = page.locator(".eomt-result").nth(index).locator("tbody tr").all()
    return sorted(tuple(cell.strip() for cell in row.locator("th, td").all_inner_texts()) for row in rows)


def assert_legend(page, expected, index=0):
    """Waits until the legend is as expected: on a busy machine an answer begins late."""
    end = time.monotonic() + TIMEOUT / 1000
    while read_legend(page, index) != expected and time.monotonic() < end:
        page.wait_for_timeout(100)
    assert read_legend(page, index) == expected


def expected_legend(segments, size):
    """The same of what the pipeline returned."""
    rows = []
    for segment in segments:
        share = np.asarray(segment["mask"]).astype(bool).sum() / size
        area = "< 1 %" if share < 0.01 else f"{100 * share:.0f} %"
        score = [] if segment["score"] is None else [f"{segment['score']:.2f}"]
        rows.append((segment["label"], *score, area))
    return sorted(rows)


def set_threshold(page, value, name="Score"):
    number = page.get_by_label(f"number input for {name} threshold")
    number.fill(str(value))
    number.press("Enter")
    settle(page)


def test_the_first_screen_is_calm_and_asks_no_other_machine_for_anything(served, open_page):
    page = open_page(served)
    assert page.get_by_role("button", name="drop files").is_visible()
    assert page.get_by_role("button", name=re.compile("Example")).count() == 2
    assert not page.get_by_label("range slider for Score threshold").is_visible()
    assert page.get_by_role("button", name="Prepare downloads").count() == 0
    page.get_by_role("button", name="Example 1").click()
    page.get_by_alt_text("with its segments drawn over it").wait_for()
    local = (served.address, "data:", "blob:")
    assert len(page.requested) > 10
    assert [url for url in page.requested if not url.startswith(local)] == []


def test_an_uploaded_photograph_gives_the_segments_of_the_pipeline(served, open_page, photograph):
    page = open_page(served)
    upload(page, photograph)
    expected = expected_legend(served.segmenters[0].pipeline(str(photograph)), 60 * 80)
    assert len(expected) > 2
    assert any(row[0] == CLASSES[2] for row in expected)  # as text, though it looks like code
    assert_legend(page, expected)
    alternative = page.locator(".eomt-result img").get_attribute("alt")
    assert alternative.startswith("my cat.png with its segments drawn over it: ")
    assert CLASSES[2] in alternative


def test_thresholds_act_without_running_the_model_again(served, open_page, photograph):
    pipeline = served.segmenters[0].pipeline
    higher, moved = (
        expected_legend(pipeline(str(photograph), **settings), 60 * 80)
        for settings in ({"threshold": 0.9}, {"mask_threshold": 0.65})
    )
    page = open_page(served)
    upload(page, photograph)
    at_first, num_forwards = read_legend(page), list(served.num_forwards)
    assert 0 < len(higher) < len(at_first) and moved != at_first

    set_threshold(page, 0.9)
    assert_legend(page, higher)
    page.get_by_test_id("reset-button").first.click()
    assert_legend(page, at_first)

    slider = page.get_by_label("range slider for Mask threshold")
    slider.focus()
    for _ in range(20):
        slider.press("ArrowRight")
    assert_legend(page, moved)
    assert page.get_by_label("number input for Mask threshold").input_value() == "0.65"

    set_threshold(page, "", name="Mask")  # which is the checkpoint's own
    assert_legend(page, at_first)
    set_threshold(page, 7)
    page.locator(".eomt-result").filter(has_text="No segment passes the thresholds").wait_for()
    assert page.get_by_test_id("toast-body").count() == 0  # nothing went wrong
    assert served.num_forwards == num_forwards


def test_other_tasks_are_those_of_the_pipeline(served, open_page, photograph):
    pipeline = served.segmenters[0].pipeline
    expected = {
        task: expected_legend(pipeline(str(photograph), subtask=task.lower()), 60 * 80)
        for task in ("Semantic", "Instance")
    }
    page = open_page(served)
    upload(page, photograph)
    num_forwards = list(served.num_forwards)
    for task, legend in expected.items():
        page.get_by_label(task).click()
        assert_legend(page, legend)
    assert served.num_forwards == num_forwards
    page.get_by_label("range slider for Overlap threshold").wait_for(state="hidden")
    assert page.get_by_label("range slider for Mask threshold").is_visible()


@pytest.mark.parametrize("task", ["Panoptic", "Instance", "Semantic"])
def test_downloads_hold_the_segments_of_the_pipeline(served, open_page, photograph, tmp_path, task):
    page = open_page(served)
    upload(page, photograph)
    page.get_by_label(task).click()
    settle(page)
    page.get_by_role("button", name="Prepare downloads").click()
    files = {}
    for kind in ("overlay.png", "masks_png.zip", "coco.json", "rle.json"):
        link = page.locator(f"a[download='my_cat_{kind}']")
        with page.expect_download() as download:
            link.click()
        files[kind] = tmp_path / kind
        download.value.save_as(files[kind])

    expected = served.segmenters[0].pipeline(str(photograph), subtask=task.lower())
    masks = [np.asarray(segment["mask"]) for segment in expected]
    assert len(masks) > 1

    with zipfile.ZipFile(files["masks_png.zip"]) as archive:
        names = archive.namelist()
        for name, mask in zip(names, masks, strict=True):
            with archive.open(name) as file, Image.open(file) as image:
                assert np.array_equal(np.asarray(image), mask)
    letters = {"cat": "cat", "dog": "dog", CLASSES[2]: "i_sky_i_1_1"}
    for number, (name, segment) in enumerate(zip(names, expected), start=1):
        score = "" if segment["score"] is None else f"_{segment['score']:.2f}"
        assert name == f"my_cat/{number:03d}_{letters[segment['label']]}{score}.png"

    coco = COCO(str(files["coco.json"]))
    assert [image["file_name"] for image in coco.loadImgs([1])] == ["my cat.png"]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    for annotation, segment, mask in zip(annotations, expected, masks, strict=True):
        assert coco.loadCats([annotation["category_id"]])[0]["name"] == segment["label"]
        assert np.array_equal(coco.annToMask(annotation) * 255, mask)
        assert annotation.get("score") == (None if segment["score"] is None else pytest.approx(segment["score"]))
        assert annotation["area"] == (mask > 0).sum()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box

    listed = json.loads(files["rle.json"].read_text())
    for found, segment, mask in zip(listed, expected, masks, strict=True):
        assert found["label"] == segment["label"] == CLASSES[found["label_id"]]
        assert np.array_equal(coco_mask.decode(found["segmentation"]) * 255, mask)

    with Image.open(files["overlay.png"]) as overlay:
        assert overlay.size == (8 * 80, 8 * 60)  # enlarged, or nobody could read the names


def test_what_cannot_be_read_is_said_and_leaves_the_page_usable(served, open_page, photograph, tmp_path):
    page = open_page(served)
    upload(page, photograph)
    broken, text = tmp_path / "broken.png", tmp_path / "text.png"
    broken.write_bytes(photograph.read_bytes()[:200])
    text.write_text("This is a letter, not a photograph.")
    for path, message in ((broken, "broken.png cannot be decoded"), (text, "text.png is not an image")):
        page.get_by_test_id("file-upload").first.set_input_files(path)
        page.get_by_role("alert").filter(has_text=message).wait_for()
        settle(page)
        assert "/" not in page.locator(".eomt-error").inner_text()  # no path of the server
        page.locator(".eomt-result").wait_for(state="detached")  # nor what was found in another
        page.get_by_role("button", name="Prepare downloads").wait_for(state="hidden")
    upload(page, photograph)
    assert len(read_legend(page)) > 2


def test_a_photograph_of_20_megapixels_is_shown_small(served, open_page, tmp_path):
    page = open_page(served)
    path = save_photograph(tmp_path / "large.jpg", 3888, 5184)
    upload(page, path)
    sides = page.locator(".eomt-result img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert sides == [1280, 960]
    assert len(read_legend(page)) > 2


def test_checkpoints_stand_side_by_side(served_two, open_page, photograph):
    legends = [
        expected_legend(segmenter.pipeline(str(photograph), threshold=0.9), 60 * 80)
        for segmenter in served_two.segmenters
    ]
    assert legends[0] != legends[1]
    served_two.num_forwards[:] = [0, 0]
    page = open_page(served_two)
    upload(page, photograph)
    page.locator(".eomt-result").nth(1).wait_for()
    assert page.locator(".eomt-result figcaption strong").all_inner_texts() == ["first", "second"]
    set_threshold(page, 0.9)
    for index, legend in enumerate(legends):
        assert_legend(page, legend, index)
    assert served_two.num_forwards == [1, 1]
    boxes = [page.locator(".eomt-result img").nth(index).bounding_box() for index in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    page.get_by_role("button", name="Prepare downloads").click()
    for name in ("first", "second"):
        page.locator(f"a[download='my_cat_{name}_coco.json']").wait_for()


def test_downloads_are_kept_apart_where_two_names_make_one_file_name(
    folder, checkpoint, other_checkpoint, photograph, tmp_path
):
    from app_eomt.page import SLIDERS, Page
    from app_eomt.segmenter import Segmenter

    segmenters = [Segmenter(str(path)) for path in (checkpoint, other_checkpoint)]
    for segmenter, name in zip(segmenters, ("a/b", "a_b"), strict=True):
        segmenter.name = name
    page = Page(segmenters, tmp_path)
    files = page.prepare(str(photograph), page.task, *[0.5] * len(SLIDERS))["value"]
    first, second = (file for file in files if file.endswith("rle.json"))
    assert Path(first).name == Path(second).name == "my_cat_a_b_rle.json"
    assert Path(first).read_text() != Path(second).read_text()


def test_two_people_see_each_their_own(served, open_page, tmp_path):
    pages, paths = [], []
    for index in (0, 1):
        pages.append(open_page(served))
        paths.append(save_photograph(tmp_path / f"photo_{index}.png", 60, 80, seed=index))
        upload(pages[index], paths[index])
    legends = [expected_legend(served.segmenters[0].pipeline(str(path)), 60 * 80) for path in paths]
    for page, legend in zip(pages, legends, strict=True):
        assert_legend(page, legend)
    assert legends[0] != legends[1]
    set_threshold(pages[1], 1)
    set_threshold(pages[0], 0.51)
    assert_legend(pages[0], legends[0])
    assert "photo_1.png" not in pages[0].content()
    assert "photo_0.png" not in pages[1].content()


def test_a_phone_shows_the_segments_before_the_settings_and_nothing_wider_than_itself(served, open_page, photograph):
    page = open_page(served, width=390)
    upload(page, photograph)
    page.locator(".eomt-settings").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    places = [page.locator(name).bounding_box() for name in (".eomt-input", ".eomt-output", ".eomt-settings")]
    assert places[0]["y"] < places[1]["y"] < places[2]["y"]
    assert places[1]["x"] + places[1]["width"] <= 390

"""Images are segmented once each, by however many processes, and whatever stops them in between."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from image_processing_eomt import EomtImageProcessorPil
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.data.images import ImageReading
from training_eomt.figures import overlapping_segments, side_by_side
from training_eomt.prediction.outputs import DEFAULT_OUTPUTS
from training_eomt.prediction.predict import AnnotatedImages, predict
from training_eomt.prediction.shared_folder import SharedFolder
from training_eomt.prediction.sources import ImageFolder
from training_eomt.shapes import STUFF, THINGS, generate_shapes_dataset


ROOT = Path(__file__).resolve().parents[3]
NUM_IMAGES = 7
NAMES = ["a/0.png", "a/1.png", "b/0.jpg", "b/0.png", "b/c/2.png", "x.png", "y.png"]  # some share a stem
PATHS = ["a/0", "a/1", "b/0.jpg", "b/0.png", "b/c/2", "x", "y"]  # of their files


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Noise, in folders, of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    for index, name in enumerate(NAMES):
        pixels = np.random.default_rng(index).integers(256, size=(40 + 7 * index, 60, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def model(tiny_config):
    return EomtForUniversalSegmentation(tiny_config)


def processor(task="panoptic", **settings):
    settings = {"threshold": 0.0, "overlap_mask_area_threshold": 0.0, **settings}
    return EomtImageProcessorPil(task=task, size=64, stuff_classes=[2], **settings)


def run(model, source, directory, **settings):
    source = ImageFolder(source) if isinstance(source, Path) else source
    image_processor = settings.pop("image_processor", None) or processor()
    settings = {"outputs": ["maps", "json"], "show_progress": False, **settings}
    return predict(model, image_processor, source, directory, **settings)


def results(directory):
    """The bytes of every file but the locks of processes."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def num_records(directory):
    return len(list((directory / "records").rglob("*.json")))


class Stops(ImageFolder):
    """Images that cannot be had from the k-th one on, for a reason that is not theirs."""

    def __init__(self, path, stop):
        super().__init__(path)
        self.stop = stop

    def __getitem__(self, index):
        if index >= self.stop:
            raise RuntimeError("out of memory")
        return super().__getitem__(index)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_every_image_gets_the_files_of_the_task(model, images, tmp_path, task):
    summary = run(model, images, tmp_path, image_processor=processor(task), outputs=DEFAULT_OUTPUTS)
    assert summary.is_complete and summary.num_segmented == summary.num_new == summary.num_images == NUM_IMAGES
    assert str(summary) == f"7 of 7 images are segmented in {tmp_path}."
    maps = {"panoptic": ["panoptic"], "instance": [], "semantic": ["label_maps"]}[task]
    jsons = {
        "panoptic": ["panoptic.json"],
        "instance": ["instances.json", "classes.json"],
        "semantic": ["classes.json"],
    }
    expected = [f"overlays/{path}.overlay.png" for path in PATHS]
    expected += [f"{folder}/{path}.png" for folder in maps for path in PATHS]
    expected += [f"records/{path}.json" for path in PATHS]
    assert results(tmp_path).keys() == {*expected, *jsons[task], "run.json", "summary.json"}
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["num_images"] == written["num_segmented"] == NUM_IMAGES
    assert written["failed"] == [] and written["num_without_segments"] == 0


def test_only_what_is_asked_for_is_written(model, images, tmp_path):
    run(model, images, tmp_path, outputs=["overlays"])
    assert {name.split("/")[0] for name in results(tmp_path)} == {"overlays", "records", "run.json", "summary.json"}


def test_batches_and_workers_change_nothing(model, images, tmp_path):
    for name, settings in {"1": {}, "3": {"batch_size": 3, "num_workers": 1}}.items():
        run(model, images, tmp_path / name, **settings)
    one, three = (json.loads((tmp_path / name / "panoptic.json").read_text()) for name in ("1", "3"))
    assert one["images"] == three["images"] and one["categories"] == three["categories"]
    for a, b in zip(one["annotations"], three["annotations"], strict=True):
        pngs = [np.asarray(Image.open(tmp_path / name / "panoptic" / a["file_name"])) for name in ("1", "3")]
        # Sums of a matrix product depend on its size in their last digits.
        assert (pngs[0] != pngs[1]).mean() < 1e-3
        scores = [[segment["score"] for segment in annotation["segments_info"]] for annotation in (a, b)]
        np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_two_processes_write_what_one_writes(model, images, tmp_path, order):
    run(model, images, tmp_path / "one")
    first, second = (run(model, images, tmp_path / "two", process_index=index, num_processes=2) for index in order)
    assert not first.is_complete and first.num_new == (4 if order[0] == 0 else 3) and second.is_complete
    assert "left to other processes" in str(first) and f"{second.num_new} of them now" in str(second)
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_a_run_that_was_stopped_goes_on_whatever_the_number_of_processes(model, images, tmp_path, num_processes):
    run(model, images, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="out of memory"):
        run(model, Stops(images, 5), tmp_path / "out", process_index=1, num_processes=2)
    assert num_records(tmp_path / "out") == 2 and not (tmp_path / "out" / "panoptic.json").exists()
    summaries = [
        run(model, images, tmp_path / "out", process_index=index, num_processes=num_processes)
        for index in range(num_processes)
    ]
    assert sum(summary.num_new for summary in summaries) == NUM_IMAGES - 2
    assert [summary.is_complete for summary in summaries] == [*[False] * (num_processes - 1), True]
    assert results(tmp_path / "out") == results(tmp_path / "whole")


KILLED = """
import sys
import time
from image_processing_eomt import EomtImageProcessorPil
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.prediction.predict import predict
from training_eomt.prediction.sources import ImageFolder

class Slow(ImageFolder):
    def __getitem__(self, index):
        time.sleep(60 if index >= 4 else 0)
        return super().__getitem__(index)

folder, images, out = sys.argv[1:]
model, processor = EomtForUniversalSegmentation.from_pretrained(folder), EomtImageProcessorPil.from_pretrained(folder)
predict(model, processor, Slow(images), out, outputs=["maps", "json"])
"""


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(model, images, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    arguments = [str(path) for path in (tmp_path / "model", images, tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], cwd=ROOT)
    try:
        while process.poll() is None and num_records(tmp_path / "out") < 2:
            time.sleep(0.05)
    finally:
        process.kill()  # SIGKILL: nothing is tidied up
        process.wait()
    assert process.returncode == -9
    num_written = num_records(tmp_path / "out")
    assert 2 <= num_written <= 4
    (tmp_path / "out" / ".drafts" / "0-of-1" / "99.0").write_bytes(b"half a PNG")  # killed while writing

    assert run(model, images, tmp_path / "out").num_new == NUM_IMAGES - num_written
    run(model, images, tmp_path / "whole")
    assert results(tmp_path / "out") == results(tmp_path / "whole")


class NeverAsked(EomtForUniversalSegmentation):
    def forward(self, *args, **kwargs):
        raise AssertionError("nothing is left to segment")


def test_a_run_that_is_complete_is_left_as_it_is(model, images, tmp_path):
    run(model, images, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    model.__class__ = NeverAsked
    for process in ((0, 1), (1, 2)):
        summary = run(model, images, tmp_path, process_index=process[0], num_processes=process[1])
        assert summary.is_complete and summary.num_new == 0 and summary.num_segmented == NUM_IMAGES
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_images_that_come_and_go_are_in_the_files_about_all_of_them_or_not(model, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    run(model, folder, tmp_path / "out")
    (folder / "x.png").rename(folder / "aa.png")
    assert run(model, folder, tmp_path / "out").num_new == 1
    images = json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == sorted({*NAMES, "aa.png"} - {"x.png"})


def test_an_image_that_comes_and_differs_in_its_suffix_alone_shares_no_file(model, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    run(model, folder, tmp_path / "out")
    Image.new("RGB", (33, 44), "red").save(folder / "x.bmp")
    assert run(model, folder, tmp_path / "out").num_new == 2  # x.png's files keep its suffix now
    for suffix, size in ((".bmp", (33, 44)), (".png", (60, 75))):
        with Image.open(tmp_path / "out" / "panoptic" / f"x{suffix}.png") as png:
            assert png.size == size
    (folder / "x.png").unlink()
    assert run(model, folder, tmp_path / "out").num_new == 1
    with Image.open(tmp_path / "out" / "panoptic" / "x.png") as png:
        assert png.size == (33, 44)


def test_an_image_that_cannot_be_read_is_reported_and_tried_again(model, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    whole = (folder / "b/0.png").read_bytes()
    (folder / "b/0.png").write_bytes(whole[:200])
    (folder / "a/1.png").write_bytes(b"no image")
    for num_new in (NUM_IMAGES - 2, 0):
        summary = run(model, folder, tmp_path / "out", batch_size=2)
        assert summary.is_complete and summary.num_new == num_new and summary.num_segmented == NUM_IMAGES - 2
        assert [name for name, _ in summary.failed] == ["a/1.png", "b/0.png"]
    assert "2 could not be segmented" in str(summary) and f"a/1.png: {folder}/a/1.png cannot be decoded" in str(
        summary
    )
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]) == NUM_IMAGES - 2
    failed = json.loads((tmp_path / "out" / "summary.json").read_text())["failed"]
    assert [image["name"] for image in failed] == ["a/1.png", "b/0.png"]

    (folder / "b/0.png").write_bytes(whole)
    (folder / "a/1.png").write_bytes(whole)
    summary = run(model, folder, tmp_path / "out")
    assert summary.num_new == 2 and not summary.failed
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]) == NUM_IMAGES


def test_a_folder_of_nothing_but_broken_images_ends_with_files_about_none(model, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(9):
        (tmp_path / "images" / f"{index}.png").write_bytes(b"no image")
    summary = run(model, tmp_path / "images", tmp_path / "out", batch_size=4)
    assert len(summary.failed) == 9 and summary.num_segmented == 0 and str(summary).endswith("\n  ...")
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert content["images"] == content["annotations"] == [] and len(content["categories"]) == 3


def test_predictions_of_another_model_task_or_source_are_not_added_to(model, images, tmp_path):
    run(model, images, tmp_path / "out")
    model.config._name_or_path = "moved/elsewhere"  # still the same
    run(model, images, tmp_path / "out")
    elsewhere = shutil.copytree(images, tmp_path / "elsewhere")
    for settings, message in (
        ({"image_processor": processor(mask_threshold=0.25)}, "image_processor.mask_threshold: 0.5 there, 0.25 now"),
        ({"image_processor": processor("semantic")}, "image_processor.task"),
        ({"outputs": ["maps"]}, "outputs"),
        ({"category_ids": {0: 5}}, "category_ids.0: 0 there, 5 now"),
        ({"source": elsewhere}, "images"),
        ({"source": ImageFolder(images, ImageReading("stored"))}, 'exif: "auto" there, "stored" now'),
    ):
        with pytest.raises(ValueError, match=message):
            run(model, **{"source": images, "directory": tmp_path / "out", **settings})
    with pytest.raises(ValueError, match="autocast"), torch.autocast("cpu", torch.bfloat16):
        run(model, images, tmp_path / "out")
    with torch.no_grad():
        model.class_predictor.bias[0] += 1e-3
    with pytest.raises(ValueError, match="weights_sha256"):
        run(model, images, tmp_path / "out")


def test_what_is_written_is_not_put_among_the_images(model, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    with pytest.raises(ValueError, match="Choose a folder outside"):
        run(model, folder, folder / "out")
    assert not (folder / "out").exists()


def test_a_disk_that_is_full_ends_the_run(model, images, tmp_path, monkeypatch):
    def full(self, *args, **settings):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        patched.setattr("training_eomt.prediction.predict.MAX_UNWRITTEN", 2)
        with pytest.raises(OSError, match="No space left on device"):
            run(model, images, tmp_path / "out")
    assert run(model, images, tmp_path / "out").num_new == NUM_IMAGES


def test_a_disk_that_fills_up_ends_the_run_in_a_line_and_what_is_done_stays(model, images, tmp_path, monkeypatch):
    save = Image.Image.save

    def full(self, path, *args, **settings):
        if self.size == (60, 68):  # the fifth image
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(self, path, *args, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match=r"No space left on device\. Of 7 images, \d are done and stay"):
            run(model, images, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / ".drafts").iterdir()] == ["0-of-1.lock"]
    num_written = num_records(tmp_path / "out")
    assert num_written >= 4
    assert run(model, images, tmp_path / "out").num_new == NUM_IMAGES - num_written
    run(model, images, tmp_path / "whole")
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_place_where_nothing_can_be_written_is_named_before_anything_is_computed(images, tmp_path, tiny_config):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        run(NeverAsked(tiny_config), images, tmp_path / "file" / "out")


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_an_image_whose_files_cannot_be_written_is_noted_and_tried_again(model, images, tmp_path, monkeypatch, task):
    save = Image.Image.save

    def refuse(self, path, *args, **settings):
        if self.size == (60, 68):
            raise OSError(36, "File name too long")
        save(self, path, *args, **settings)

    settings = {"image_processor": processor(task), "outputs": DEFAULT_OUTPUTS}
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Image.Image, "save", refuse)
            summary = run(model, images, tmp_path / "out", **settings)
        assert summary.is_complete and summary.num_segmented == NUM_IMAGES - 1
        assert [name for name, _ in summary.failed] == ["b/c/2.png"]
        assert "1 could not be segmented" in str(summary) and "File name too long" in str(summary)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"][0]["name"] == "b/c/2.png"
    assert [path.name for path in (tmp_path / "out").rglob("2.*")] == ["2.json"]  # the record of the failure
    summary = run(model, images, tmp_path / "out", **settings)
    assert summary.num_new == 1 and not summary.failed
    run(model, images, tmp_path / "whole", **settings)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_names_that_cannot_be_names_of_results_end_nothing(model, tmp_path):
    names = ["x" * 251 + ".png", "x.png", "x.png.png/y.png", "x.overlay.png/y.png", "A.png", "a.png", "a\nb.png"]
    for index, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40 + index), "gray").save(tmp_path / "in" / name)
    summary = run(model, tmp_path / "in", tmp_path / "out", outputs=DEFAULT_OUTPUTS)
    assert summary.is_complete and summary.num_segmented == len(names)
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert {image["file_name"] for image in content["images"]} == set(names)
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        with Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"]) as png:
            assert png.size == (image["width"], image["height"])
    lowered = {path.as_posix().lower() for path in (tmp_path / "out").rglob("*.png") if path.is_file()}
    assert len(lowered) == 2 * len(names)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_segmented_once_and_named_in_json(model, tmp_path):
    (tmp_path / "in\udcfe").mkdir()
    Image.new("RGB", (60, 40), "gray").save(tmp_path / "in\udcfe" / "a\udcff.png")
    (tmp_path / "in\udcfe" / "b\udcff.png").write_bytes(b"no image")
    for num_new in (1, 0):
        summary = run(model, tmp_path / "in\udcfe", tmp_path / "out", outputs=DEFAULT_OUTPUTS)
        assert summary.is_complete and summary.num_new == num_new and len(summary.failed) == 1
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert content["images"][0]["file_name"] == content["images"][0]["id"] == "a\\udcff.png"
    assert (tmp_path / "out" / "panoptic" / content["annotations"][0]["file_name"]).is_file()


@pytest.mark.parametrize("damage", ["removed", "emptied", "cut", "folder removed"])
@pytest.mark.parametrize("output", ["overlays", "panoptic"])
def test_files_that_are_gone_or_damaged_are_made_again(model, images, tmp_path, output, damage):
    out = tmp_path / "out"
    run(model, images, out, outputs=DEFAULT_OUTPUTS)
    before = results(out)
    files = sorted((out / output).rglob("*.png"))
    if damage == "folder removed":
        shutil.rmtree(out / output)
    elif damage == "removed":
        files[1].unlink()
    else:
        files[1].write_bytes(files[1].read_bytes()[:50] if damage == "cut" else b"")
    summary = run(model, images, out, outputs=DEFAULT_OUTPUTS)
    assert summary.num_new == (NUM_IMAGES if damage == "folder removed" else 1)
    assert results(out) == before


@pytest.mark.parametrize("name", ["summary.json", "panoptic.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b'{"num_images": "7"}', b"\0" * 100])
def test_a_file_about_all_images_that_is_gone_or_damaged_is_made_again(model, images, tmp_path, name, content):
    run(model, images, tmp_path)
    before = results(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    model.__class__ = NeverAsked
    assert run(model, images, tmp_path).is_complete
    assert results(tmp_path) == before


@pytest.mark.parametrize("damage", [lambda content: b"\0" * len(content), lambda content: content[:-9], lambda _: b""])
def test_a_record_that_is_damaged_costs_its_image_alone(model, images, tmp_path, damage):
    run(model, images, tmp_path)
    before = results(tmp_path)
    record = tmp_path / "records" / "b" / "0.jpg.json"
    record.write_bytes(damage(record.read_bytes()))
    assert run(model, images, tmp_path).num_new == 1
    assert results(tmp_path) == before


def test_an_image_that_another_takes_the_place_of_is_segmented_again(model, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    run(model, folder, tmp_path / "out")
    Image.new("RGB", (33, 44), "red").save(folder / "x.png")
    assert run(model, folder, tmp_path / "out").num_new == 1
    with Image.open(tmp_path / "out" / "panoptic" / "x.png") as png:
        assert png.size == (33, 44)
    images = json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]
    assert [(image["width"], image["height"]) for image in images if image["id"] == "x.png"] == [(33, 44)]
    assert run(model, folder, tmp_path / "out").num_new == 0


def test_what_killed_runs_of_other_processes_left_is_removed_and_what_is_being_written_stays(model, images, tmp_path):
    for name in ("0-of-1/7.0", "1-of-2/7.0", "0-of-2/8.3"):
        (tmp_path / ".drafts" / name).parent.mkdir(parents=True)
        (tmp_path / ".drafts" / name).write_bytes(b"half a PNG")
    with SharedFolder(tmp_path, "0-of-2").hold():
        run(model, images, tmp_path)
        assert [path.name for path in (tmp_path / ".drafts").glob("*/*")] == ["8.3"]
    assert not list((tmp_path / ".drafts").glob("*/*"))


def test_two_runs_at_once_are_refused_before_the_second_has_done_anything(model, images, tmp_path):
    with (
        SharedFolder(tmp_path, "0-of-1").hold(),
        pytest.raises(OSError, match="Another run is writing predictions into"),
    ):
        run(model, images, tmp_path)
    assert run(model, images, tmp_path).num_new == NUM_IMAGES


def test_outputs_that_are_not_finite_are_noted_of_their_image_alone(model, images, tmp_path):
    run(model, images, tmp_path / "whole", batch_size=4)
    forward = model.forward

    def broken(pixel_values, **inputs):
        outputs = forward(pixel_values, **inputs)
        if len(pixel_values) == 4:
            outputs.masks_queries_logits[1, 2, 3, 3] = torch.nan
        return outputs

    model.forward = broken
    summary = run(model, images, tmp_path / "out", batch_size=4)
    assert summary.failed == (("a/1.png", "the model's outputs are not finite (nan or inf)"),)
    assert summary.num_new == summary.num_segmented == NUM_IMAGES - 1
    model.forward = forward
    assert run(model, images, tmp_path / "out").num_new == 1
    names = {name: (tmp_path / "out" / name, tmp_path / "whole" / name) for name in results(tmp_path / "whole")}
    for name, (out, whole) in names.items():
        if name.endswith(".png") and "a/1" not in name:
            assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_images_without_segments_are_counted_and_said_to_be_all_of_them(model, images, tmp_path, task):
    summary = run(model, images, tmp_path, image_processor=processor(task, threshold=1.0))
    assert summary.num_empty == NUM_IMAGES
    assert "7 of them have no segments. Warning: that is all of them" in str(summary) and "--threshold" in str(summary)
    assert json.loads((tmp_path / "summary.json").read_text())["num_without_segments"] == NUM_IMAGES
    assert run(model, images, tmp_path, image_processor=processor(task, threshold=1.0)).num_empty == NUM_IMAGES


def test_the_summary_shows_no_escape_sequences_of_names(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x1b[2J\nb.png").write_bytes(b"no image")
    text = str(run(model, tmp_path / "in", tmp_path / "out"))
    assert "\x1b" not in text and "a\\x1b[2J\\nb.png" in text


def test_an_image_whose_annotation_cannot_be_used_is_segmented(tiny_config, tmp_path):
    data = generate_shapes_dataset(tmp_path / "shapes", 0, 0, 3) / "test"
    tiny_config.id2label = dict(enumerate([*THINGS, *STUFF]))
    model = EomtForUniversalSegmentation(tiny_config)
    (data / "panoptic" / "000001.png").write_bytes(b"no image")
    source = AnnotatedImages(CocoPanopticDataset(data, model.config.id2label))
    summary = run(model, source, tmp_path / "out", outputs=["figures", "json"])
    assert summary.num_segmented == 3 and not summary.failed
    images = json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["000000.png", "000001.png", "000002.png"]
    (data / "images" / "000002.png").write_bytes(b"no image")
    summary = run(model, source, tmp_path / "out", outputs=["figures", "json"])
    assert [name for name, _ in summary.failed] == ["000002.png"]


def test_names_of_classes_cannot_break_a_legend():
    names = {0: "two\nlines", 1: "x" * 500, 2: "\x1b[2J"}
    info = [{"id": label_id, "label_id": label_id} for label_id in names]
    panels = {"prediction": {"segmentation": np.array([[0, 1, 2]]), "segments_info": info}}
    assert side_by_side(Image.new("RGB", (3, 1)), panels, names).width < 1000


def test_the_best_of_overlapping_instances_is_on_top():
    masks = np.array([[[0, 1, 1]], [[1, 1, 0]]], dtype=np.uint8)
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    info = [{"id": 0, "label_id": 1, "score": 0.9}, {"id": 1, "label_id": 0, "score": 0.8}]
    result = overlapping_segments({"segmentation": rles, "segments_info": info}, (1, 3))
    assert result["segmentation"].tolist() == [[1, 0, 0]]
    assert [segment["label_id"] for segment in result["segments_info"]] == [1, 0]

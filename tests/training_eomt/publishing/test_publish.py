"""A finished model becomes one folder, and never in the place of another."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import pipeline

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation
from training_eomt.publishing.__main__ import main
from training_eomt.publishing.publish import publish_model


@pytest.fixture
def model(tiny_config):
    return EomtForUniversalSegmentation(tiny_config)


@pytest.fixture
def processor():
    return EomtImageProcessor(size=64, stuff_classes=[2], threshold=0.0)


@pytest.fixture
def source(model, processor, tmp_path):
    """A folder as run_segmentation.py leaves it."""
    folder = tmp_path / "outputs"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    report = {"eval_pq": 0.5, "eval_pq_stuff": None, "eval_loss": 3.0, "eval_runtime": 1.0, "per_class": {"cat": {}}}
    (folder / "evaluation.json").write_text(json.dumps(report))
    (folder / "checkpoint-2").mkdir()
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_command_publishes_the_folder_of_a_training(source, model, tmp_path, capsys, remote_code_cache):
    target = tmp_path / "finished" / "pets"
    main([str(source), str(target), "--license", "apache-2.0", "--dataset", "pets"])
    assert str(target) in capsys.readouterr().out
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"} <= set(contents(target))
    assert not (target / "checkpoint-2").exists() and not (target / "evaluation.json").exists()
    card = ModelCard.load(target / "README.md")
    metadata = card.data.to_dict()
    (result,) = metadata.pop("model-index")[0]["results"]
    assert result["metrics"] == [{"type": "pq", "value": 0.5}]
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "image-segmentation",
        "tags": ["eomt", "panoptic-segmentation"],
        "license": "apache-2.0",
        "datasets": ["pets"],
    }
    published = EomtForUniversalSegmentation.from_pretrained(target)
    for name, weight in model.state_dict().items():
        assert torch.equal(published.state_dict()[name], weight), name
    segmenter = pipeline("image-segmentation", model=str(target), trust_remote_code=True)
    assert type(segmenter).__module__.startswith("transformers_modules")
    segmenter(Image.new("RGB", (50, 40)))
    assert list(target.parent.iterdir()) == [target]  # no drafts


def test_what_was_published_of_the_same_model_is_replaced(model, processor, tmp_path):
    folder = tmp_path / "pets"
    publish_model(model, processor, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"of a larger model")
    torch.nn.init.zeros_(model.query.weight)
    publish_model(model, processor, folder, license="mit")
    assert ModelCard.load(folder / "README.md").data.license == "mit"
    assert not EomtForUniversalSegmentation.from_pretrained(folder).query.weight.any()
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "model-00001-of-00002.safetensors").exists()


def test_other_files_in_the_folder_stay(model, processor, tmp_path):
    folder = tmp_path / "pets"
    publish_model(model, processor, folder)
    stale = ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    kept = ("my_lora.safetensors", "model.fp16.safetensors", "other.safetensors.index.json")
    for name in (*stale, *kept):
        (folder / name).write_text("{}")
    publish_model(model, processor, folder)
    assert all((folder / name).exists() for name in kept) and not any((folder / name).exists() for name in stale)


def test_a_folder_in_the_way_is_noticed_before_anything_is_replaced(model, processor, tmp_path):
    folder = tmp_path / "pets"
    publish_model(model, processor, folder)
    (folder / "vit_eomt.py").unlink()
    (folder / "vit_eomt.py").mkdir()
    refuses(model, processor, folder, r"folders where the model has files: vit_eomt\.py", license="mit")


def test_the_card_is_replaced_last(model, processor, tmp_path, monkeypatch):
    publish_model(model, processor, tmp_path / "pets")
    moved = []
    monkeypatch.setattr(Path, "replace", lambda self, target: (moved.append(target.name), os.replace(self, target)))
    publish_model(model, processor, tmp_path / "pets")
    assert moved[0] == "model.safetensors" and moved[-1] == "README.md"


def refuses(model, processor, folder, match, **facts):
    before = contents(folder) if folder.is_dir() else None
    with pytest.raises(FileExistsError, match=match):
        publish_model(model, processor, folder, **facts)
    assert before is None or contents(folder) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id2label": {0: "cat", 1: "dog", 2: "sea"}}, "id2label"),
        ({"num_queries": 8}, "num_queries"),
        ({"image_size": (64, 32)}, "image_size"),
    ],
)
def test_another_published_model_is_not_overwritten(model, processor, tiny_config, tmp_path, change, field):
    publish_model(model, processor, tmp_path / "pets")
    other = EomtForUniversalSegmentation(EomtConfig(**{**tiny_config.to_dict(), **change}))
    refuses(other, processor, tmp_path / "pets", f"another model: {field}.*Choose another folder")


def test_a_model_of_another_family_is_not_overwritten(model, processor, tiny_dinov3_config, tmp_path):
    publish_model(model, processor, tmp_path / "pets")
    other = EomtDinov3ForUniversalSegmentation(tiny_dinov3_config)
    refuses(other, processor, tmp_path / "pets", "another model: model_type")


def test_a_model_for_another_task_is_not_overwritten(model, processor, tmp_path):
    publish_model(model, processor, tmp_path / "pets")
    settings = json.loads((tmp_path / "pets" / "preprocessor_config.json").read_text())
    (tmp_path / "pets" / "preprocessor_config.json").write_text(json.dumps({**settings, "task": "semantic"}))
    refuses(model, processor, tmp_path / "pets", "another model: task")


def test_a_model_with_another_base_model_is_not_overwritten(model, processor, tmp_path):
    publish_model(model, processor, tmp_path / "pets", base_model="me/base")
    refuses(model, processor, tmp_path / "pets", "another model: base_model", base_model="you/base")
    publish_model(model, processor, tmp_path / "pets")


def test_what_was_not_published_is_not_overwritten(source, model, processor, tmp_path):
    refuses(model, processor, source, "not published there")  # the same model, as training left it
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "picture.jpg").write_bytes(b"")
    refuses(model, processor, tmp_path / "data", "is no model")
    refuses(model, processor, tmp_path / "data" / "picture.jpg", "is a file")
    publish_model(model, processor, tmp_path / "pets")
    card = tmp_path / "pets" / "README.md"
    card.write_text(card.read_text() + "More about pets.\n")
    refuses(model, processor, tmp_path / "pets", "somebody has changed")


def test_an_empty_folder_is_filled(model, processor, tmp_path):
    (tmp_path / "pets").mkdir()
    publish_model(model, processor, tmp_path / "pets")
    assert (tmp_path / "pets" / "model.safetensors").exists()


def test_publishing_that_fails_leaves_everything_as_it_was(model, processor, tmp_path, monkeypatch):
    publish_model(model, processor, tmp_path / "pets")
    before = contents(tmp_path / "pets")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(processor, "save_pretrained", fail, raising=False)
    for folder in ("pets", "new"):
        with pytest.raises(OSError, match="disk full"):
            publish_model(model, processor, tmp_path / folder)
    assert contents(tmp_path / "pets") == before
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_class_that_does_not_bring_its_code_is_refused(model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(EomtImageProcessor, "_auto_class", None)
    with pytest.raises(ValueError, match=r"not complete: .*image_processing_eomt\.py.* missing"):
        publish_model(model, processor, tmp_path / "pets")
    assert not any(tmp_path.iterdir())


def test_publishing_a_published_model_again_says_what_its_card_said(model, processor, tmp_path):
    facts = {
        "license": "other",
        "license_name": "pets-licence",
        "license_link": "https://example.org/licence",
        "datasets": ["pets", "more-pets"],
        "base_model": "me/base",
        "results": {"pq": 0.5, "sq": 0.75},
        "results_source": ("The authors", "https://example.org"),
        "tags": ["animals"],
    }
    publish_model(model, processor, tmp_path / "pets", **facts)

    def publish(target, *options):
        main([str(tmp_path / "pets"), str(tmp_path / target), *options])
        metadata = ModelCard.load(tmp_path / target / "README.md").data.to_dict()
        results = metadata.pop("model-index", [{"results": None}])[0]["results"]
        return metadata, results

    expected = ModelCard.load(tmp_path / "pets" / "README.md").data.to_dict()
    expected_results = expected.pop("model-index")[0]["results"]
    assert publish("same") == (expected, expected_results)
    assert publish("pets") == (expected, expected_results)
    metadata, results = publish("changed", "--license", "mit", "--dataset", "pets")
    changed = {name: value for name, value in expected.items() if not name.startswith("license_")}
    assert (metadata, results) == ({**changed, "license": "mit", "datasets": ["pets"]}, expected_results)
    (tmp_path / "results.json").write_text('{"eval_pq": 0.6}')
    _, (result,) = publish("measured", "--results", str(tmp_path / "results.json"))
    assert result["metrics"] == [{"type": "pq", "value": 0.6}] and "source" not in result
    metadata, results = publish("instances", "--task", "instance")
    assert results is None and metadata["tags"] == ["eomt", "instance-segmentation", "animals"]


def test_results_that_are_older_than_the_weights_are_left_out(source, tmp_path, capsys):
    os.utime(source / "evaluation.json", (0, 0))
    main([str(source), str(tmp_path / "pets")])
    assert ModelCard.load(tmp_path / "pets" / "README.md").data.eval_results is None
    assert "older than the weights" in capsys.readouterr().err
    main([str(source), str(tmp_path / "pets"), "--results", str(source / "evaluation.json")])
    assert ModelCard.load(tmp_path / "pets" / "README.md").data.eval_results is not None


def test_a_card_that_somebody_changed_stays_on_the_hub_and_tags_of_others_are_kept(source, hub, tmp_path, caplog):
    main([str(source), str(tmp_path / "pets"), "--push-to-hub", "me/pets"])
    hub.files["README.md"] = hub.files["README.md"].replace(b"- eomt\n", b"- eomt\n- mine\n")
    main([str(source), str(tmp_path / "pets"), "--push-to-hub", "me/pets", "--license", "mit"])
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "mit" and card.data.tags == ["eomt", "panoptic-segmentation", "mine"]
    assert ModelCard.load(tmp_path / "pets" / "README.md").data.tags == card.data.tags and not caplog.records
    hub.files["README.md"] = b"# M\xfcll\n"
    main([str(source), str(tmp_path / "pets"), "--push-to-hub", "me/pets"])
    assert hub.files["README.md"] == b"# M\xfcll\n" and "it stays" in caplog.text


def test_the_folder_goes_to_the_hub_with_its_card(source, hub, tmp_path):
    (tmp_path / "pets").mkdir()
    main([str(source), str(tmp_path / "pets"), "--push-to-hub", "me/pets", "--private"])
    assert hub.files == contents(tmp_path / "pets")
    assert hub.calls[0] == ("create_repo", "me/pets", {"private": True, "exist_ok": True})
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.eval_results[0].metric_value == 0.5
    assert 'model="me/pets"' in card.text
    (tmp_path / "pets" / "secret.txt").write_text("mine")
    main([str(source), str(tmp_path / "pets"), "--push-to-hub", "me/pets", "--license", "mit"])
    assert "secret.txt" not in hub.files
    assert ModelCard(hub.files["README.md"].decode()).data.license == "mit"


def test_a_source_without_image_processor_needs_a_task(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "weights")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "weights"), str(tmp_path / "pets")])
    assert "--task" in capsys.readouterr().err
    main([str(tmp_path / "weights"), str(tmp_path / "pets"), "--task", "panoptic", "--stuff-classes", "2"])
    settings = json.loads((tmp_path / "pets" / "preprocessor_config.json").read_text())
    assert (settings["task"], settings["stuff_classes"]) == ("panoptic", [2])
    assert settings["size"] == {"shortest_edge": 64, "longest_edge": 64}


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_every_task_is_published(source, tmp_path, task):
    main([str(source), str(tmp_path / "pets"), "--task", task])
    settings = json.loads((tmp_path / "pets" / "preprocessor_config.json").read_text())
    assert (settings["task"], settings["do_split_image"]) == (task, task == "semantic")
    assert f"{task}-segmentation" in ModelCard.load(tmp_path / "pets" / "README.md").data.tags


def test_the_command_says_in_one_line_what_is_wrong(source, tmp_path, capsys):
    (tmp_path / "report.json").write_text('{"eval_loss": 1.0}')
    published = ("--published", "coco_panoptic_eomt_large_640")
    broken = shutil.copytree(source, tmp_path / "broken")
    (broken / "preprocessor_config.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "mask2former"}')
    for arguments, message in (
        ([source, source], "not published there"),
        ([tmp_path / "other", tmp_path / "pets"], "model_type='mask2former'"),
        ([source, tmp_path / "pets", "--results", tmp_path / "report.json"], "no results"),
        ([source / "model.safetensors", tmp_path / "pets"], "--published"),
        ([source / "model.safetensors", tmp_path / "pets", *published, "--task", "instance"], "Leave out --task"),
        ([broken, tmp_path / "pets", "--task", "panoptic"], "preprocessor_config.json"),
        ([tmp_path / "nothing", tmp_path / "pets"], "nothing"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: ") and message in error
    assert not (tmp_path / "pets").exists()


def test_a_missing_library_is_one_line(source, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise ImportError("torchvision is missing")

    monkeypatch.setattr("training_eomt.publishing.__main__.load_source", fail)
    with pytest.raises(SystemExit):
        main([str(source), str(tmp_path / "pets")])
    assert capsys.readouterr().err == "error: torchvision is missing\n"


@pytest.mark.parametrize("after", range(0, 60, 8))
def test_a_kill_leaves_the_former_model_the_new_one_or_none(model, processor, tmp_path, monkeypatch, after):
    """The next call deletes what it left."""
    folder = tmp_path / "pets"
    model.query.weight.data.fill_(1.0)
    publish_model(model, processor, folder)
    model.query.weight.data.fill_(2.0)
    model.config.class_weight = 3.0

    class Killed(BaseException):
        pass

    calls = []

    def stop(function):
        def counted(*arguments, **options):
            calls.append(function)
            if len(calls) > after:
                raise Killed
            return function(*arguments, **options)

        return counted

    with monkeypatch.context() as patches:
        patches.setattr(Path, "replace", stop(Path.replace))
        patches.setattr(Path, "unlink", stop(Path.unlink))
        patches.setattr("training_eomt.folders.shutil.rmtree", lambda path: None)
        with suppress(Killed):
            publish_model(model, processor, folder)
    if (folder / "config.json").is_file():
        loaded = EomtForUniversalSegmentation.from_pretrained(folder)
        assert (loaded.query.weight.mean().item(), loaded.config.class_weight) in ((1.0, 2.0), (2.0, 3.0))
    else:
        with pytest.raises(OSError, match=r"config\.json"):
            EomtForUniversalSegmentation.from_pretrained(folder)
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= {".draft"}
    publish_model(model, processor, folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert EomtForUniversalSegmentation.from_pretrained(folder).query.weight.mean() == 2.0


def test_what_a_killed_process_left_is_taken_away(model, processor, tmp_path):
    (tmp_path / "pets" / ".draft").mkdir(parents=True)
    (tmp_path / "pets" / ".draft" / "model.safetensors").write_text("half")
    publish_model(model, processor, tmp_path / "pets")
    assert not (tmp_path / "pets" / ".draft").exists() and (tmp_path / "pets" / "model.safetensors").exists()


def test_a_full_or_read_only_disk_is_said_before_the_model_is_loaded(source, tmp_path, capsys, monkeypatch):
    def untimely(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr("training_eomt.publishing.__main__.load_source", untimely)

    def fails(message):
        with pytest.raises(SystemExit):
            main([str(source), str(tmp_path / "deep" / "pets")])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line and str(tmp_path / "deep" / "pets") in line

    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    fails("0 MB free")

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    fails("cannot be written: Read-only file system")
    assert not (tmp_path / "deep").exists()


def test_a_failure_of_the_hub_is_one_line(source, hub, tmp_path, capsys, monkeypatch):
    class UnreachableError(Exception):
        pass

    def fail(*args, **kwargs):
        raise UnreachableError("no route\nto \x1b[31mhost")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    with pytest.raises(SystemExit) as stop:
        main([str(source), str(tmp_path / "pets"), "--push-to-hub", "me/pets"])
    assert stop.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'pets'} is written, but it could not be uploaded to me/pets: ")
    assert line.endswith("UnreachableError: no route to \\x1b[31mhost")
    assert (tmp_path / "pets" / "config.json").is_file()


@pytest.mark.parametrize("content", ["", "[", "[1]", "5", "[" * 5000, '{"a": ' * 5000, "\udcff"])
def test_a_report_that_is_no_json_object_is_named(source, tmp_path, capsys, content):
    (tmp_path / "report.json").write_text(content, errors="surrogateescape")
    with pytest.raises(SystemExit):
        main([str(source), str(tmp_path / "pets"), "--results", str(tmp_path / "report.json")])
    assert "report.json is not a JSON object" in capsys.readouterr().err

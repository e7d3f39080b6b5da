"""Who may write a model card, and how saved things get to the Hub."""

import json
import os
import stat

import pytest
from huggingface_hub import ModelCard
from transformers.dynamic_module_utils import get_relative_imports

from configuration_eomt import EomtConfig
from configuration_eomt.model_card_eomt import WRITTEN_BY_EXPORT, WRITTEN_BY_SAVE, read_metadata
from configuration_eomt.sharing_eomt import push_folder, write_model_card


def card_of(folder):
    return ModelCard.load(folder / "README.md")


# Pushing to the Hub. `hub` is one in memory.
def hub_card(hub):
    return ModelCard(hub.files["README.md"].decode())


@pytest.mark.parametrize("model_first", [True, False])
def test_the_card_is_the_same_whichever_is_saved_first(model, processor, tmp_path, monkeypatch, model_first):
    monkeypatch.chdir(tmp_path)
    for part in (model, processor) if model_first else (processor, model):
        part.save_pretrained("outputs/pets")
    card = card_of(tmp_path / "outputs/pets")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "image-segmentation",
        "tags": ["eomt", "panoptic-segmentation"],
    }
    assert 'model="outputs/pets"' in card.text
    for said in (
        "# pets",
        "3: cat, dog, sky (stuff)",
        "64x64 pixels",
        "7, in the last 2 blocks",
        "3 blocks of width 32",
    ):
        assert said in card.text


def test_a_model_alone_has_a_card_and_a_processor_alone_has_none(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "processor")
    assert "pipeline(" not in card_of(tmp_path / "model").text
    assert not (tmp_path / "processor" / "README.md").exists()


def test_a_processor_beside_another_kind_of_model_writes_no_card(processor, tmp_path):
    for model_type in ("mask2former", "eomt_video", None):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        processor.save_pretrained(tmp_path)
        assert not (tmp_path / "README.md").exists()


def test_saving_leaves_a_persons_card_alone(model, processor, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


def test_an_exports_card_makes_way_for_a_model_and_not_for_a_processor(model, processor, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    write_model_card(tmp_path, written_by=WRITTEN_BY_EXPORT, license="mit", results={"pq": 0.9}, tags=["mine"])
    before = (tmp_path / "README.md").read_text()
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == before and not caplog.records
    model.save_pretrained(tmp_path)
    card = card_of(tmp_path)
    assert WRITTEN_BY_SAVE in card.text and WRITTEN_BY_EXPORT not in card.text
    assert card.data.license is None and card.data.eval_results is None
    assert card.data.tags == ["eomt", "panoptic-segmentation", "mine"]
    assert "README.md is written anew" in caplog.text


def test_only_the_main_process_writes_a_card(model, tmp_path):
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "README.md").exists()


def test_metadata_that_cannot_be_read_is_written_anew(model, tmp_path):
    (tmp_path / "README.md").write_text(f"---\ntags: [\n---\n{WRITTEN_BY_SAVE}\n")
    with pytest.raises(ValueError, match="the card cannot be read"):
        read_metadata((tmp_path / "README.md").read_text())
    model.save_pretrained(tmp_path)
    assert card_of(tmp_path).data.tags == ["eomt"]


def test_a_card_needs_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        write_model_card(tmp_path)


@pytest.mark.parametrize("model_first", [True, False])
def test_both_pushes_together_give_the_whole_folder_and_one_card(model, processor, hub, model_first):
    for part in (model, processor) if model_first else (processor, model):
        part.push_to_hub("me/pets")
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "modeling_eomt.py"} <= set(hub.files)
    assert {"image_processing_eomt.py", "pipeline_eomt.py", "model_card_eomt.py"} <= set(hub.files)
    assert b"def render_card(" in hub.files["model_card_eomt.py"]
    assert b"class EomtConfig(" in hub.files["configuration_eomt.py"]
    card = hub_card(hub)
    assert card.data.tags == ["eomt", "panoptic-segmentation"]
    assert 'pipeline("image-segmentation", model="me/pets", trust_remote_code=True)' in card.text
    # What the second push only read is not uploaded again.
    assert ("config.json" in hub.commits[1]["files"]) != model_first
    assert ("preprocessor_config.json" in hub.commits[1]["files"]) == model_first


def test_a_push_takes_transformers_parameters(model, hub):
    result = model.push_to_hub(
        "pets",
        commit_message="Better",
        commit_description="Much better",
        private=True,
        token="secret",
        revision="next",
        create_pr=True,
        max_shard_size="5KB",
        tags=["pets"],
    )
    assert result == "commit 1"
    assert hub.calls == [
        ("create_repo", "pets", {"private": True, "token": "secret", "exist_ok": True}),
        ("create_branch", "me/pets", {"branch": "next", "token": "secret", "exist_ok": True}),
    ]
    commit = hub.commits[0]
    assert len([name for name in commit.pop("files") if name.endswith(".safetensors")]) > 1
    assert commit == {
        "repo_id": "me/pets",
        "commit_message": "Better",
        "commit_description": "Much better",
        "token": "secret",
        "revision": "next",
        "create_pr": True,
    }
    assert "pets" in hub_card(hub).data.tags
    assert b"secret" not in b"".join(hub.files.values())
    with pytest.raises(TypeError, match="privat"):
        model.push_to_hub("pets", privat=True)


@pytest.mark.parametrize("text", [b"# Mine\n", b"# M\xfcll\n"])
def test_a_push_leaves_a_persons_card_alone(model, processor, hub, text):
    hub.files["README.md"] = text
    model.push_to_hub("me/pets")
    processor.push_to_hub("me/pets")
    assert hub.files["README.md"] == text
    assert all("README.md" not in commit["files"] for commit in hub.commits)


def test_an_exports_card_on_the_hub_makes_way_for_a_model_and_not_for_a_processor(model, processor, hub, caplog):
    model.push_to_hub("me/pets")
    hub.files["README.md"] = f"---\nlicense: mit\n---\n{WRITTEN_BY_EXPORT}\n".encode()
    processor.push_to_hub("me/pets")
    assert hub_card(hub).data.license == "mit" and not caplog.records
    model.push_to_hub("me/pets")
    assert hub_card(hub).data.license is None
    assert "me/pets/README.md is written anew" in caplog.text


def test_tags_of_the_card_that_is_replaced_go_on(model, processor, hub):
    model.push_to_hub("me/pets", tags=["mine"])
    processor.push_to_hub("me/pets", tags=["yours"])
    assert hub_card(hub).data.tags == ["eomt", "panoptic-segmentation", "mine", "yours"]
    processor.task = "instance"
    processor.push_to_hub("me/pets")
    assert hub_card(hub).data.tags == ["eomt", "instance-segmentation", "mine", "yours"]


def test_saving_with_push_uploads_a_persons_own_card(model, processor, hub, tmp_path):
    own = b"# M\xfcll's pets\n"
    (tmp_path / "README.md").write_bytes(own)
    hub.files["README.md"] = f"{WRITTEN_BY_SAVE}\n".encode()
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pets")
    assert hub.files["README.md"] == own
    (tmp_path / "README.md").write_text("# Another\n")
    processor.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pets")
    assert hub.files["README.md"] == own


def test_an_exports_push_replaces_what_saves_and_exports_wrote_and_nothing_else(model, hub, tmp_path):
    model.save_pretrained(tmp_path)
    for present, replaced in ((WRITTEN_BY_SAVE, True), (WRITTEN_BY_EXPORT, True), ("# Mine", False)):
        hub.files["README.md"] = present.encode()
        push_folder(tmp_path, "me/pets", card="# New")
        assert (hub.files["README.md"] == b"# New") == replaced


def test_a_processor_pushed_beside_another_kind_of_model_brings_no_card(processor, hub):
    hub.files["config.json"] = b'{"model_type": "mask2former"}'
    processor.push_to_hub("me/pets")
    assert "README.md" not in hub.files


def test_saving_with_push_uploads_what_was_written_and_a_card_with_the_repositorys_name(
    model, processor, hub, tmp_path
):
    (tmp_path / "notes.txt").write_text("not for the Hub")
    (tmp_path / "checkpoint-2").mkdir()
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pets", commit_message="First", variant="fp32")
    processor.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pets", private=True)
    assert "model.fp32.safetensors" in hub.files and "notes.txt" not in hub.files
    assert [commit["commit_message"] for commit in hub.commits] == ["First", "Upload EomtImageProcessor"]
    assert "model.fp32.safetensors" not in hub.commits[1]["files"]
    assert 'model="me/pets"' in hub_card(hub).text
    assert f'model="{tmp_path.as_posix()}"' in card_of(tmp_path).text


def test_all_that_a_model_names_is_in_its_folder_and_everybody_may_read_it(model, tmp_path):
    umask = os.umask(0o022)
    try:
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        model.save_pretrained(tmp_path / "whole")
    finally:
        os.umask(umask)
    for folder in (tmp_path, tmp_path / "whole"):
        config = EomtConfig.from_pretrained(folder)
        named = {*config.auto_map.values(), config.custom_pipelines["image-segmentation"]["impl"]}
        files = {f"{name.split('.')[0]}.py" for name in named}
        assert "pipeline_eomt.py" in files
        while files:
            file = folder / files.pop()
            assert "Stands in for" not in file.read_text()
            files |= {f"{name}.py" for name in get_relative_imports(file)}
        modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}
        assert modes == {0o644}


def test_code_of_others_is_not_handed_on(model, tmp_path):
    """What is saved holds this code, whatever the folder that a model was loaded from pointed to."""
    model.save_pretrained(tmp_path / "theirs")
    settings = json.loads((tmp_path / "theirs" / "config.json").read_text())
    settings["auto_map"] |= {name: f"other/repo--evil.{name}" for name in ("AutoModel", "AutoConfig", "AutoTokenizer")}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(settings))
    loaded = type(model).from_pretrained(tmp_path / "theirs")
    assert loaded.config.auto_map["AutoModel"] == "other/repo--evil.AutoModel"  # for who loads that folder
    alone = EomtConfig.from_pretrained(tmp_path / "theirs")
    for part in (loaded, alone):
        part.save_pretrained(tmp_path / "ours")
        saved = json.loads((tmp_path / "ours" / "config.json").read_text())["auto_map"]
        assert saved == {
            "AutoConfig": "configuration_eomt.EomtConfig",
            "AutoModel": "modeling_eomt.EomtForUniversalSegmentation",
            "AutoModelForUniversalSegmentation": "modeling_eomt.EomtForUniversalSegmentation",
            "AutoModelForImageSegmentation": "modeling_eomt.EomtForUniversalSegmentation",
        }


def test_a_model_in_the_folder_is_replaced_as_a_whole(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.query.weight.data.fill_(2.0)

    def full(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patches:
        patches.setattr("transformers.modeling_utils.safe_save_file", full)
        with pytest.raises(OSError, match="disk full"):
            model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {name for name in before if not name.startswith("model-") and "index" not in name} | {
        "model.safetensors"
    }
    assert type(model).from_pretrained(tmp_path).query.weight.mean() == 2.0

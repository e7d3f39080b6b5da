"""The cards of the published checkpoints: they agree with the authors' figures, and what they tell to do works."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from stand_ins import TINY_SIZE, put_in_cache, shrink_sizes, write_original, write_original_dinov3

from configuration_eomt import EOMT_SIZES
from eomt_transformers.command import main as eomt
from loading_eomt import published_checkpoints
from training_eomt.publishing.__main__ import main


ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "model_cards"
NAMES = list(published_checkpoints())


def write_cards():
    spec = importlib.util.spec_from_file_location("write_cards", CARDS / "write_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_cards


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (CARDS / f"{name}.md").read_text(), re.DOTALL)


def test_the_cards_are_what_the_script_writes(tmp_path):
    write_cards()(tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in CARDS.glob("*.md")}
    assert set(written) == {f"{name}.md" for name in NAMES} | {"README.md"}


def test_the_table_has_every_checkpoint_with_the_authors_figures(reference):
    published = json.loads((reference / "published_checkpoints.json").read_text())
    assert [entry["hub_id"] for entry in published] == [card.repository for card in published_checkpoints().values()]
    for entry, checkpoint in zip(published, published_checkpoints().values()):
        assert entry["dataset_task"] == f"{checkpoint.dataset}_{checkpoint.task}"
        for theirs, ours in (("backbone", "backbone"), ("image_size", "image_size"), ("metric", "metric")):
            assert entry[theirs] == getattr(checkpoint, ours)
        assert (entry["value"], entry["speed"]) == (checkpoint.value, checkpoint.speed)
        assert entry["pretrained_on_coco_panoptic"] == checkpoint.pretrained_on_coco
        assert entry["weights"].startswith("delta") == (checkpoint.base_backbone is not None)
        size = {"S": "small", "B": "base", "L": "large", "g": "giant", "7B": "7b"}[entry["size"]]
        assert checkpoint.size == ("dinov3_" if entry["backbone"] == "DINOv3" else "") + size


def test_the_table_agrees_with_the_authors_recipes(reference):
    recipes = json.loads((reference / "published_recipes.json").read_text())
    sizes = {"small": "S", "base": "B", "large": "L", "giant": "g"}
    found = 0
    for recipe in recipes:
        size, family = re.search("small|base|large|giant", recipe["name"])[0], recipe["name"].rsplit("_", 1)[1]
        for checkpoint in published_checkpoints().values():
            same = (checkpoint.dataset, checkpoint.task) == (recipe["dataset"], recipe["task"])
            is_dinov3 = checkpoint.base_backbone is not None
            if same and is_dinov3 == (family == "dinov3") and checkpoint.size.endswith(size):
                found += checkpoint.image_size == recipe["image_size"][0]
                assert checkpoint.num_queries == recipe["num_queries"]
                assert checkpoint.config.num_blocks == recipe["num_query_blocks"]
                assert len(checkpoint.labels) == recipe["num_labels"]
                if is_dinov3:
                    assert checkpoint.base_backbone == recipe["backbone"]
    assert found >= len(sizes)


def test_the_classes_are_the_data_sets(reference):
    data_sets = json.loads((reference / "datasets.json").read_text())
    for checkpoint in published_checkpoints().values():
        classes = data_sets[checkpoint.dataset]
        classes = classes if isinstance(classes, list) else classes["classes"]
        if checkpoint.task == "instance":
            classes = [category for category in classes if category["isthing"]]
        assert list(checkpoint.labels) == [category["name"] for category in classes]
        stuff = [category["label_id"] for category in classes if not category["isthing"]]
        assert list(checkpoint.stuff_classes) == (stuff if checkpoint.task == "panoptic" else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_cards_metadata(name):
    card, checkpoint = ModelCard.load(CARDS / f"{name}.md"), published_checkpoints()[name]
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-segmentation")
    assert data.tags == ["eomt", f"{checkpoint.task}-segmentation"]
    assert data.datasets == [checkpoint.dataset] and data.base_model == f"tue-mps/{name}"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == (checkpoint.metric, checkpoint.value)
    assert result.source_url == "https://github.com/tue-mps/eomt"
    if checkpoint.backbone == "DINOv3":
        assert (data.license, data.license_name) == ("other", "dinov3-license")
        assert data.license_link.startswith("https://ai.meta.com/")
    else:  # Web-SSL DINO is not for commercial use
        assert data.license == ("cc-by-nc-4.0" if "7b" in name else "mit")
    assert "not measured here" in card.text and f"| {checkpoint.value} |" in card.text
    assert "check it before you use the weights" in card.text
    assert len(blocks(name, "bash")) == 1 and len(blocks(name, "python")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_card_tells_to_do_works_on_a_small_stand_in(name, tmp_path, monkeypatch, remote_code_cache):
    checkpoint = published_checkpoints()[name]
    shrink_sizes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    Image.new("RGB", (60, 40), (200, 30, 30)).save("image.jpg")
    write = write_original_dinov3 if checkpoint.base_backbone else write_original
    model = write(name, tmp_path / "original")
    put_in_cache(tmp_path / "cache", checkpoint.repository, tmp_path / "original")
    if checkpoint.base_backbone:
        put_in_cache(tmp_path / "cache", checkpoint.base_backbone, tmp_path / "original" / "backbone")

    as_published, converted = blocks(name, "python")
    is_small = checkpoint.image_size <= 640  # the larger ones take their time
    found: dict = {}
    exec(as_published if is_small else as_published.partition("for ")[0], found)
    segmenter = found["segmenter"]
    assert segmenter.image_processor.task == checkpoint.task

    program, *words = shlex.split(blocks(name, "bash")[0].replace("\\\n", ""))
    assert program == "eomt"
    eomt(words)
    exported = type(model).from_pretrained(name)
    for parameter, weight in model.state_dict().items():
        assert torch.equal(exported.state_dict()[parameter], weight), parameter
        assert torch.equal(segmenter.model.state_dict()[parameter], weight), parameter
    settings = json.loads(Path(name, "preprocessor_config.json").read_text())
    assert settings["task"] == checkpoint.task
    edges = ["shortest_edge"] if checkpoint.task == "semantic" else ["shortest_edge", "longest_edge"]
    assert settings["size"] == dict.fromkeys(edges, checkpoint.image_size)
    assert "not measured here" in Path(name, "README.md").read_text()

    exec(converted if is_small else converted.partition("for ")[0], found)
    assert type(found["segmenter"]).__module__.startswith("transformers_modules")
    if is_small:
        everything = {"threshold": 0.0}
        if checkpoint.task == "panoptic":
            everything["overlap_mask_area_threshold"] = 0.0
        segments = found["segmenter"]("image.jpg", **everything)
        labels = {segment["label"] for segment in segments}
        assert labels and labels <= set(checkpoint.labels)
        expected = segmenter("image.jpg", **everything)
        assert [(one["label"], one["score"]) for one in segments] == [(one["label"], one["score"]) for one in expected]


def test_a_file_of_another_model_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EOMT_SIZES, "large", {**EOMT_SIZES["large"], **TINY_SIZE})
    write_original("coco_panoptic_eomt_large_640", tmp_path / "original")
    file = str(tmp_path / "original" / "pytorch_model.bin")
    for name, message in (
        ("ade20k_semantic_eomt_large_512", "num_queries is 200, not 100, number of classes is 133, not 150"),
        ("coco_panoptic_eomt_giant_640", "hidden_size is 64, not 1536"),
    ):
        with pytest.raises(SystemExit):
            main([file, str(tmp_path / "model"), "--published", name])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()

"""Any checkpoint is loaded right by default: published ones on a small Hub, Transformers' own, this project's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from stand_ins import put_in_cache

from eomt_transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
    pipeline,
)
from loading_eomt import find_checkpoint, published_checkpoints
from modeling_eomt import MODEL_CLASSES, convert_official_checkpoint
from modeling_eomt.official_checkpoints import infer_config


DELTA = "coco_panoptic_eomt_large_640_dinov3"
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_blocks": 1, "num_queries": 7}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that puts a folder into the Hub's cache under a name; the network is off."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def put(name: str, folder: Path) -> str:
        put_in_cache(cache, name, folder)
        return name

    return put


def save_as_transformers(folder: Path, model_type: str, labels: list[str], splits: bool = False) -> None:
    """Writes a small model and its processor as Transformers' own classes do, which know no task and no stuff."""
    id2label = dict(enumerate(labels))
    if model_type == "eomt":
        config = transformers.EomtConfig(**TINY, image_size=64, num_register_tokens=1, id2label=id2label)
        model = transformers.EomtForUniversalSegmentation(config)
    else:
        config = transformers.EomtDinov3Config(**TINY, image_size=64, num_register_tokens=1, id2label=id2label)
        model = transformers.EomtDinov3ForUniversalSegmentation(config)
    with torch.no_grad():  # segments of every size, with sure classes
        model.class_predictor.weight.mul_(40)
        model.attn_mask_probs.zero_()
    model.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": None if splits else 64}
    transformers.EomtImageProcessor(size=size, do_split_image=splits, do_pad=not splits).save_pretrained(folder)


def an_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


def assert_same_segments(found: list[dict], expected: list[dict]) -> None:
    assert [(segment["label"], segment["score"]) for segment in found] == [
        (segment["label"], segment["score"]) for segment in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("coco_panoptic_eomt_large_640", "eomt"),
        ("coco_instance_eomt_large_640", "eomt"),
        ("ade20k_semantic_eomt_large_512", "eomt"),
        ("coco_panoptic_eomt_base_640_dinov3", "eomt_dinov3"),
        ("coco_instance_eomt_large_640_dinov3", "eomt_dinov3"),
    ],
)
def test_a_published_checkpoint_gives_what_the_step_by_step_way_gives(hub, tmp_path, name, model_type, caplog):
    published = published_checkpoints()[name]
    save_as_transformers(tmp_path / "saved", model_type, list(published.labels), published.task == "semantic")
    settings = {"threshold": 0.0} if published.task != "semantic" else {}
    if published.task == "panoptic":
        settings["overlap_mask_area_threshold"] = 0.0
    segmenter = pipeline(hub(f"tue-mps/{name}", tmp_path / "saved"), **settings)
    assert segmenter.image_processor.task == published.task
    assert (segmenter.image_processor.stuff_classes or []) == list(published.stuff_classes)
    assert f"{published.task.capitalize()} segmentation" in caplog.text

    image = an_image()
    model = MODEL_CLASSES[model_type].from_pretrained(tmp_path / "saved").eval()
    processor = EomtImageProcessor(**{**published.processor_settings, "size": 64})
    inputs = processor(images=image, return_tensors="pt", input_data_format="channels_last")
    with torch.no_grad():
        outputs = model(inputs["pixel_values"])
    if published.task == "semantic":
        class_map = processor.post_process(outputs, [(50, 90)])[0]
        assert len(inputs["pixel_values"]) > 1  # windows
        found = segmenter(image)
        assert [segment["label"] for segment in found] == [published.labels[index] for index in class_map.unique()]
        for segment, index in zip(found, class_map.unique(), strict=True):
            assert np.array_equal(np.asarray(segment["mask"]) > 0, class_map == index)
        return
    if published.task == "instance":
        settings["return_binary_maps"] = True
    result = processor.post_process(outputs, [(50, 90)], **settings)[0]
    infos = [info for info in result["segments_info"] if info["area"]]
    found = segmenter(image)
    assert len(found) == len(infos) > 0
    for segment, info in zip(found, infos, strict=True):
        maps = result["segmentation"]
        mask = maps[info["id"]] if published.task == "instance" else maps == info["id"]
        assert segment["label"] == published.labels[info["label_id"]] and segment["score"] == info["score"]
        assert np.array_equal(np.asarray(segment["mask"]) > 0, mask)
    if published.task == "panoptic":
        stuff = [
            segment["label"]
            for segment in found
            if segment["label"] in {published.labels[i] for i in published.stuff_classes}
        ]
        assert len(stuff) == len(set(stuff))


def delta_on_the_hub(hub, golden, tmp_path, with_backbone: bool = True) -> str:
    folder = tmp_path / "delta"
    folder.mkdir()
    torch.save(load_file(golden / "dinov3_gated.delta_weights.safetensors"), folder / "pytorch_model.bin")
    if with_backbone:
        hub(published_checkpoints()[DELTA].base_backbone, golden / "dinov3_gated.base_backbone")
    return hub(f"tue-mps/{DELTA}", folder)


def test_a_published_difference_finds_its_backbone_by_itself(hub, golden, tmp_path, caplog):
    checkpoint = find_checkpoint(delta_on_the_hub(hub, golden, tmp_path))
    assert (checkpoint.model_type, checkpoint.published.name) == ("eomt_dinov3", DELTA)
    model = checkpoint.load_model()
    assert f"a difference to the backbone {checkpoint.published.base_backbone}" in caplog.text
    weights = load_file(golden / "dinov3_gated.delta_weights.safetensors")
    base = golden / "dinov3_gated.base_backbone"
    expected = convert_official_checkpoint(weights, infer_config(weights, 640, base_backbone=base), base)
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert model.config.num_attention_heads == json.loads((base / "config.json").read_text())["num_attention_heads"]
    processor = checkpoint.load_image_processor()
    assert processor.task == "panoptic" and len(processor.stuff_classes) == 53


def test_a_published_difference_says_what_access_it_needs(hub, golden, tmp_path):
    checkpoint = find_checkpoint(delta_on_the_hub(hub, golden, tmp_path, with_backbone=False))
    said = (
        r"difference to the backbone (\S+), which cannot be read.*ask for it at https://huggingface.co/\1, then log in"
    )
    with pytest.raises(OSError, match=said):
        checkpoint.load_model()
    model = checkpoint.load_model(base_backbone=golden / "dinov3_gated.base_backbone", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and not model.training


@pytest.mark.parametrize(
    ("dataset", "part", "splits", "task"),
    [
        ("coco", "all", False, "panoptic"),
        ("coco", "things", False, "instance"),
        ("ade20k", "all", True, "semantic"),
        ("ade20k", "all", False, "panoptic"),
    ],
)
def test_classes_of_a_known_dataset_tell_the_task_where_nothing_else_does(tmp_path, dataset, part, splits, task):
    published = next(
        one for one in published_checkpoints().values() if (one.dataset, one.task) == (dataset, "panoptic")
    )
    labels, stuff = list(published.labels), set(published.stuff_classes)
    if part == "things":
        labels = [label for index, label in enumerate(labels) if index not in stuff]
    labels = [label.title().replace(" ", "_") for label in labels]  # as other tools spell them
    save_as_transformers(tmp_path, "eomt", labels, splits)
    processor = find_checkpoint(tmp_path).load_image_processor()
    assert processor.task == task and set(processor.stuff_classes or ()) == (stuff if task == "panoptic" else set())


def test_what_a_checkpoint_says_itself_counts(tmp_path, caplog):
    published = published_checkpoints()["coco_panoptic_eomt_large_640"]
    folder = tmp_path / published.name
    save_as_transformers(folder, "eomt", list(published.labels))
    EomtImageProcessor(task="instance", size=64).save_pretrained(folder)
    processor = find_checkpoint(folder).load_image_processor()
    assert (processor.task, processor.stuff_classes) == ("instance", None) and not caplog.text


def test_what_is_given_counts_most(tmp_path):
    save_as_transformers(tmp_path, "eomt", list(published_checkpoints()["coco_panoptic_eomt_large_640"].labels))
    assert pipeline(tmp_path, task="instance").image_processor.task == "instance"
    given = find_checkpoint(tmp_path).load_image_processor(stuff_classes=[5])
    assert (given.task, given.stuff_classes) == ("panoptic", [5])


def test_a_checkpoint_that_does_not_tell_says_so(tmp_path, caplog):
    save_as_transformers(tmp_path, "eomt", ["paper", "sky blue"])
    assert find_checkpoint(tmp_path).load_image_processor().task == "panoptic"
    assert "does not say what it is for" in caplog.text and "`stuff_classes`" in caplog.text


def test_classes_without_names_get_those_that_were_published(tmp_path):
    published = published_checkpoints()["coco_instance_eomt_large_640"]
    folder = tmp_path / published.name
    save_as_transformers(folder, "eomt", [f"LABEL_{index}" for index in range(80)])
    model = find_checkpoint(folder).load_model()
    assert list(model.config.id2label.values()) == list(published.labels)


@pytest.mark.parametrize("name", ["/no/such/folder", "./outputs/none", "~/model", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(OSError, match=f"There is no folder '{name}'"):
        find_checkpoint(name)


@pytest.mark.parametrize("name", ["tue-mps/coco_panoptic_eomt_large_640", f"tue-mps/{DELTA}", "me/model"])
def test_a_hub_that_cannot_be_reached_is_no_hub_without_the_model(hub, name):
    with pytest.raises(OSError, match=r"the Hub cannot be reached|couldn't connect"):
        pipeline(name)


def test_what_is_no_checkpoint_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"holds no EoMT model, but model_type='bert'"):
        find_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match=r"has no config.json with the configuration of a model"):
        find_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a file: .*`eomt convert`"):
        find_checkpoint(tmp_path / "pytorch_model.bin")


def test_without_an_image_processor_the_task_has_to_be_said(tmp_path):
    EomtForUniversalSegmentation(EomtConfig(**TINY, image_size=64)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no image processor: say with task \(--task\)"):
        pipeline(tmp_path)
    processor = pipeline(tmp_path, task="semantic").image_processor
    assert processor.task == "semantic" and processor.do_split_image and dict(processor.size)["shortest_edge"] == 64


def test_this_projects_own_folder_is_its_own_pipeline(tmp_path):
    model = MODEL_CLASSES["eomt_dinov3"](EomtDinov3Config(**TINY, image_size=64, num_register_tokens=1))
    model.save_pretrained(tmp_path)
    EomtImageProcessor(size=64, task="panoptic").save_pretrained(tmp_path)
    image = an_image()
    expected = transformers.pipeline("image-segmentation", model=str(tmp_path), trust_remote_code=True)(
        image, threshold=0.0
    )
    assert_same_segments(pipeline(tmp_path, threshold=0.0)(image), expected)

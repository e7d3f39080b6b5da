"""What is saved runs on a machine that has never heard of this project, and without trust in Transformers' classes."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation
from training_eomt.card import write_card
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.inputs import EvaluationInputs, TrainingInputs
from training_eomt.shapes import generate_shapes_dataset
from training_eomt.trainer import EomtTrainer
from training_eomt.training_arguments import EomtTrainingArguments


# Makes this project unimportable, however it is installed, then runs what follows.
WITHOUT_PROJECT = """
import sys
PROJECT = ("configuration_eomt", "modeling_eomt", "image_processing_eomt", "training_eomt", "run_segmentation")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in PROJECT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


# Makes torchvision look as if it were not installed.
WITHOUT_TORCHVISION = """
import importlib.util
sys.modules["torchvision"] = None
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name.split(".")[0] == "torchvision" else find_spec(name, *args)
"""


def run_elsewhere(script: str, folder: Path, home: Path) -> dict:
    """Runs a script that knows `folder` in a clean process and another working folder; returns what it printed."""
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    code = f"{WITHOUT_PROJECT}\nfolder = {str(folder)!r}\n{script}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Output folder of a short training: the final model, and a checkpoint of the Trainer in `checkpoint-2`."""
    directory = tmp_path_factory.mktemp("trained")
    data = generate_shapes_dataset(directory / "data", 4, 2, 0, image_size=64)
    train = CocoPanopticDataset(data / "train")
    validation = CocoPanopticDataset(data / "validation", train.label_space.id2label)
    processor = EomtImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 64}, stuff_classes=train.label_space.stuff_classes, threshold=0.0
    )
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_blocks=1,
        num_queries=8,
        image_size=64,
        train_num_points=64,
        id2label=train.label_space.id2label,
        label2id={name: label_id for label_id, name in train.label_space.id2label.items()},
    )
    arguments = EomtTrainingArguments(
        output_dir=str(directory / "output"),
        max_steps=2,
        per_device_train_batch_size=2,
        save_steps=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = EomtTrainer(
        model=EomtForUniversalSegmentation(config),
        args=arguments,
        processing_class=processor,
        train_dataset=TrainingInputs(train, processor, None),
        eval_dataset=EvaluationInputs(validation, processor),
    )
    trainer.train()
    trainer.save_model()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    image.save(directory / "output" / "image.png")
    return directory / "output"


LOAD_EVERYTHING = """
import json, torch
from transformers import (AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageSegmentation,
                          AutoModelForUniversalSegmentation, pipeline)
trust = {"trust_remote_code": True}
origins, logits = {}, []
torch.manual_seed(0)
pixel_values = torch.randn(2, 3, 64, 64)
for auto in (AutoModel, AutoModelForUniversalSegmentation, AutoModelForImageSegmentation):
    model = auto.from_pretrained(folder, **trust).eval()
    origins[auto.__name__] = type(model).__module__.split(".")[0]
    logits.append(model(pixel_values).masks_queries_logits)
origins["AutoConfig"] = type(AutoConfig.from_pretrained(folder, **trust)).__module__.split(".")[0]
for backend in ("torchvision", "pil"):
    processor = AutoImageProcessor.from_pretrained(folder, backend=backend, **trust)
    origins[backend] = type(processor).__module__.split(".")[0] + "." + type(processor).__name__
segmenter = pipeline("image-segmentation", model=folder, **trust)
again = pipeline("image-segmentation", model=folder, dtype=torch.bfloat16, **trust)
assert type(again) is type(segmenter) and again.model.dtype == torch.bfloat16
origins["pipeline"] = type(segmenter).__name__
segments = segmenter(folder + "/image.png", threshold=0.0, overlap_mask_area_threshold=0.0)
batched = segmenter([folder + "/image.png"] * 3, batch_size=2, threshold=0.0, overlap_mask_area_threshold=0.0)
try:
    model = AutoModelForUniversalSegmentation.from_pretrained(folder, trust_remote_code=False).eval()
    origins["theirs"] = type(model).__module__.split(".")[0]
except ValueError:  # Transformers has no class for it
    origins["theirs"] = "nowhere"
expected = model(pixel_values).masks_queries_logits
print(json.dumps({
    "origins": origins,
    "segments": [[s["label"], list(s["mask"].size), s["mask"].mode] for s in segments],
    "batched": [len(s) for s in batched],
    "difference": max((other - expected).abs().max().item() for other in logits),
    "project": [name for name in sys.modules if name.split(".")[0] in PROJECT],
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [".", "checkpoint-2"])
def test_a_saved_folder_loads_everywhere_without_the_project(trained, tmp_path, checkpoint):
    folder = trained / checkpoint
    if checkpoint != ".":
        (folder / "image.png").write_bytes((trained / "image.png").read_bytes())
    result = run_elsewhere(LOAD_EVERYTHING, folder, tmp_path / "home")
    loads_everywhere(result)


def loads_everywhere(result, theirs="transformers"):
    """What `LOAD_EVERYTHING` printed for a folder that is as it should be."""
    origins = result["origins"]
    assert origins.pop("theirs") == theirs
    assert origins.pop("torchvision") == "transformers_modules.EomtImageProcessor"
    assert origins.pop("pil") == "transformers_modules.EomtImageProcessorPil"
    assert origins.pop("pipeline") == "EomtImageSegmentationPipeline"
    assert set(origins.values()) == {"transformers_modules"}
    assert all(size == [70, 50] and mode == "L" for _, size, mode in result["segments"])
    assert result["batched"] == [len(result["segments"])] * 3
    assert result["difference"] < 1e-4
    assert result["project"] == []


@pytest.mark.slow
def test_every_family_loads_everywhere_without_the_project(family_config, tmp_path):
    family_config.use_swiglu_ffn = family_config.model_type == "eomt"
    folder = tmp_path / "model"
    MODEL_CLASSES[family_config.model_type](family_config).save_pretrained(folder)
    EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, stuff_classes=[2]).save_pretrained(folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    image.save(folder / "image.png")
    result = run_elsewhere(LOAD_EVERYTHING, folder, tmp_path / "home")
    loads_everywhere(result, "nowhere" if family_config.model_type == "eomt_eva02" else "transformers")


@pytest.mark.slow
def test_the_processor_may_be_saved_first(tiny_config, tmp_path):
    folder = tmp_path / "model"
    EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}).save_pretrained(folder)
    EomtForUniversalSegmentation(tiny_config).save_pretrained(folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    image.save(folder / "image.png")
    loads_everywhere(run_elsewhere(LOAD_EVERYTHING, folder, tmp_path / "home"))


RUN_CARD = r"""
import json, re
card = open(folder + "/README.md", encoding="utf-8").read()
snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
found = {}
exec(snippet, found)
print()
print(json.dumps([type(found[name]).__name__ for name in ("segmenter", "model") if name in found]))
"""


@pytest.mark.slow
def test_the_cards_snippet_runs_without_the_project(trained, tiny_config, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    Image.open(trained / "image.png").save(home / "image.jpg")
    # The names in the card are those of the folders at the time of saving: absolute here.
    assert run_elsewhere(RUN_CARD, trained, home) == ["EomtImageSegmentationPipeline"]
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path / "no_processor")
    write_card(tmp_path / "no_processor")
    assert run_elsewhere(RUN_CARD, tmp_path / "no_processor", home) == ["EomtForUniversalSegmentation"]


def test_the_trainers_folder_has_a_card_that_knows_the_task(trained):
    for folder in (trained, trained / "checkpoint-2"):
        data = ModelCard.load(folder / "README.md").data
        assert (data.library_name, data.pipeline_tag) == ("transformers", "image-segmentation")
        assert "panoptic-segmentation" in data.tags


SAVE_AGAIN = """
import json
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation
again = folder + "-again"
AutoModelForUniversalSegmentation.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
AutoImageProcessor.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
print(json.dumps(again))
"""


@pytest.mark.slow
def test_a_folder_saved_again_from_remote_code_still_loads(trained, tmp_path):
    again = Path(run_elsewhere(SAVE_AGAIN, trained, tmp_path / "home"))
    (again / "image.png").write_bytes((trained / "image.png").read_bytes())
    result = run_elsewhere(LOAD_EVERYTHING, again, tmp_path / "other")
    assert result["origins"]["pipeline"] == "EomtImageSegmentationPipeline"
    assert result["origins"]["AutoModelForImageSegmentation"] == "transformers_modules"
    assert sorted(path.name for path in again.glob("*.py")) == sorted(path.name for path in trained.glob("*.py"))


WITHOUT_TRUST = """
import json
from transformers import pipeline
found = {}
for trust in (False, None):
    segmenter = pipeline("image-segmentation", model=folder, trust_remote_code=trust)  # None asks, and gets no answer
    segmenter(folder + "/image.png")
    parts = (segmenter, segmenter.model, segmenter.image_processor)
    found[str(trust)] = sorted({type(part).__module__.split(".")[0] for part in parts})
print()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_without_trust_the_pipeline_falls_back_to_transformers_own_classes(trained, tmp_path):
    assert run_elsewhere(WITHOUT_TRUST, trained, tmp_path / "home") == {
        "False": ["transformers"],
        "None": ["transformers"],
    }


@pytest.mark.parametrize("checkpoint", [".", "checkpoint-2"])
def test_the_saved_files_are_the_real_ones(trained, checkpoint):
    folder = trained / checkpoint
    assert "class EomtConfig(" in (folder / "configuration_eomt.py").read_text()
    assert (folder / "pipeline_eomt.py").exists()
    assert (folder / "model.safetensors").exists() and not (folder / "pytorch_model.bin").exists()
    config = json.loads((folder / "config.json").read_text())
    assert "custom_pipelines" not in config
    assert sorted(config["auto_map"]) == [
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageSegmentation",
        "AutoModelForUniversalSegmentation",
    ]


def test_a_trained_model_is_saved_without_masks(trained):
    assert EomtForUniversalSegmentation.from_pretrained(trained).mask_probabilities == [0.0]


SIZES = {  # height, width: images that need no resizing, so that both backends see the same
    "panoptic": [(64, 64), (64, 40), (50, 64), (64, 64)],
    "instance": [(64, 64), (64, 40), (50, 64), (64, 64)],
    "semantic": [(64, 64), (64, 150), (200, 64), (64, 64)],
}


@pytest.fixture(scope="module")
def of_every_task(tmp_path_factory) -> Path:
    """A folder for each task, of the same small model that finds something everywhere, with four images."""
    directory = tmp_path_factory.mktemp("tasks")
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_blocks=1,
        num_queries=9,
        image_size=64,
        id2label={0: "cat", 1: "dog", 2: "sky"},
    )
    torch.manual_seed(3)
    model = EomtForUniversalSegmentation(config)
    torch.nn.init.normal_(model.class_predictor.weight, std=2.0)
    with torch.no_grad():  # sharp masks, so that no class is everywhere
        model.mask_head.fc3.weight.mul_(10)
    random = np.random.default_rng(0)
    for task, sizes in SIZES.items():
        model.save_pretrained(directory / task)
        settings = {"threshold": 0.2, "overlap_mask_area_threshold": 0.0}
        EomtImageProcessor(size=64, task=task, stuff_classes=[2], **settings).save_pretrained(directory / task)
        for index, size in enumerate(sizes):
            image = Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8))
            image.save(directory / task / f"image{index}.png")
    return directory


EVERY_TASK = """
import json
import numpy as np
from transformers import pipeline
found = {}
for task in ("panoptic", "instance", "semantic"):
    model = f"{folder}/{task}"
    segmenter = pipeline("image-segmentation", model=model, trust_remote_code=True)
    images = [f"{model}/image{index}.png" for index in range(4)]
    found[task] = {
        "classes": [type(part).__name__ for part in (segmenter, segmenter.image_processor)],
        "by_batch_size": [
            [
                [[s["label"], s["score"] and round(s["score"], 3), s["mask"].size, int(np.count_nonzero(s["mask"]))]
                 for s in segments]
                for segments in segmenter(images, batch_size=batch_size)
            ]
            for batch_size in (1, 3)
        ],
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_task_runs_without_the_project_with_and_without_torchvision(of_every_task, tmp_path):
    found = run_elsewhere(EVERY_TASK, of_every_task, tmp_path / "with")
    without = run_elsewhere(WITHOUT_TORCHVISION + EVERY_TASK, of_every_task, tmp_path / "without")
    for task, sizes in SIZES.items():
        assert found[task]["classes"] == ["EomtImageSegmentationPipeline", "EomtImageProcessor"]
        assert without[task]["classes"] == ["EomtImageSegmentationPipeline", "EomtImageProcessorPil"]
        expected = found[task]["by_batch_size"][0]
        for size, segments in zip(sizes, expected, strict=True):
            assert segments and all(mask_size == [size[1], size[0]] for _, _, mask_size, _ in segments)
            areas = sum(area for *_, area in segments)
            if task == "semantic":
                assert areas == size[0] * size[1] and len(segments) > 1
            else:
                assert areas > 0
        for others in (found[task]["by_batch_size"][1], *without[task]["by_batch_size"]):
            for segments, same in zip(expected, others, strict=True):
                for (label, score, size, area), other in zip(segments, same, strict=True):
                    assert [label, score, size] == other[:3]
                    assert area == pytest.approx(other[3], abs=3)  # a batch may round differently from one image


@pytest.mark.slow
@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_without_trust_a_folder_of_each_task_that_pads_works(of_every_task, tmp_path, task):
    folder = of_every_task / task
    (folder / "image.png").write_bytes((folder / "image0.png").read_bytes())
    assert run_elsewhere(WITHOUT_TRUST, folder, tmp_path / "home") == {
        "False": ["transformers"],
        "None": ["transformers"],
    }


@pytest.fixture
def model(tiny_config) -> EomtForUniversalSegmentation:
    return EomtForUniversalSegmentation(tiny_config)


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
        written = [path for path in folder.iterdir() if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o644}
        assert {path.suffix for path in written} == {".py", ".json", ".safetensors"}


def test_code_that_was_loaded_without_the_pipeline_finds_it_where_it_came_from(model, tmp_path, monkeypatch):
    """As where `AutoModel` loaded it. What lies in a folder that is gone cannot be had, and the rest is saved."""
    model.save_pretrained(tmp_path / "source")
    (tmp_path / "loaded").mkdir()
    for name in ("configuration_eomt.py", "fields_eomt.py"):
        shutil.copy(tmp_path / "source" / name, tmp_path / "loaded")
    monkeypatch.setattr(
        "configuration_eomt.configuration_eomt.__file__", str(tmp_path / "loaded" / "configuration_eomt.py")
    )
    saved = {}
    for source in ("source", "gone"):
        config = EomtConfig(name_or_path=str(tmp_path / source))
        config.save_pretrained(tmp_path / f"from_{source}")
        config.save_pretrained(tmp_path / "source")
        saved[source] = {path.name for path in (tmp_path / f"from_{source}").iterdir()}
    assert saved["gone"] == {"config.json", "configuration_eomt.py", "fields_eomt.py"}
    pipeline_files = {Path(path).name for path in get_relative_import_files(tmp_path / "source" / "pipeline_eomt.py")}
    assert saved["source"] == saved["gone"] | pipeline_files | {"pipeline_eomt.py"}


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


@pytest.mark.parametrize("with_save", [False, True])
def test_what_is_pushed_is_what_a_save_writes(model, hub, tmp_path, with_save):
    """`hub` is one in memory. Transformers' own code pushes, and leaves the text of a card alone."""
    processor = EomtImageProcessor(size=64, stuff_classes=[2])
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    processor.save_pretrained(saved)
    expected = {path.name for path in saved.iterdir()}
    hub.files["README.md"] = b"# Mine\n"
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "notes.txt").write_text("not for the Hub")
    for part in (model, processor):
        if with_save:
            part.save_pretrained(str(tmp_path / "pets"), push_to_hub=True, repo_id="me/pets")
        else:
            part.push_to_hub("me/pets", private=True)
    assert set(hub.files) == {*expected, "README.md"}
    assert {name: hub.files[name] for name in expected if name.endswith((".py", ".json"))} == {
        name: (saved / name).read_bytes() for name in expected if name.endswith((".py", ".json"))
    }
    assert hub.files["README.md"].strip().endswith(b"---\n# Mine")


def test_code_that_travels_is_18_files_at_most_and_cannot_upload(trained):
    assert len(list(trained.glob("*.py"))) <= 18
    for file in trained.glob("*.py"):
        for word in ("create_commit", "create_repo", "upload_f", "CommitOperation"):
            assert word not in file.read_text(), file.name

"""Whatever is in the files of a folder: a model that runs comes out of them, or a documented error."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from configuration_eomt import EomtConfig
from modeling_eomt import MODEL_CLASSES


VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 65, 10**6, 10**30, 0.5, -0.5, 1e-300, 1e300),
    *(float("nan"), float("inf"), "", "64", "text", "gelu", "\x00", "\udc80", [], [64], [64, 64], [64, None], {}),
    *({"0": "cat"}, {"cat": 0}, {"1": "a", "0": "b"}, {"rope_theta": "x"}, {"a": {"b": [[]]}}, ["a", 1], "a" * 5000),
]
FURTHER = (
    *("num_labels", "torch_dtype", "model_type", "auto_map", "quantization_config", "rope_theta", "rope_scaling"),
    *("attn_implementation", "output_attentions", "per_layer_config", "name_or_path", "configuration_files"),
    *("custom_pipelines", "_name_or_path", "unheard_of", "use_cache", "pad_token_id", "layer_types", "id2label"),
)
TEXTS = ["", "{", "[]", "null", "[" * 20000, "{}", '{"a"', "nan", "\ufeff{}", '{"hidden_size": 1e999}']


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """A folder of each family."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_blocks": 1, "num_queries": 3}
    folders = []
    for model_class in MODEL_CLASSES.values():
        folder = tmp_path_factory.mktemp("folder")
        config = model_class.config_class(**sizes, image_size=32, id2label={0: "cat", 1: "dog"})
        model_class(config).save_pretrained(folder)
        folders.append(folder)
    return folders


def mutated(settings, draw):
    """Settings of which a few are something else; seldom a text that is no object."""
    if draw.random() < 0.05:
        return draw.choice(TEXTS)
    settings = copy.deepcopy(settings)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        name = draw.choice([*settings, *FURTHER])
        if draw.random() < 0.1:
            settings.pop(name, None)
        else:
            settings[name] = draw.choice(VALUES)
    text = json.dumps(settings)
    return text if draw.random() > 0.05 else text[: draw.randrange(len(text))]


@pytest.mark.parametrize("seed", range(4))
def test_a_broken_config_json_is_an_error_that_is_documented_or_a_model_that_runs(folders, seed):
    draw, ran, refused = random.Random(seed), 0, 0
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        for folder, model_class in zip(folders, MODEL_CLASSES.values(), strict=True):
            path = folder / "config.json"
            original = path.read_text()
            try:
                for _ in range(60):
                    text = mutated(json.loads(original), draw)
                    path.write_text(text)
                    try:
                        ran += runs(folder, model_class)
                    except (ValueError, OSError):
                        refused += 1
                    except Exception as error:
                        raise AssertionError(f"{type(error).__name__} for {text[:3000]}") from error
            finally:
                path.write_text(original)
    finally:
        logging.set_verbosity(verbosity)
    assert ran > 10 and refused > 40


def runs(folder, model_class):
    config = model_class.config_class.from_pretrained(folder)
    assert config.label2id == {name: number for number, name in config.id2label.items()}
    model = model_class.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, 32, 32))
    assert outputs.class_queries_logits.isfinite().all()
    return True


@pytest.mark.parametrize("seed", range(2))
def test_arguments_of_the_configuration_are_checked_like_files(seed):
    draw, made = random.Random(seed), 0
    names = [*EomtConfig().to_dict(), *FURTHER]
    for _ in range(300):
        settings = {draw.choice(names): draw.choice(VALUES) for _ in range(draw.choice([1, 1, 2]))}
        try:
            config = EomtConfig(**settings)
            config.to_json_string()
            made += 1
        except (ValueError, OSError):
            continue
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for {settings}") from error
    assert made > 20

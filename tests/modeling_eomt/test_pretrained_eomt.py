"""A model is loaded whole or not at all."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modeling_eomt import MODEL_CLASSES, EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation
from modeling_eomt.pretrained_eomt import find_not_finite


def load(folder, **kwargs):
    return EomtForUniversalSegmentation.from_pretrained(folder, **kwargs)


@pytest.fixture
def folder(tiny_config, tmp_path):
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "missing", ["class_predictor", "layers.1.", "mask_head", "query", "attn_mask_probs", "criterion.empty_weight", ""]
)
def test_missing_weights_are_listed(folder, missing):
    kept = {"something": torch.ones(1)} if missing == "" else {}
    names = [name for name in load_file(folder / "model.safetensors") if name.startswith(missing)]
    change_weights(
        folder, lambda weights: kept | {name: weights[name] for name in weights if not name.startswith(missing)}
    )
    for options in ({}, {"ignore_mismatched_sizes": True}, {"low_cpu_mem_usage": True}):
        with pytest.raises(ValueError, match=rf"missing: {missing}") as raised:
            load(folder, **options)
    assert all(name in str(raised.value) for name in names[:5] if len(names) <= 20)
    assert str(folder) in str(raised.value)


def test_the_loading_info_takes_the_place_of_an_error(family_config, tmp_path):
    model_class = MODEL_CLASSES[family_config.model_type]
    model_class(family_config).save_pretrained(tmp_path)
    save_file({"tensor": torch.tensor([1, 2])}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == set(model.state_dict()) and info["unexpected_keys"] == {"tensor"}
    assert model.mask_probabilities == [1.0] * family_config.num_blocks
    assert all(not weight.is_meta and weight.isfinite().all() for weight in model.state_dict().values())
    with pytest.raises(ValueError, match=r"missing: (?s:.*)unexpected: tensor"):
        model_class.from_pretrained(tmp_path)


def test_what_no_loading_info_says_stays_an_error(folder):
    change_weights(folder, lambda weights: {**weights, "query.weight": torch.ones(9, 32)})
    with pytest.raises(ValueError, match=r"wrong shape: query\.weight"):
        load(folder, output_loading_info=True)
    change_weights(folder, lambda weights: {**weights, "query.weight": torch.full((7, 32), torch.nan)})
    with pytest.raises(ValueError, match=r"not finite.*: query\.weight"):
        load(folder, output_loading_info=True)


def test_unexpected_weights_are_listed(folder):
    change_weights(folder, lambda weights: {**weights, "layers.7.norm1.weight": torch.ones(32)})
    with pytest.raises(ValueError, match=r"unexpected: layers\.7\.norm1\.weight"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 4}, r"missing: layers\.3"),
        ({"num_hidden_layers": 2}, r"unexpected: layers\.2"),
        ({"num_blocks": 1}, r"wrong shape: attn_mask_probs is \(2,\), expected \(1,\)"),
        ({"num_queries": 9}, r"wrong shape: query\.weight is \(7, 32\), expected \(9, 32\)"),
        ({"image_size": 128}, r"wrong shape: embeddings\.position_embeddings\.weight is \(16, 32\), expected \(64, "),
        ({"hidden_size": 64}, "wrong shape: .*(?s:.*)more"),
        ({"id2label": {"0": "cat"}}, r"wrong shape: class_predictor\.bias(?s:.*)ignore_mismatched_sizes"),
        ({"use_swiglu_ffn": True}, r"missing: layers\.0\.mlp\.down_proj"),
        ({"num_upscale_blocks": 1}, "unexpected: upscale_block"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(folder, change, message):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(ValueError, match=message):
        load(folder)
    if "id2label" not in change:
        with pytest.raises(ValueError, match=message):
            load(folder, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_named(folder, value, dtype):
    def change(weights):
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        weights["layers.1.norm1.weight"][3] = value
        weights["class_predictor.bias"][0] = value
        return weights

    change_weights(folder, change)
    with pytest.raises(ValueError, match="not finite") as raised:
        load(folder, dtype=dtype)
    lines = str(raised.value).splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["layers.1.norm1.weight", "class_predictor.bias"]


def test_large_finite_weights_are_finite():
    model = torch.nn.Linear(64, 64).to(torch.float16)
    torch.nn.init.constant_(model.weight, 60000.0)  # whose sum is no float16
    assert not find_not_finite(model)


def test_other_classes_are_the_only_thing_that_may_be_new(folder, caplog):
    model, info = load(
        folder, id2label={0: "a", 1: "b"}, ignore_mismatched_sizes=True, output_loading_info=True, dtype=torch.float16
    )
    assert sorted(name for name, _, _ in info["mismatched_keys"]) == [
        "class_predictor.bias",
        "class_predictor.weight",
        "criterion.empty_weight",
    ]
    assert model.config.num_labels == 2 and not info["missing_keys"] and not info["unexpected_keys"]


def test_a_model_of_transformers_own_class_is_whole(tiny_config, tiny_dinov3_config, tmp_path):
    for ours, theirs, config in (
        (EomtForUniversalSegmentation, transformers.EomtForUniversalSegmentation, tiny_config),
        (EomtDinov3ForUniversalSegmentation, transformers.EomtDinov3ForUniversalSegmentation, tiny_dinov3_config),
    ):
        theirs(theirs.config_class(**config.to_dict())).save_pretrained(tmp_path / config.model_type)
        _, info = ours.from_pretrained(tmp_path / config.model_type, output_loading_info=True)
        assert not any(info.values())


def test_a_model_of_the_other_family_is_refused(tiny_dinov3_config, tmp_path):
    EomtDinov3ForUniversalSegmentation(tiny_dinov3_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type='eomt_dinov3'.*EomtConfig is for 'eomt'"):
        load(tmp_path)


def test_a_file_cut_off_or_missing_is_an_error_too(folder):
    content = (folder / "model.safetensors").read_bytes()
    for cut_off in (content[: len(content) // 2], content[:20], b"", b"x" * 100):
        (folder / "model.safetensors").write_bytes(cut_off)
        with pytest.raises((ValueError, OSError), match=r"model\.safetensors"):
            load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load(folder)


def test_a_pytorch_file_that_is_none_is_an_error_too(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert load(folder).query.weight.equal(weights["query.weight"])
    content = (folder / "pytorch_model.bin").read_bytes()
    for cut_off in (content[: len(content) // 2], b"", b"x" * 100):
        (folder / "pytorch_model.bin").write_bytes(cut_off)
        with pytest.raises((ValueError, OSError), match=r"pytorch_model\.bin"):
            load(folder)
    for other in ([1, 2], {"query.weight": "text"}, {1: torch.ones(1)}, {"state_dict": weights}):
        torch.save(other, folder / "pytorch_model.bin")
        with pytest.raises((ValueError, OSError)):
            load(folder)


class WithDepth(EomtForUniversalSegmentation):
    """A model that somebody has given another head, whose weights may be missing or too many."""

    _keys_to_ignore_on_load_missing = (r"depth_head\.",)
    _keys_to_ignore_on_load_unexpected = (r"height_head\.",)

    def __init__(self, config):
        super().__init__(config)
        self.depth_head = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()


def test_a_subclass_says_what_may_be_missing_or_unexpected(folder):
    change_weights(folder, lambda weights: {**weights, "height_head.weight": torch.ones(2)})
    model, info = WithDepth.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.depth_head.weight.isfinite().all() and not model.depth_head.weight.is_meta
    change_weights(folder, lambda weights: {name: weights[name] for name in weights if name != "query.weight"})
    with pytest.raises(ValueError, match=r"missing: query\.weight") as raised:
        WithDepth.from_pretrained(folder)
    assert "head" not in str(raised.value)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "null",
        "{}",
        "[" * 10000,
        {"weight_map": {}},
        {"weight_map": [1]},
        {"metadata": [1]},
        {"metadata": None},
    ],
    ids=str,
)
def test_an_index_of_shards_that_is_none_is_named(folder, index):
    load(folder).save_pretrained(folder, max_shard_size="20KB")
    path = folder / "model.safetensors.index.json"
    assert load(folder).query.weight.shape == (7, 32)
    path.write_text(index if isinstance(index, str) else json.dumps({**json.loads(path.read_text()), **index}))
    with pytest.raises(ValueError, match=rf"{path} .*(no index|cannot be read as JSON)"):
        load(folder)


@pytest.mark.parametrize("file", [5, None, ["a"], "/etc/passwd", "../model.safetensors"])
def test_shards_lie_beside_their_index(folder, file):
    load(folder).save_pretrained(folder, max_shard_size="20KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["query.weight"] = file
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"{path} has .* for query.weight: expected the name of a file beside it"):
        load(folder)

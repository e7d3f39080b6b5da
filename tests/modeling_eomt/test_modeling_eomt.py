"""The model keeps its contract, and its checkpoints move to Transformers' own class and back."""

import copy
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from torch.utils._python_dispatch import TorchDispatchMode

from configuration_eomt.configuration_eomt import as_pair
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation, kernels_eomt
from modeling_eomt.attention_eomt import EomtAttention
from modeling_eomt.vit_eomt import EomtDropPath


def targets(batch_size=1, size=(64, 64)):
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, : size[0] // 2], masks[1, size[0] // 2 :] = True, True
    return {"mask_labels": [masks] * batch_size, "class_labels": [torch.tensor([0, 2])] * batch_size}


def randomize(model):
    """A model whose every parameter differs from its initial value, so that none can be swapped unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_transformers_own_class_loads_what_is_saved_here(tiny_config, tmp_path, probability):
    model = randomize(EomtForUniversalSegmentation(tiny_config))
    model.set_mask_probabilities([probability] * 2)
    model.save_pretrained(tmp_path)
    theirs, info = transformers.EomtForUniversalSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model(pixel_values), theirs.eval()(pixel_values)
    torch.testing.assert_close(ours.masks_queries_logits, theirs.masks_queries_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.class_queries_logits, theirs.class_queries_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, rtol=1e-4, atol=1e-4)


def test_what_transformers_own_class_saves_loads_here(tiny_config, tmp_path):
    settings = {name: getattr(tiny_config, name) for name in ("hidden_size", "num_queries", "num_blocks", "id2label")}
    theirs = transformers.EomtForUniversalSegmentation(
        transformers.EomtConfig(**settings, num_hidden_layers=3, num_attention_heads=2, image_size=64)
    )
    theirs = randomize(theirs)
    theirs.attn_mask_probs.copy_(torch.tensor([0.0, 1.0]))
    theirs.save_pretrained(tmp_path)
    model, info = EomtForUniversalSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.mask_probabilities == [0.0, 1.0]
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(pixel_values).masks_queries_logits,
            theirs(pixel_values).masks_queries_logits,
            rtol=1e-4,
            atol=1e-4,
        )


def test_mask_probabilities_survive_saving_and_state_dicts(tiny_config, tmp_path):
    model = EomtForUniversalSegmentation(tiny_config)
    assert model.mask_probabilities == [1.0, 1.0]
    model.set_mask_probabilities([0.25, 1.0])
    model.save_pretrained(tmp_path)
    assert EomtForUniversalSegmentation.from_pretrained(tmp_path).mask_probabilities == [0.25, 1.0]
    other = EomtForUniversalSegmentation(tiny_config)
    other.load_state_dict(model.state_dict())
    assert other.mask_probabilities == [0.25, 1.0]


@pytest.mark.parametrize("probabilities", [[0.5], [0.5, 1.5], [0.1, 0.2, 0.3]])
def test_impossible_mask_probabilities_are_refused(tiny_config, probabilities):
    with pytest.raises(ValueError, match="2 mask probabilities"):
        EomtForUniversalSegmentation(tiny_config).set_mask_probabilities(probabilities)


def test_evaluation_masks_only_at_exactly_one(tiny_config):
    model = randomize(EomtForUniversalSegmentation(tiny_config))
    pixel_values = torch.randn(1, 3, 64, 64)

    def logits(probabilities):
        model.set_mask_probabilities(probabilities)
        with torch.no_grad():
            return model(pixel_values).masks_queries_logits

    plain, almost, masked = logits([0.0, 0.0]), logits([0.999, 0.999]), logits([1.0, 1.0])
    assert torch.equal(plain, almost)
    assert not torch.allclose(plain, masked)


def test_a_probability_in_between_masks_that_fraction_of_the_queries(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config).train()
    model.set_mask_probabilities([0.3, 0.0])
    masks: list[torch.Tensor] = []
    model.layers[1].register_forward_pre_hook(lambda _, arguments: masks.append(arguments[1]))
    with torch.no_grad():
        model.upscale_block.requires_grad_(False)
        model.mask_head.register_forward_hook(lambda _, arguments, embeddings: embeddings * 0)  # empty masks
        model(torch.randn(400, 3, 64, 64))
    (allowed,) = masks
    assert allowed[:, :, : 7 + 3].all()  # queries and prefix tokens are never masked
    restricted = ~allowed[:, :, 10:].any(-1)
    assert restricted.float().mean().item() == pytest.approx(0.3, abs=0.03)  # 2800 draws: five standard errors
    assert (allowed[:, :, 10:].all(-1) | restricted).all()


def test_masked_attention_follows_the_resized_mask(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config)
    mask_logits = torch.randn(2, 7, 16, 16)
    allowed = model.query_attention_mask(mask_logits, (4, 4))
    inside = F.interpolate(mask_logits, (4, 4), mode="bilinear").flatten(2) > 0
    assert torch.equal(allowed[:, :, 10:], inside)
    is_masked = torch.arange(14).view(2, 7) % 3 == 0
    allowed = model.query_attention_mask(mask_logits, (4, 4), is_masked)
    assert torch.equal(allowed[:, :, 10:], inside | ~is_masked[:, :, None])


def test_stochastic_depth_drops_that_fraction_of_the_branches_and_scales_the_others():
    branch, draws = torch.ones(1000, 2, 3), torch.arange(1000) / 1000
    dropped = EomtDropPath(0.2)(branch, draws)
    assert dropped[:200].eq(0).all() and dropped[200:].eq(1 / 0.8).all()
    assert EomtDropPath(0.2)(branch, None) is branch


def test_stochastic_depth_belongs_to_training(tiny_config):
    tiny_config.drop_path_rate = 0.5
    model = randomize(EomtForUniversalSegmentation(tiny_config))
    pixel_values, seeds = torch.randn(1, 3, 64, 64).expand(64, -1, -1, -1), torch.arange(64)
    model.set_mask_probabilities([0.0, 0.0])
    with torch.no_grad():
        states = model(pixel_values[:2], image_seeds=seeds[:2]).last_hidden_state
        torch.testing.assert_close(states[0], states[1])
        states = model.train()(pixel_values, image_seeds=seeds).last_hidden_state
    # Six branches, kept or not: 64 ways, of which 64 draws find 64 * (1 - 1 / e) = 40 on average.
    assert 30 < len(states.mean((1, 2)).mul(1e4).round().unique()) < 50


def test_evaluation_draws_no_random_numbers(tiny_config):
    tiny_config.drop_path_rate = 0.5
    model = EomtForUniversalSegmentation(tiny_config).eval()
    before = torch.get_rng_state()
    model(torch.randn(1, 3, 64, 64, generator=torch.Generator()))
    assert torch.get_rng_state().equal(before)


def test_masks_only_ever_reach_query_rows(tiny_config, monkeypatch):
    model = EomtForUniversalSegmentation(tiny_config).train()
    rows: list[int] = []
    attend = EomtAttention.attend

    def recorded(self, query, key, value, mask=None):
        if mask is not None:
            assert mask.dtype == torch.bool and mask.shape == (1, 1, query.shape[2], key.shape[2])
            rows.append(query.shape[2])
        return attend(self, query, key, value, mask)

    monkeypatch.setattr(EomtAttention, "attend", recorded)
    model.set_mask_probabilities([1.0, 0.5])
    model(torch.randn(1, 3, 64, 64), **targets())
    assert rows == [7, 7]


class LargestMask(TorchDispatchMode):
    """Records the size of every boolean tensor that a computation makes."""

    def __init__(self):
        super().__init__()
        self.bool_sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bool:
                self.bool_sizes.append(tensor.numel())
        return output


def test_no_mask_of_tokens_by_tokens_is_ever_built(tiny_config):
    tiny_config.patch_size, tiny_config.num_upscale_blocks = 8, 1
    model = EomtForUniversalSegmentation(tiny_config)
    num_tokens = 7 + 3 + 64
    with LargestMask() as recorded, torch.no_grad():
        model.eval()(torch.randn(1, 3, 64, 64))
    assert max(recorded.bool_sizes) == 7 * num_tokens  # queries x tokens, shared by all heads


def test_without_masks_no_intermediate_prediction_is_made(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config).eval()
    calls: list[int] = []
    model.mask_head.register_forward_hook(lambda *_: calls.append(1))
    for probabilities, expected in ([0.0, 0.0], 1), ([0.0, 1.0], 2), ([1.0, 1.0], 3):
        model.set_mask_probabilities(probabilities)
        calls.clear()
        model(torch.randn(1, 3, 64, 64))
        assert len(calls) == expected
    model.set_mask_probabilities([0.0, 0.0])
    calls.clear()
    model.train()(torch.randn(1, 3, 64, 64), **targets())
    assert len(calls) == 3  # auxiliary supervision


@pytest.mark.parametrize("size", [(32, 128), (96, 64), (64, 64)])
def test_any_size_divisible_by_the_patch_size_is_segmented_at_a_quarter(tiny_config, size):
    model = EomtForUniversalSegmentation(tiny_config).eval()
    outputs = model(torch.randn(1, 3, *size))
    assert outputs.masks_queries_logits.shape == (1, 7, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("size", [(60, 64), (64, 65)])
def test_a_size_not_divisible_by_the_patch_size_is_refused_with_both_sizes(tiny_config, size):
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]}.*16x16"):
        EomtForUniversalSegmentation(tiny_config)(torch.randn(1, 3, *size))


@pytest.mark.parametrize("size", [(96, 64), 32])
def test_a_model_set_to_another_size_still_loads_in_transformers_own_class(tiny_config, tmp_path, size):
    model = randomize(EomtForUniversalSegmentation(tiny_config))
    model.set_mask_probabilities([0.0, 0.0])
    pixel_values = torch.randn(1, 3, *as_pair(size))
    with torch.no_grad():
        before = model(pixel_values).masks_queries_logits
        model.set_image_size(size)
        torch.testing.assert_close(model(pixel_values).masks_queries_logits, before)
    model.save_pretrained(tmp_path)
    assert as_pair(EomtForUniversalSegmentation.from_pretrained(tmp_path).config.image_size) == as_pair(size)
    if isinstance(size, int):  # theirs takes square images only
        theirs = transformers.EomtForUniversalSegmentation.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(theirs(pixel_values).masks_queries_logits, before, rtol=1e-4, atol=1e-4)


def test_a_size_that_does_not_fit_the_patches_cannot_be_set(tiny_config):
    with pytest.raises(ValueError, match="image_size=70 is not divisible by patch_size=16"):
        EomtForUniversalSegmentation(tiny_config).set_image_size(70)


@pytest.mark.parametrize("value", [0, -16, "64", 64.0, None, True])
def test_a_size_or_number_that_cannot_be_changes_nothing(tiny_config, value):
    model = EomtForUniversalSegmentation(tiny_config)
    for change, name in ((model.set_image_size, "image_size"), (model.set_num_queries, "num_queries")):
        with pytest.raises(ValueError, match=f"{name}={value!r}: expected a whole number"):
            change(value)
    assert model(torch.randn(1, 3, 64, 64)).masks_queries_logits.shape[1] == tiny_config.num_queries == 7
    assert model.embeddings.position_embeddings.trained_grid == (4, 4)


def test_masks_of_another_size_than_their_image_are_refused(tiny_config):
    wrong = {"mask_labels": [torch.ones(1, 17, 23)], "class_labels": [torch.tensor([0])]}
    with pytest.raises(ValueError, match=r"mask_labels\[0\] is \(17, 23\) and pixel_values \(64, 64\)"):
        EomtForUniversalSegmentation(tiny_config)(torch.randn(1, 3, 64, 64), **wrong)


def test_labels_come_in_pairs(tiny_config):
    with pytest.raises(ValueError, match="together"):
        EomtForUniversalSegmentation(tiny_config)(torch.randn(1, 3, 64, 64), mask_labels=[torch.ones(1, 64, 64)])


@pytest.fixture
def any_model(family_config):
    return MODEL_CLASSES[family_config.model_type](family_config)


def test_gradient_checkpointing_gives_the_same_gradients(any_model):
    model = any_model.train()
    pixel_values = torch.randn(1, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model.zero_grad()
        model(pixel_values, **targets()).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_hidden_states_and_attentions_on_request(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config).eval()
    model.set_attn_implementation("eager")
    outputs = model(torch.randn(1, 3, 64, 64), output_hidden_states=True, output_attentions=True)
    assert [state.shape[1] for state in outputs.hidden_states] == [19, 19, 26, 26]
    assert [attention.shape for attention in outputs.attentions] == [(1, 2, 19, 19), (1, 2, 26, 26), (1, 2, 26, 26)]
    outputs = model(torch.randn(1, 3, 64, 64))
    assert outputs.hidden_states is None and outputs.attentions is None


def test_loading_for_other_classes_initialises_the_class_head_only(tiny_config, tmp_path):
    model = randomize(EomtForUniversalSegmentation(tiny_config))
    model.save_pretrained(tmp_path)
    labels = {0: "a", 1: "b"}
    other = EomtForUniversalSegmentation.from_pretrained(tmp_path, id2label=labels, ignore_mismatched_sizes=True)
    assert other.class_predictor.weight.shape == (3, 32) and other.class_predictor.weight.isfinite().all()
    assert other.criterion.empty_weight.tolist() == pytest.approx([1.0, 1.0, 0.1])
    for name, parameter in model.named_parameters():
        if not name.startswith("class_predictor"):
            assert torch.equal(other.get_parameter(name), parameter), name


def test_every_parameter_is_initialised_even_when_built_without_memory(tiny_config):
    """`from_pretrained` builds on the meta device, then fills what the checkpoint does not have."""
    with torch.device("meta"):
        model = EomtForUniversalSegmentation(tiny_config)
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.fill_(torch.nan)
    for module in model.modules():
        module._is_hf_initialized = False
    model.initialize_weights()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.isfinite().all(), name
    assert model.query.weight.std().item() == pytest.approx(1.0, abs=0.15)  # 224 draws: three standard errors
    assert model.embeddings.position_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_activations_that_are_computed_again_give_the_same_gradients(any_model, monkeypatch):
    model = any_model.train()
    pixel_values, gradients = torch.randn(1, 3, 64, 64), []
    for recomputes in (False, True):
        monkeypatch.setattr(kernels_eomt, "RECOMPUTE_ACTIVATIONS", recomputes)
        torch.manual_seed(0)
        model.zero_grad()
        model(pixel_values, **targets()).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_gradient_checkpointing_covers_the_mask_module(any_model):
    """Its features have 16 times as many pixels as there are patches: the largest tensors of a training step."""
    model = any_model.train()
    model.gradient_checkpointing_enable()
    calls: list[int] = []
    model.upscale_block.register_forward_pre_hook(lambda *_: calls.append(1))
    loss = model(torch.randn(1, 3, 64, 64), **targets()).loss
    assert len(calls) == 3
    loss.backward()
    assert len(calls) == 6  # computed again in the backward pass


def test_autocast_trains_with_a_float32_loss(any_model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = any_model.train()(torch.randn(2, 3, 64, 64), **targets(2))
    assert outputs.masks_queries_logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32 and outputs.loss.isfinite()
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in any_model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_models_predict_nearly_the_same(any_model, dtype):
    model = randomize(any_model)
    model.set_mask_probabilities([0.0, 0.0])
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values).class_queries_logits
        outputs = model.to(dtype)(pixel_values)
    assert outputs.class_queries_logits.dtype == outputs.masks_queries_logits.dtype == dtype
    # Eight bits of precision (eleven in float16), passed through three blocks: a few of their steps.
    tolerance = 0.1 if dtype == torch.bfloat16 else 0.02
    assert (outputs.class_queries_logits.float() - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("size", [(32, 128), (96, 64)])
def test_every_family_takes_any_size(any_model, size):
    """A 32 x 128 image is not a 64 x 64 one: rows and columns are turned by their own positions."""
    model = randomize(any_model)
    outputs = model(torch.randn(1, 3, *size))
    assert outputs.masks_queries_logits.shape == (1, 7, size[0] // 4, size[1] // 4)
    model.set_image_size(size)
    assert as_pair(model.config.image_size) == size


def test_attention_without_boolean_masks_takes_the_unmasked_rows_only(any_model, monkeypatch):
    """As flash and flex attention: query rows that carry a mask go through sdpa."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = randomize(any_model)
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values).masks_queries_logits
    rows: list[int] = []

    def without_masks(module, query, key, value, attention_mask, **kwargs):
        assert attention_mask is None
        rows.append(query.shape[2])
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "without_masks", without_masks)
    model.config._attn_implementation = "without_masks"
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).masks_queries_logits, expected)
    assert rows == [19, 19, 19]


def test_loading_places_the_model_by_a_device_map(any_model, tmp_path):
    any_model.save_pretrained(tmp_path)
    loaded = type(any_model).from_pretrained(tmp_path, device_map="auto")
    assert loaded(torch.randn(1, 3, 64, 64).to(loaded.device)).masks_queries_logits.shape == (1, 7, 16, 16)


def test_stacked_targets_are_as_good_as_a_list(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config).train()
    labels = targets(2)
    stacked = {name: torch.stack(values) for name, values in labels.items()}
    pixel_values = torch.randn(2, 3, 64, 64)
    model.set_mask_probabilities([0.0, 0.0])
    losses = []
    for given in (labels, stacked):
        torch.manual_seed(0)
        losses.append(model(pixel_values, **given).loss)
    assert torch.equal(*losses)


def test_a_model_can_be_pickled_and_copied(any_model):
    model = randomize(any_model)
    model.set_mask_probabilities([0.0, 1.0])
    pixel_values = torch.randn(1, 3, 32, 96)
    with torch.no_grad():
        expected = model(pixel_values).masks_queries_logits
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert other.mask_probabilities == [0.0, 1.0]
            assert torch.equal(other(pixel_values).masks_queries_logits, expected)


def test_a_number_of_items_that_is_not_two_numbers_is_refused(any_model):
    with pytest.raises(ValueError, match="count_items"):
        any_model(torch.randn(1, 3, 64, 64), **targets(), num_items_in_batch=3)


def test_gradient_checkpointing_lets_go_of_what_is_computed_inside(any_model):
    """Recomputation inside of checkpointed blocks must not hold on to its inputs."""
    model = any_model.train()
    model.gradient_checkpointing_enable()
    hidden: list[weakref.ref] = []
    for layer in model.layers:
        layer.mlp.activation.register_forward_pre_hook(lambda _, inputs: hidden.append(weakref.ref(inputs[0])))
    loss = model(torch.randn(1, 3, 64, 64), **targets()).loss
    assert len(hidden) == len(model.layers) and not any(reference() is not None for reference in hidden)
    loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mask_probabilities_are_float32_whatever_the_models_dtype_is(any_model, dtype, tmp_path):
    """As Transformers' shared tests ask of what `_keep_in_fp32_modules_strict` names; 0.999 would round to 1."""
    created = type(any_model)._from_config(any_model.config, dtype=dtype)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        constructed = type(any_model)(any_model.config)
    finally:
        torch.set_default_dtype(default)
    any_model.set_mask_probabilities([0.999, 0.3])
    any_model.save_pretrained(tmp_path)
    loaded = type(any_model).from_pretrained(tmp_path, dtype=dtype)
    for model in (created, constructed, any_model, loaded):
        model.set_mask_probabilities([0.999, 0.3])
        model.to(dtype)
        assert model.attn_mask_probs.dtype == torch.float32 and model.query.weight.dtype == dtype
        assert model.attn_mask_probs.tolist() == pytest.approx([0.999, 0.3], rel=1e-7)


def test_mask_probabilities_are_read_from_a_wrapped_models_state_dict(tiny_config):
    model, other = EomtForUniversalSegmentation(tiny_config), EomtForUniversalSegmentation(tiny_config)
    model.set_mask_probabilities([0.25, 0.5])
    for assign in (False, True):
        torch.nn.ModuleDict({"module": other}).load_state_dict(
            torch.nn.ModuleDict({"module": model}).state_dict(), assign=assign
        )
        assert other.mask_probabilities == [0.25, 0.5]
        other.set_mask_probabilities([1.0, 1.0])


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"), reason="Transformers 5.17 offloads no whole model to the disk"
)
@pytest.mark.parametrize("offload_buffers", [False, True])
def test_mask_probabilities_are_read_when_weights_are_offloaded(tiny_config, tmp_path, offload_buffers):
    model = randomize(EomtForUniversalSegmentation(tiny_config))
    model.set_mask_probabilities([0.0, 1.0])
    model.save_pretrained(tmp_path)
    places = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offload", "offload_buffers": offload_buffers}
    offloaded = EomtForUniversalSegmentation.from_pretrained(tmp_path, **places).eval()
    assert offloaded.mask_probabilities == [0.0, 1.0]
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values).masks_queries_logits
        torch.testing.assert_close(offloaded(pixel_values).masks_queries_logits, expected)

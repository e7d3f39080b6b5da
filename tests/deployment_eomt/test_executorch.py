"""Graphs for ExecuTorch, which its runtime computes here as on a phone."""

import dataclasses

import pytest
import torch

from deployment_eomt.formats import FORMATS, Options
from deployment_eomt.raw import OUTPUTS, build_raw_graph


pytest.importorskip("executorch.runtime")
pytestmark = pytest.mark.slow


def load(folder):
    """Returns a method of the program, which has to be kept, too."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(folder / "model.pte")
    return program, program.load_method("forward")


def check_equal(forward, model, batch_size):
    """The program's logits are the model's, to 1e-5 of the largest."""
    pixel_values = torch.randn(batch_size, 3, 64, 64)
    outputs, expected = forward.execute([pixel_values]), model(pixel_values)
    for name, output in zip(OUTPUTS, outputs, strict=True):
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(output, expected[name], rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("probability", [0.0, 1.0], ids=["without masks", "with masks"])
def test_the_program_equals_the_model_at_every_batch_size(model, probability, tmp_path):
    model.set_mask_probabilities([probability] * 2)
    FORMATS["executorch"].write(build_raw_graph(model, ("batch",)), tmp_path, Options())
    _program, forward = load(tmp_path)
    for batch_size in (1, 3, 4):
        check_equal(forward, model, batch_size)
    with pytest.raises(RuntimeError):
        forward.execute([torch.randn(5, 3, 64, 64)])


def test_xnnpack_computes_all_of_a_fixed_batch_but_the_layer_norms(model, tmp_path):
    from executorch.exir._serialize._program import deserialize_pte_binary

    model.set_mask_probabilities([0.0] * 2)
    FORMATS["executorch"].write(build_raw_graph(model, ()), tmp_path, Options())
    assert model.config._attn_implementation == "sdpa"  # as before
    (plan,) = deserialize_pte_binary((tmp_path / "model.pte").read_bytes()).program.execution_plan
    assert {operator.name for operator in plan.operators} == {"aten::native_layer_norm"}
    _program, forward = load(tmp_path)
    check_equal(forward, model, batch_size=1)
    with pytest.raises(RuntimeError):
        forward.execute([torch.randn(1, 3, 64, 96)])


def test_the_program_of_a_fixed_batch_equals_the_model_with_masks(model, tmp_path):
    model.set_mask_probabilities([1.0] * 2)
    FORMATS["executorch"].write(build_raw_graph(model, ()), tmp_path, Options())
    _program, forward = load(tmp_path)
    check_equal(forward, model, batch_size=1)


@pytest.mark.parametrize("size", ["height", "width"])
def test_open_sizes_are_refused(model, size, tmp_path):
    graph = build_raw_graph(model, ())
    graph = dataclasses.replace(graph, dynamic_shapes={"pixel_values": {2 if size == "height" else 3: size}})
    with pytest.raises(ValueError, match=rf"{size} cannot be left open.*Export once"):
        FORMATS["executorch"].write(graph, tmp_path, Options())
    assert not any(tmp_path.iterdir())

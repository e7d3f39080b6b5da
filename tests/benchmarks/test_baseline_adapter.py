"""The adapter: what deformable attention reads, and that it starts without effect on the ViT."""

import pytest
import torch
from torch import nn

from benchmarks.baselines.adapter import Adapter, as_map, join_maps, split_maps
from benchmarks.baselines.deformable_attention import DeformableAttention, centres


def read_bilinearly(features, x, y):
    """The value of a map `(channels, rows, columns)` at a place in fractions of its width and height, 0 outside."""
    _, rows, columns = features.shape
    column, row = x * columns - 0.5, y * rows - 0.5  # a pixel's centre is half a pixel from its border
    total = torch.zeros(len(features), dtype=features.dtype)
    for r in (int(row // 1), int(row // 1) + 1):
        for c in (int(column // 1), int(column // 1) + 1):
            if 0 <= r < rows and 0 <= c < columns:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * features[:, r, c]
    return total


def test_deformable_attention_is_a_weighted_mean_of_bilinear_samples():
    heads, points, shapes = 2, 4, [(4, 6), (2, 3), (1, 2)]
    attention = DeformableAttention(8, heads, num_levels=3, num_points=points).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    queries, maps = torch.randn(2, 5, 8).double(), torch.randn(2, 32, 8).double()
    places = torch.rand(1, 5, 2).double()
    with torch.no_grad():
        result = attention(queries, places, maps, shapes)
        values = attention.value_proj(maps)  # (batch, tokens, 4)
        offsets = attention.sampling_offsets(queries).view(2, 5, heads, 3, points, 2)
        weights = attention.attention_weights(queries).view(2, 5, heads, 3 * points).softmax(-1)
        weights = weights.view(2, 5, heads, 3, points)
        expected = torch.zeros(2, 5, 4).double()
        for image in range(2):
            levels = [level[image] for level in split_maps(values, shapes)]
            for query in range(5):
                for head in range(heads):
                    channels = slice(2 * head, 2 * head + 2)
                    for level, (rows, columns) in enumerate(shapes):
                        for point in range(points):
                            dx, dy = offsets[image, query, head, level, point].tolist()
                            x, y = (places[0, query] + torch.tensor([dx / columns, dy / rows])).tolist()
                            sample = read_bilinearly(levels[level][channels], x, y)
                            expected[image, query, channels] += weights[image, query, head, level, point] * sample
        expected = attention.output_proj(expected)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_points_start_in_a_ring_around_the_query():
    attention = DeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    attention.initialize()
    offsets = attention.sampling_offsets(torch.randn(16)).view(4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for level in range(2):
        for point in range(3):
            torch.testing.assert_close(offsets[:, level, point], (point + 1) * directions, rtol=0, atol=1e-6)
    assert attention.attention_weights(torch.randn(16)).eq(0).all()


def test_places_are_the_centres_of_the_tokens():
    places = centres([(2, 3), (1, 1)], torch.zeros(1))[0]
    expected = [(1 / 6, 0.25), (0.5, 0.25), (5 / 6, 0.25), (1 / 6, 0.75), (0.5, 0.75), (5 / 6, 0.75), (0.5, 0.5)]
    torch.testing.assert_close(places, torch.tensor(expected))


def test_maps_in_a_row_are_the_maps():
    maps = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 1)]
    tokens = join_maps(maps)
    assert tokens.shape == (2, 22, 3)
    assert all(each.equal(back) for each, back in zip(maps, split_maps(tokens, [(4, 5), (2, 1)])))
    assert as_map(tokens[:, :20], (4, 5)).equal(maps[0])


def test_the_injectors_change_nothing_at_their_start(tiny_step):
    model = tiny_step(0)
    without = tiny_step(1)
    names = {name for name, _ in without.named_parameters()}
    shared = {name: value for name, value in model.state_dict().items() if name in names and "head" not in name}
    without.load_state_dict(shared, strict=False)
    pixels = torch.randn(2, 3, 64, 96)
    seen = []
    for each in (model, without):
        hook = each.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        with torch.no_grad():
            each(pixels)
        hook.remove()
    assert seen[0].equal(seen[1])
    assert all(injector.gamma.eq(0).all() for injector in model.adapter.injectors)


def test_an_injector_that_has_learnt_changes_patches_and_no_prefix_tokens(tiny_step):
    adapter: Adapter = tiny_step(0).adapter
    nn.init.ones_(adapter.injectors[0].gamma)
    _, maps, shapes = adapter.start(torch.randn(1, 3, 64, 64))
    tokens = torch.randn(1, 3 + 16, 32)
    injected = adapter.inject(0, tokens, (4, 4), maps, shapes)
    assert injected[:, :3].equal(tokens[:, :3])
    assert (injected[:, 3:] - tokens[:, 3:]).abs().amax(-1).gt(0).all()


@pytest.mark.parametrize("height, width", [(64, 96), (80, 48)])
def test_the_pyramid_has_a_quarter_to_a_thirtysecond_of_the_size(tiny_step, height, width):
    model = tiny_step(0)
    with torch.no_grad():
        maps = model.make_pyramid(torch.randn(1, 3, height, width), None)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    assert [tuple(each.shape) for each in maps] == [(1, 32, *size) for size in sizes]

"""The random numbers are SplitMix64's, whatever the batch and device, and look random in every direction."""

import pytest
import torch
from packaging.version import Version
from scipy import stats

from modeling_eomt.random_eomt import StepRandomness, uniform


def splitmix64(state):
    """The published algorithm in Python's unbounded integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def reference(seed, stream, count):
    state = splitmix64((splitmix64(seed % 2**64) + stream) % 2**64)
    return [(splitmix64((state + step * 0x9E3779B97F4A7C15) % 2**64) >> 40) / 2**24 for step in range(1, count + 1)]


def test_the_hash_is_splitmix64():
    # The first outputs for the seed 1234567 that implementations are commonly checked with.
    outputs = [splitmix64((1234567 + step * 0x9E3779B97F4A7C15) % 2**64) for step in range(1, 6)]
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("seed", [0, 1, 2, 1234567, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("stream", [0, 4])
def test_numbers_are_those_of_the_definition(seed, stream):
    assert uniform(torch.tensor([seed]), stream, (50,))[0].tolist() == reference(seed, stream, 50)


def test_numbers_depend_on_nothing_but_seed_and_stream():
    seeds = torch.tensor([5, -7, 5, 2**62])
    numbers = uniform(seeds, 3, (4, 6))
    assert numbers.shape == (4, 4, 6) and numbers.dtype == torch.float32
    assert numbers[0].equal(numbers[2])
    assert uniform(seeds.flip(0), 3, (4, 6)).equal(numbers.flip(0))
    assert uniform(seeds[1:2], 3, (4, 6)).equal(numbers[1:2])
    assert uniform(seeds, 3, (2, 6)).equal(numbers[:, :2])
    assert uniform(seeds, 3, (0, 2)).shape == (4, 0, 2)


@pytest.mark.cuda
def test_a_gpu_computes_the_same_numbers():
    seeds = torch.randint(-(2**63), 2**63 - 1, (64,))
    assert uniform(seeds.cuda(), 2, (500,)).cpu().equal(uniform(seeds, 2, (500,)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(
                Version(torch.__version__) < Version("2.7"), reason="inductor of torch 2.6 computes other numbers"
            ),
        ),
    ],
)
def test_a_compiler_computes_the_same_numbers(backend, fresh_compiler_cache):
    torch.compiler.reset()
    seeds = torch.randint(-(2**63), 2**63 - 1, (64,))
    compiled = torch.compile(lambda seeds: uniform(seeds, 2, (500,)) + 0.0, fullgraph=True, backend=backend)
    assert compiled(seeds).equal(uniform(seeds, 2, (500,)))


# The rows of each table are neighbours in one of the three things that a number is computed from.
TABLES = {
    "counters": lambda: uniform(torch.arange(256), 0, (1024,)).T,
    "seeds": lambda: uniform(torch.arange(1024), 1, (256,)),
    "streams": lambda: torch.stack([uniform(torch.arange(256), stream, (1,))[:, 0] for stream in range(1024)]),
    "seeds far apart": lambda: uniform(torch.arange(1024) << 53, 2, (256,)),
}
# The numbers below are fixed, so a test either passes or fails; other seeds would fail once in a thousand times.
UNLIKELY = 1e-3


@pytest.fixture(params=TABLES)
def table(request):
    """`(1024, 256)` numbers."""
    return TABLES[request.param]().double()


def test_numbers_are_uniform(table):
    assert table.min() >= 0 and table.max() < 1
    assert stats.kstest(table.flatten().numpy(), "uniform").pvalue > UNLIKELY
    counts = (table.flatten() * 1000).long().bincount(minlength=1000)
    assert stats.chisquare(counts.numpy()).pvalue > UNLIKELY
    standard_error = (1 / 12 / table.numel()) ** 0.5
    assert table.mean().item() == pytest.approx(0.5, abs=3.3 * standard_error)
    assert table.var().item() == pytest.approx(1 / 12, abs=3.3 * (1 / 180 / table.numel()) ** 0.5)


def test_every_bit_is_fair(table):
    bits = (table.flatten() * 2**24).long()[:, None] >> torch.arange(24) & 1
    # 24 bits are looked at, so each may be off by more.
    assert (bits.double().mean(0) - 0.5).abs().max() < 4.2 * 0.5 * table.numel() ** -0.5


@pytest.mark.parametrize("distance", [1, 2, 3, 64])
def test_neighbours_are_independent(table, distance):
    first, second = table[:-distance].flatten(), table[distance:].flatten()
    assert abs(stats.pearsonr(first.numpy(), second.numpy()).statistic) < 3.3 * len(first) ** -0.5
    pairs = ((first * 16).long() * 16 + (second * 16).long()).bincount(minlength=256)
    assert stats.chisquare(pairs.numpy()).pvalue > UNLIKELY


def test_seeds_are_drawn_from_torchs_generator_unless_given():
    device = torch.device("cpu")
    torch.manual_seed(1)
    drawn = StepRandomness(None, 5, device).seeds
    assert drawn.dtype == torch.int64 and len(drawn.unique()) == 5
    assert not StepRandomness(None, 5, device).seeds.equal(drawn)
    torch.manual_seed(1)
    assert StepRandomness(None, 5, device).seeds.equal(drawn)
    assert StepRandomness(drawn, 5, device).seeds.equal(drawn)


@pytest.mark.parametrize("seeds", [torch.tensor([1, 2, 3]), torch.tensor([[1, 2]]), torch.tensor([1.0, 2.0])])
def test_seeds_that_are_not_one_integer_per_image_are_refused(seeds):
    with pytest.raises(ValueError, match=r"one int64 per image, \(2,\), got"):
        StepRandomness(seeds, 2, torch.device("cpu"))


def test_what_a_step_draws_is_what_earlier_versions_drew():
    """A run that is continued goes on with the same random numbers."""
    random = StepRandomness(torch.tensor([7, -3]), 2, torch.device("cpu"))
    for image, seed in enumerate((7, -3)):
        assert random.points(1, 20)[image].flatten().tolist() == reference(seed, 1, 40)
        expected = torch.tensor(reference(seed, 3, 10)).view(2, 5) < torch.tensor([[0.2], [0.7]])
        assert random.masked_queries(torch.tensor([0.2, 0.7]), 5)[:, image].equal(expected)
        assert random.branch_draws(3)[:, :, image].flatten().tolist() == reference(seed, 4, 6)
        moves = 2.0 * torch.tensor(reference(seed, 5, 5)) - 1.0
        assert random.coordinate_draws()[image, 0, 0].equal(moves)

"""What is random in a training step.

The numbers of an image are computed from its seed, the same in any batch, process and device. A counter-based
generator: the n-th number of a seed is a hash of seed, stream and n, in plain tensor operations. The hash is
SplitMix64, "Fast splittable pseudorandom number generators", OOPSLA 2014, https://doi.org/10.1145/2660193.2660195,
figure 19.
"""

import math

import torch
from torch import Tensor


# Each use has a stream of its own, independent of the others.
MATCHING_POINTS, CANDIDATE_POINTS, UNIFORM_POINTS, MASKED_QUERIES, KEPT_BRANCHES, COORDINATES = range(6)

# The algorithm's unsigned 64-bit constants, as the signed integers that wrap around alike.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


class StepRandomness:
    """
    Everything random in one step. Made once per step, it depends on the seeds of its images alone, so that a step has
    the same loss and gradients however its images are split into batches, and when a part of it is computed twice.

    Args:
        image_seeds: `(batch,)` int64; None draws them from torch's own generator.
        batch_size: number of images.
        device: device of the random numbers.

    Raises:
        ValueError: seeds that are not `(batch,)` int64.
    """

    def __init__(self, image_seeds: Tensor | None, batch_size: int, device: torch.device):
        if image_seeds is None:
            image_seeds = torch.randint(torch.iinfo(torch.int64).max, (batch_size,), device=device)
        if image_seeds.shape != (batch_size,) or image_seeds.dtype != torch.int64:
            raise ValueError(
                f"image_seeds must be one int64 per image, ({batch_size},), got {tuple(image_seeds.shape)} "
                f"{image_seeds.dtype}."
            )
        self.seeds = image_seeds.to(device)

    def to(self, device: torch.device) -> "StepRandomness":
        """The same random numbers on another device."""
        return StepRandomness(self.seeds, len(self.seeds), device)

    def masked_queries(self, probabilities: Tensor, num_queries: int) -> Tensor:
        """Which queries each block masks, `(num_blocks, batch, num_queries)` bool, from `(num_blocks,)`."""
        draws = uniform(self.seeds, MASKED_QUERIES, (len(probabilities), num_queries))
        return draws.transpose(0, 1) < probabilities.to(draws.device)[:, None, None]

    def branch_draws(self, num_layers: int) -> Tensor:
        """Numbers in [0, 1) by which stochastic depth drops a layer's two branches, `(num_layers, 2, batch)`."""
        return uniform(self.seeds, KEPT_BRANCHES, (num_layers, 2)).permute(1, 2, 0)

    def coordinate_draws(self) -> Tensor:
        """Numbers in [-1, 1) by which rotary positions are shifted, jittered and rescaled, `(batch, 1, 1, 5)`."""
        return 2.0 * uniform(self.seeds, COORDINATES, (1, 1, 5)) - 1.0

    def points(self, stream: int, num_points: int) -> Tensor:
        """Draws points in fractions of width and height, `(batch, num_points, 2)`, at which masks are compared."""
        return uniform(self.seeds, stream, (num_points, 2))


def uniform(seeds: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
    """
    Uniformly distributed random numbers, the same ones for the same seed and stream.

    Args:
        seeds: `(batch,)` int64.
        stream: what the numbers are for; streams of a seed are independent.
        shape: of the numbers of one seed.

    Returns:
        `(batch, *shape)` float32, multiples of 2^-24 in [0, 1).
    """
    state = _scramble(_scramble(seeds) + stream)
    # The factor comes from the seeds, though it does not depend on them: a compiler that knew it would do this as an
    # index's arithmetic, in signed numbers whose overflow C++ leaves undefined, and write past the end of its memory.
    increment = (seeds[:, None] & 0) + _INCREMENT
    bits = _scramble(state[:, None] + torch.arange(1, math.prod(shape) + 1, device=seeds.device) * increment)
    return (_shift_right(bits, 40).float() * 2.0**-24).unflatten(1, shape)


def _scramble(bits: Tensor) -> Tensor:
    """Each bit of the result depends on all 64 bits of the argument."""
    bits = (bits ^ _shift_right(bits, 30)) * _FACTORS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _FACTORS[1]
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shifts zeros in; `>>` alone repeats the sign of an int64."""
    return (bits >> count) & (2 ** (64 - count) - 1)

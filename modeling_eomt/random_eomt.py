"""Random numbers that belong to an image: computed from its seed, whatever batch, process or device it is in.

A counter-based generator: the n-th number of a seed is a hash of seed, stream and n, in plain tensor operations. The
hash is SplitMix64, "Fast splittable pseudorandom number generators", OOPSLA 2014,
https://doi.org/10.1145/2660193.2660195, figure 19.
"""

import math

import torch
from torch import Tensor


# What numbers are drawn for: each use has a stream of its own, independent of the others.
MATCHING_POINTS, CANDIDATE_POINTS, UNIFORM_POINTS, MASKED_QUERIES, KEPT_BRANCHES, COORDINATES = range(6)

# The algorithm's unsigned 64-bit constants, as the signed integers that wrap around alike.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def image_seeds_or_new(image_seeds: Tensor | None, batch_size: int, device: torch.device) -> Tensor:
    """
    Seeds of the images of a batch: the given ones, or new ones drawn from torch's own generator.

    Returns:
        `(batch,)` int64, on the device.

    Raises:
        ValueError: seeds that are not `(batch,)` int64.
    """
    if image_seeds is None:
        return torch.randint(torch.iinfo(torch.int64).max, (batch_size,), device=device)
    if image_seeds.shape != (batch_size,) or image_seeds.dtype != torch.int64:
        raise ValueError(
            f"image_seeds must be one int64 per image, ({batch_size},), got {tuple(image_seeds.shape)} "
            f"{image_seeds.dtype}."
        )
    return image_seeds.to(device)


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

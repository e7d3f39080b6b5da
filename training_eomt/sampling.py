"""The samples of every step, whatever the number of processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class DrawSampler(Sampler[int]):
    """Numbers of draws for [`TrainingInputs`]: every epoch another random order of all samples, in whole batches.

    Samples that do not fill a batch of the total size at the end of an epoch are left out, others each time. So every
    step has the same number of samples, and they are the same however many processes and micro-batches share them.
    A dataset smaller than one total batch is repeated until it fills one.

    Args:
        num_samples: number of samples.
        total_batch_size: samples in an optimiser step, over all processes.
        seed: makes the orders repeatable.

    Raises:
        ValueError: no samples.
    """

    def __init__(self, num_samples: int, total_batch_size: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError("There is no sample to train on.")
        self.num_samples = num_samples
        self.total_batch_size = total_batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Samples in an epoch, a multiple of the total batch size."""
        return max(self.num_samples // self.total_batch_size, 1) * self.total_batch_size

    def __iter__(self) -> Iterator[int]:
        rounds = -(-len(self) // self.num_samples)  # 1, or more for very small datasets
        draws: list[int] = []
        for number in range(self.epoch * rounds, (self.epoch + 1) * rounds):
            order = np.random.default_rng([self.seed, number]).permutation(self.num_samples)
            draws += (number * self.num_samples + order).tolist()
        return iter(draws[: len(self)])

    def start_at(self, step: int) -> None:
        """Chooses the epoch that an optimiser step belongs to."""
        self.epoch = step * self.total_batch_size // len(self)

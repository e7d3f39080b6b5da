"""Exponential moving average of a model's weights, a smoother model than the one that is trained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """
    The average of the trained weights of a model over its training.

    After step `n` the average moves towards the weights by `1 - min(decay, (1 + n) / (10 + n))`, so that it does not
    hang on to the first, random weights.

    Args:
        model: the model.
        decay: how much of the average stays in a step, below 1.

    Raises:
        ValueError: a decay that is not in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, got {decay}.")
        self.decay = decay
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after an optimiser step, the first being 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averaged weights into the model for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            average = self.average[name]
            parameter.data, self.average[name] = average, parameter.data

    @torch.no_grad()
    def replace_weights(self) -> None:
        """Puts the averaged weights into the model for good."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])

    @torch.no_grad()
    def load_trained(self, trained: Mapping[str, Tensor]) -> None:
        """
        Resumes a saved average, which the model has now; the model gets the weights that are trained.

        Raises:
            ValueError: weights are missing, too many, of another shape or not finite.
        """
        if trained.keys() != self.parameters.keys():
            names = sorted(trained.keys() ^ self.parameters.keys())
            raise ValueError(f"{len(names)} weights are missing or too many: {', '.join(names[:5])}, ...")
        for name, parameter in self.parameters.items():
            if trained[name].shape != parameter.shape:
                raise ValueError(f"{name} has shape {list(trained[name].shape)}, not {list(parameter.shape)}")
            if not trained[name].isfinite().all():
                raise ValueError(f"{name} is not finite")
            parameter.copy_(trained[name])

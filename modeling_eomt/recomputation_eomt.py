"""Less memory in training: what is cheap to compute is computed again in the backward pass instead of kept for it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def is_recording() -> bool:
    """Whether what is computed now is kept for a backward pass, and not by a compiler, which decides for itself."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def without_keeping(
    first: Callable[..., Tensor], second: Callable[..., Tensor], inputs: tuple[Tensor, ...], *others: Tensor
) -> Tensor:
    """
    `second(first(*inputs), *others)`, of which `inputs` and `others` alone are kept for the backward pass.

    That computes `first` again, and stops when it has what `second` takes: matrix products as `second` are computed
    once.
    """

    count = len(inputs)

    def both(*tensors: Tensor) -> Tensor:
        return second(first(*tensors[:count]), *tensors[count:])

    if not is_recording():
        return both(*inputs, *others)
    # One by one, and none of them in `both`: what a tuple or a closure holds, gradient checkpointing cannot let go.
    return checkpoint(both, *inputs, *others, use_reentrant=False, preserve_rng_state=False)

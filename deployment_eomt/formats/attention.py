"""Which way of computing attention a graph is written with: runtimes differ in what they recognise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from modeling_eomt import EomtPreTrainedModel


@contextmanager
def attention(module: nn.Module, implementation: str) -> Iterator[None]:
    """Gives the models in a module another attention implementation, "eager" or "sdpa", for a while."""
    configs = [part.config for part in module.modules() if isinstance(part, EomtPreTrainedModel)]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = implementation
        yield
    finally:
        for config, earlier in zip(configs, before, strict=True):
            config._attn_implementation = earlier

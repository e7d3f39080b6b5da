"""How an EoMT model learns: datasets, augmentation, metrics, optimisation, annealing and the Trainer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .trainer import EomtTrainer
    from .training_arguments import EomtTrainingArguments

__all__ = ["EomtTrainer", "EomtTrainingArguments"]

_MODULES = {"EomtTrainer": ".trainer", "EomtTrainingArguments": ".training_arguments"}


def __getattr__(name: str) -> Any:
    """Imports the Trainer on first use: a metric or a dataset alone does not wait for it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)

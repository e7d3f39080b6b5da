"""How an EoMT model learns: data sets, augmentation, metrics, optimisation, annealing and the Trainer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .trainer import EomtTrainer
    from .training_arguments import EomtTrainingArguments

__all__ = ["EomtTrainer", "EomtTrainingArguments"]

_MODULES = {"EomtTrainer": ".trainer", "EomtTrainingArguments": ".training_arguments"}


def __getattr__(name: str) -> Any:
    """Loads the Trainer when it is asked for: a metric or a data set alone does not wait for its imports."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)

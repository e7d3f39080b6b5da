"""How an EoMT model learns: datasets, augmentation, metrics, optimisation, annealing and the Trainer."""

from typing import TYPE_CHECKING

from .lazy import lazy_attributes


if TYPE_CHECKING:
    from .trainer import EomtTrainer
    from .training_arguments import EomtTrainingArguments

__all__ = ["EomtTrainer", "EomtTrainingArguments"]

# A metric or a dataset alone does not wait for the Trainer.
__getattr__ = lazy_attributes(__name__, {"EomtTrainer": ".trainer", "EomtTrainingArguments": ".training_arguments"})

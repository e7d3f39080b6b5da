"""How an EoMT model learns: data sets, augmentation, metrics, optimisation, annealing and the Trainer."""

from .trainer import EomtTrainer
from .training_arguments import EomtTrainingArguments


__all__ = ["EomtTrainer", "EomtTrainingArguments"]

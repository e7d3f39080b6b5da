"""How an EoMT model learns.

- `tasks`: the metrics, reference and augmentation of each task; `metrics/`; `evaluation`: running the metrics.
- `training_arguments`: defaults; `optimization`: learning rates and warm-up; `mask_annealing`: when masks fade out.
- `data/`: datasets; `augmentation`, `inputs`: from their samples to the model's inputs.
- `trainer`: the Trainer, on `resumable_trainer`, `checkpoints`, `comparison`, `ema`, `finiteness` and `stopping`.
- `prediction/`, `publishing/` and `script/` (the command) use all of this, and nothing here uses them.
"""

from typing import TYPE_CHECKING

from loading_eomt.lazy import lazy_attributes


if TYPE_CHECKING:
    from .trainer import EomtTrainer
    from .training_arguments import EomtTrainingArguments

__all__ = ["EomtTrainer", "EomtTrainingArguments"]

# A metric or a dataset alone does not wait for the Trainer.
__getattr__ = lazy_attributes(__name__, {"EomtTrainer": ".trainer", "EomtTrainingArguments": ".training_arguments"})

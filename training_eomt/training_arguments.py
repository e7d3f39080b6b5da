"""What can be said about a training run beside what every `Trainer` knows."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class EomtTrainingArguments(TrainingArguments):
    """
    [`TrainingArguments`] with the published recipe as default. Steps follow from the length of training.

    Raises:
        ValueError: settings that would have no effect here.
    """

    learning_rate: float = field(
        default=1e-4, metadata={"help": "Learning rate of the last block and of everything new."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of every parameter."})
    max_grad_norm: float = field(default=0.01, metadata={"help": "Norm to which gradients are clipped."})
    layer_decay: float = field(
        default=0.8, metadata={"help": "Factor on the learning rate per block, from the last to the first."}
    )
    decay_query_blocks: bool = field(
        default=True, metadata={"help": "Whether the blocks that process the queries decay too."}
    )
    new_parameters_warmup_steps: float | None = field(
        default=None,
        metadata={
            "help": "Warm-up of everything new while the ViT stands still: steps, or a fraction of training below 1. "
            "Default: 500 steps, at most a twentieth of training."
        },
    )
    backbone_warmup_steps: float | None = field(
        default=None,
        metadata={
            "help": "Warm-up of the ViT afterwards: steps, or a fraction of training below 1. "
            "Default: 1000 steps, at most a tenth of training."
        },
    )
    poly_power: float = field(default=0.9, metadata={"help": "Exponent of the learning rate's polynomial decay."})
    mask_annealing: bool = field(
        default=True,
        metadata={"help": "Whether masked attention fades out block by block; otherwise masks stay as in the model."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter is used in every step, so there is nothing to look for."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Has no effect: nothing is removed."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} has no effect here: use new_parameters_warmup_steps and "
                "backbone_warmup_steps."
            )
        if self.lr_scheduler_type != type(self).lr_scheduler_type:
            raise ValueError(
                f"lr_scheduler_type={self.lr_scheduler_type} has no effect here: the learning rate decays with "
                "(1 - progress) ** poly_power."
            )

    def warmup_stages(self, total_steps: int) -> tuple[int, int]:
        """Steps of the two stages of the warm-up, the new parameters' and the ViT's, in a training of that length."""

        def steps(given: float | None, published: int, at_most: float) -> int:
            if given is None:
                return min(published, round(total_steps * at_most))
            return round(total_steps * given) if given < 1 else int(given)

        return steps(self.new_parameters_warmup_steps, 500, 1 / 20), steps(self.backbone_warmup_steps, 1000, 1 / 10)

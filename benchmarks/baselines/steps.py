"""The steps from ViT-Adapter + Mask2Former to EoMT, in the paper's sizes."""

from typing import Any

from benchmarks.measuring import SIZES
from configuration_eomt import EomtConfig
from modeling_eomt import EomtForUniversalSegmentation

from .configuration import BaselineConfig
from .modeling import BaselineForUniversalSegmentation


STEPS = {
    0: "ViT-Adapter + Mask2Former",
    1: "without adapter",
    2: "without pixel decoder",
    3: "without multi-scale",
    4: "without Transformer decoder: EoMT, masked",
    5: "without masking: EoMT",
}


def stepwise_model(
    step: int,
    size: str | dict[str, Any],
    image_size: int | tuple[int, int] = 640,
    num_queries: int = 200,
    num_labels: int = 133,
    **settings: Any,
) -> BaselineForUniversalSegmentation | EomtForUniversalSegmentation:
    """
    Builds the model of a step, with new weights, as it is at inference.

    Args:
        step: 0, ViT-Adapter + Mask2Former, to 5, EoMT; see `STEPS`.
        size: "small", "base", "large", "giant", "tiny", or the fields of [`EomtConfig`] that a size consists of:
            `hidden_size`, `num_hidden_layers`, `num_attention_heads`, and, which is for steps 4 and 5, `num_blocks`.
        image_size: height and width in pixels, one int for a square.
        num_queries: number of queries.
        num_labels: number of classes.
        settings: more fields of the configuration; `id2label` names the classes.

    Raises:
        ValueError: no such step or size, or a setting that cannot be.
    """
    if step not in STEPS:
        raise ValueError(f"step={step}: expected 0 to {max(STEPS)}.")
    if isinstance(size, str) and size not in SIZES:
        raise ValueError(f"size={size!r}: expected one of {', '.join(SIZES)}.")
    fields: dict[str, Any] = {**(SIZES[size] if isinstance(size, str) else size)}
    if step <= 3:
        fields.pop("num_blocks", None)  # of the ViT
    fields |= {"image_size": image_size, "num_queries": num_queries, **settings}
    fields.setdefault("id2label", {label: f"LABEL_{label}" for label in range(num_labels)})
    if step <= 3:
        return BaselineForUniversalSegmentation(BaselineConfig(step=step, **fields)).eval()
    model = EomtForUniversalSegmentation(EomtConfig(**fields)).eval()
    model.set_mask_probabilities([1.0 if step == 4 else 0.0] * model.config.num_blocks)
    return model

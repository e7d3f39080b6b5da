"""Configuration of the baseline, steps 0 to 3."""

from typing import Any

from transformers import Mask2FormerConfig

from configuration_eomt import EomtConfig
from configuration_eomt.configuration_eomt import as_pair


NUM_INTERACTIONS = 4  # of the adapter, each over as many blocks of the ViT
STRIDES = (4, 8, 16, 32)  # pixels, of the pyramid's maps


class BaselineConfig(EomtConfig):
    r"""
    Configuration of a [`BaselineForUniversalSegmentation`]. The fields are those of [`EomtConfig`]; two are different:

    Args:
        step (`int`, *optional*, defaults to 0):
            What is left of ViT-Adapter + Mask2Former: 0 everything, 1 no adapter, 2 no pixel decoder either, 3 one
            scale in the Transformer decoder.
        num_blocks (`int`, *optional*, defaults to 9):
            Number of layers of the Transformer decoder: these are what processes the queries here, and what mask
            probabilities are for.
        mask2former_settings (`dict`, *optional*):
            Fields of Transformers' `Mask2FormerConfig` in place of its defaults: a head smaller than the paper's.

    Raises:
        `ValueError`: as of [`EomtConfig`]; no such step; patches that are not 4, 8, 16 or 32 pixels high and wide; for
            step 0 a number of blocks that the adapter's four interactions do not divide.
    """

    model_type = "eomt_baseline"
    _auto_class = None  # no code travels with the weights
    _model_class = "BaselineForUniversalSegmentation"

    num_blocks: int = 9
    step: int = 0
    mask2former_settings: dict[str, Any] | None = None

    def _check_num_blocks(self) -> None:
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks={self.num_blocks}: the Transformer decoder has at least one layer.")

    def _check_sizes(self) -> None:
        super()._check_sizes()
        if self.step not in range(4):
            raise ValueError(f"step={self.step}: the baseline is step 0, 1, 2 or 3; steps 4 and 5 are EoMT.")
        height, width = as_pair(self.patch_size)
        if height != width or height not in STRIDES:
            raise ValueError(f"patch_size={self.patch_size}: expected one of {', '.join(map(str, STRIDES))}.")
        if self.step == 0 and self.num_hidden_layers % NUM_INTERACTIONS:
            raise ValueError(
                f"num_hidden_layers={self.num_hidden_layers}: the adapter meets the ViT {NUM_INTERACTIONS} times, at "
                "equal distances, so it must be a multiple of that."
            )

    def own_auto_map(self) -> dict[str, str]:
        return {}

    def _pipeline_files(self) -> list[Any]:
        return []

    def mask2former(self) -> Mask2FormerConfig:
        """The configuration of Mask2Former's parts: its defaults, and what both have in common."""
        in_common: dict[str, Any] = {
            "decoder_layers": self.num_blocks + 1,  # which counts the prediction before the first layer
            "num_queries": self.num_queries,
            "feature_strides": STRIDES,
        }
        return Mask2FormerConfig(**(self.mask2former_settings or {}), **in_common)

"""What makes a finished model faster: fewer and larger matrix products, lower precision, compilation."""

from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from .linear_eomt import onednn_computes


logger = logging.get_logger(__name__)

QUANTIZATIONS = {  # of the linear layers of the blocks, name here to name in torchao
    "int8": "Int8DynamicActivationInt8WeightConfig",
    "float8": "Float8DynamicActivationFloat8WeightConfig",
}


def optimize_for_inference(
    model: Any, dtype: torch.dtype | None, quantization: str | None, compile_mode: str | None
) -> None:
    """See [`EomtPreTrainedModel.optimize_for_inference`]."""
    if model.is_optimized_for_inference:
        raise ValueError("The model has been optimised already: load it anew to choose something else.")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization={quantization!r}: expected None or one of {', '.join(QUANTIZATIONS)}.")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("A model whose weights are partly offloaded cannot be optimised.")
    quantize = None if quantization is None else quantizer(quantization)
    on_cpu = next(model.parameters()).device.type == "cpu"
    if quantize is not None and on_cpu and not multiplies_exactly(quantize):
        raise ValueError(
            f"quantization={quantization!r}: this processor has no instructions for exact sums of 8-bit products, so "
            "the model would predict something else."
        )
    if dtype == torch.bfloat16 and on_cpu and not onednn_computes(dtype):
        logger.warning("This processor has no instructions for bfloat16: float32 is probably faster.")
    model.eval().requires_grad_(False)
    for layer in model.layers:
        layer.fuse()
    if dtype is not None:
        model.to(dtype)
    if quantize is not None:
        quantize(model.layers)
    if compile_mode is not None:
        model.compile(mode=compile_mode)
    model.is_optimized_for_inference = True


def quantizer(quantization: str) -> Any:
    """
    A function that quantises the linear layers of a module in place: weights once, activations as they come.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        from torchao import quantization as torchao_quantization
    except ImportError as error:
        raise ImportError("Quantisation is torchao's: pip install torchao") from error
    config = getattr(torchao_quantization, QUANTIZATIONS[quantization])()

    def quantize(module: nn.Module) -> None:
        torchao_quantization.quantize_(module, config, filter_fn=lambda part, _: isinstance(part, nn.Linear))

    return quantize


def multiplies_exactly(quantize: Any) -> bool:
    """
    Whether a quantised layer computes what it should on this CPU: without instructions for it, the library adds
    products of 8 bits in 16 bits, where large ones do not fit.

    Args:
        quantize: see [`quantizer`].
    """
    layer = nn.Linear(32, 32, bias=False).requires_grad_(False)
    layer.weight.fill_(1.0)
    layers = nn.Sequential(layer)
    quantize(layers)
    return bool((layers(torch.ones(16, 32)) - 32.0).abs().max() < 1.0)

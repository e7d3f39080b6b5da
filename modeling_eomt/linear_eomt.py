"""Linear layers, through the faster of the two libraries that PyTorch's matrix products may come from on a CPU.

Those of float32 come from MKL, which uses AVX-512 on Intel's processors only. Convolutions come from oneDNN, which
uses it on AMD's too, and there takes half the time. A linear layer is a convolution with kernels of one pixel.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


CHANNELS_AT_ONCE = 16  # numbers in a register: with other multiples oneDNN is slow


@cache
def has_better_onednn() -> bool:
    """Whether this is a CPU on which oneDNN makes more of the instructions than the rest of PyTorch."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
    has_wide_registers = capabilities.get("avx512_f", False) and torch.backends.mkldnn.is_available()
    return has_wide_registers and "Intel" not in capabilities.get("cpu_name", "Intel")


@cache
def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies matrices of `dtype` on this CPU; those of bfloat16 need instructions for it."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def onednn_pays(tensor: Tensor) -> bool:
    """Whether what is computed of `tensor` should go to oneDNN if it can."""
    is_eager = not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))
    return tensor.device.type == "cpu" and is_eager and has_better_onednn() and onednn_computes(tensor.dtype)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`: `(..., in_features)` to `(..., out_features)`."""
    is_plain = type(weight) in (Tensor, nn.Parameter)  # not quantised, not sharded
    fits = inputs.numel() > 0 and not any(size % CHANNELS_AT_ONCE for size in weight.shape)
    if not (inputs.dtype == torch.float32 and is_plain and fits and onednn_pays(inputs)):
        return F.linear(inputs, weight, bias)
    # One picture of one row of pixels, channels last.
    pixels = inputs.reshape(1, 1, -1, inputs.shape[-1]).permute(0, 3, 1, 2)
    outputs = F.conv2d(pixels, weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], -1)


class EomtLinear(nn.Linear):
    """A linear layer that computes as [`linear`] does."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return linear(input, self.weight, self.bias)

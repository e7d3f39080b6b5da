"""Faster or smaller ways to compute the same: attention, linear layers, images in bands, activations in training.

- [`EomtLinear`] and [`EomtDoubling`] stand in for `nn.Linear` and `nn.ConvTranspose2d`, [`einsum`] for `torch.einsum`.
- [`ALL_ATTENTION_FUNCTIONS`] is Transformers' table of attention functions, with another one for "sdpa".
- [`in_bands`] computes a few rows of an image at a time.
- [`recomputed`] saves memory in training: it keeps what goes into a function instead of what comes out.

On a CPU there are often two ways to the same result, and which one is faster depends on the processor. So both are
measured by [`choose`], as `torch.backends.cudnn.benchmark` does on a GPU: once per process and class of shapes, in
milliseconds. PyTorch's own way stays unless the other is clearly faster. Results differ by rounding only.

PyTorch's own way is always taken for small operations, under `torch.compile`, `torch.export` and autocast, on other
devices, with quantised or sharded weights, and after `torch.use_deterministic_algorithms(True)`: use that, which the
Trainer's `full_determinism` does, where large models have to agree bit for bit from one process to another.
"""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface


Kernel = Callable[..., Tensor]
Shapes = tuple[tuple[int, ...], ...]

REPETITIONS = 4  # of a measurement, the fastest counts
CLEARLY_FASTER = 0.8  # of the time of PyTorch's own way
WORTH_MEASURING = 2**24  # multiplications; below, PyTorch's own way is taken
BYTES_AT_ONCE = 2**21  # of an attention matrix, so that it stays in the cache
BAND_BYTES = 2**21  # of features before their height and width are doubled for the last time
NOTHING = nullcontext()  # once: one for each layer takes time that small layers do not have
RECOMPUTE_ACTIVATIONS = True  # in training: memory is worth more than the time of a few elementwise operations


# Which way is faster


def is_eager_on_cpu(*tensors: Tensor) -> bool:
    """Whether these are plain tensors on a CPU: not traced, quantised, sharded, fake or on another device."""
    if torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if not tensor.is_cpu or type(tensor) not in (Tensor, nn.Parameter):
            return False
    return not torch.jit.is_tracing()


def may_choose(*tensors: Tensor) -> bool:
    """Whether these may be computed in another way than PyTorch's own."""
    if not is_eager_on_cpu(*tensors):
        return False
    return not (torch.is_autocast_enabled("cpu") or torch.are_deterministic_algorithms_enabled())


def needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def round_up(size: int, most: int) -> int:
    """The next power of two, or `most`: sizes that are measured as one."""
    return min(1 << (size - 1).bit_length(), most)


_choices: dict[Any, Kernel] = {}
_lock = threading.Lock()


def choose(
    kernels: tuple[Kernel, ...], shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, train: bool
) -> Kernel:
    """
    Returns the fastest of a few functions, the first one unless another is clearly faster. They are measured at the
    first call with these arguments; later calls, from whatever thread, have the same answer.

    Args:
        kernels: functions of the same tensors with the same result.
        shapes: of the tensors.
        dtype: of the tensors.
        train: whether the backward pass counts too.
    """
    key = (kernels, shapes, dtype, train, torch.get_num_threads())
    if key not in _choices:
        with _lock:
            if key not in _choices:
                seconds = measure_seconds(*key)
                best = min(range(len(kernels)), key=seconds.__getitem__)
                _choices[key] = kernels[best if seconds[best] < CLEARLY_FASTER * seconds[0] else 0]
    return _choices[key]


def measure_seconds(
    kernels: tuple[Kernel, ...],
    shapes: Shapes,
    dtype: torch.dtype,
    train: bool,
    num_threads: int,
) -> list[float]:
    """Returns the shortest time of each function; one that takes more than twice as long as the first runs twice."""

    def measure() -> list[float]:
        torch.set_num_threads(num_threads)  # which is a matter of each thread
        tensors = [torch.full(shape, 0.01, dtype=dtype, requires_grad=train) for shape in shapes]
        seconds = [math.inf] * len(kernels)
        for repetition in range(1 + REPETITIONS):
            for index, kernel in enumerate(kernels):
                if repetition > 1 and seconds[index] > 2 * seconds[0]:
                    continue
                start = time.thread_time()  # does not count what other programs take
                output = kernel(*tensors)
                if train:
                    torch.autograd.grad(output, tensors, torch.ones_like(output))
                if repetition > 0:
                    seconds[index] = min(seconds[index], time.thread_time() - start)
        return seconds

    # In a thread of its own no autocast, inference mode, hook or counter of the caller's sees it.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(measure).result()


# Memory in training


class _Saved(torch.autograd.Function):
    """Passes a tensor on, and is where the backward pass finds it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(tensor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def is_recomputing() -> bool:
    """Whether to do that: not where nothing is differentiated, nor in compiled code, which decides for itself."""
    return RECOMPUTE_ACTIVATIONS and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _Recomputation:
    """
    How a tensor is computed again, an attribute of it.

    version: what PyTorch counts for changes in place, of the tensor as it was computed.
    """

    def __init__(self, function: Callable[[], Tensor], version: int):
        self.function, self.version = function, version

    def __reduce__(self) -> Any:
        return type(None), ()  # nothing of it is stored with a tensor


def recomputed(function: Callable[..., Tensor], *tensors: Tensor, is_one_operation: bool = False) -> Tensor:
    """
    Returns `function(*tensors)`, which in training is computed again in the backward pass instead of kept, it and what
    is between. It saves memory if it is used once, in one of the matrix products of this file.

    Args:
        function: of tensors, without random numbers.
        tensors: its arguments, which are kept.
        is_one_operation: whether it has one argument, and PyTorch keeps nothing else to differentiate it: then a
            checkpoint would take the host's time for nothing.
    """
    if not is_recomputing() or (is_one_operation and not tensors[0].requires_grad):
        return function(*tensors)
    result: Any
    node: Any
    if is_one_operation:
        saved = _Saved.apply(*tensors)
        node = saved.grad_fn
        result = function(saved)
        result._recomputation = _Recomputation(lambda: function(node.saved_tensors[0]), result._version)
    else:

        def compute(*tensors: Tensor) -> Tensor:
            return _Saved.apply(function(*tensors))

        result = checkpoint(compute, *tensors, use_reentrant=False, preserve_rng_state=False)
        node = result.grad_fn
        if node is not None:
            result._recomputation = _Recomputation(lambda: node.saved_tensors[0], result._version)
    return result


def releasing(*tensors: Tensor) -> AbstractContextManager:
    """Returns a context in which an operation keeps nothing of what is [`recomputed`] among its arguments."""
    if not is_recomputing():
        return NOTHING
    results = {}
    for tensor in tensors:
        recomputation = getattr(tensor, "_recomputation", None)
        if recomputation is not None and recomputation.version == tensor._version:
            results[tensor.untyped_storage().data_ptr()] = recomputation.function
    if not results:
        return NOTHING

    def pack(tensor: Tensor) -> Any:
        recompute = results.get(tensor.untyped_storage().data_ptr())
        return tensor if recompute is None else (recompute, tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        recompute, *layout = kept
        return recompute().as_strided(*layout)

    return saved_tensors_hooks(pack, unpack)


# Linear layers


def linear_as_convolution(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`, by the library that computes convolutions: kernels of one pixel.

    PyTorch takes matrix products of float32 from MKL, which uses AVX-512 on Intel's processors only, and convolutions
    from oneDNN, which uses it wherever it is.
    """
    pixels = inputs.reshape(1, 1, -1, inputs.shape[-1]).permute(0, 3, 1, 2)  # (1, in_features, 1, rows)
    outputs = F.conv2d(pixels, weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], -1)


def choose_linear(inputs: Tensor, weight: Tensor) -> Kernel:
    """Returns what computes a linear layer of this size."""
    if inputs.dtype != torch.float32 or not may_choose(inputs, weight):
        return F.linear
    if inputs.numel() * weight.shape[0] < WORTH_MEASURING:
        return F.linear
    out_features, in_features = (min(size, 1024) for size in weight.shape)
    rows = round_up(inputs.numel() // inputs.shape[-1], 256)
    shapes = (rows, in_features), (out_features, in_features)
    return choose((F.linear, linear_as_convolution), shapes, inputs.dtype, needs_gradient(inputs, weight))


class EomtLinear(nn.Linear):
    """`nn.Linear`, computed as [`choose_linear`] says."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        with releasing(input):
            return choose_linear(input, self.weight)(input, self.weight, self.bias)


class EomtDoubling(nn.ConvTranspose2d):
    """A transposed convolution whose 2x2 windows do not overlap: a matrix product, with channels last in memory.

    As a convolution it is faster on a CPU, but takes twice as long to differentiate.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=2, stride=2)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """`(batch, channels, height, width)` to `(batch, channels, 2 * height, 2 * width)`."""
        if features.device.type == "cpu" and not torch.is_grad_enabled():
            return super().forward(features)
        pixels, matrix = features.permute(0, 2, 3, 1), recomputed(self.as_matrix, self.weight, is_one_operation=True)
        bias = self.bias.repeat(4)  # type: ignore[union-attr]
        with releasing(features, matrix):
            windows = choose_linear(pixels, matrix)(pixels, matrix, bias)
        # One axis after the other: Core ML takes tensors of at most five.
        rows = windows.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2)  # (batch, 2 * height, width, 2 * channels)
        return rows.unflatten(-1, (2, -1)).flatten(2, 3).permute(0, 3, 1, 2)

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        """Returns `(4 * out_channels, in_channels)`: rows are the four places in a window, then the channels."""
        return weight.permute(2, 3, 1, 0).flatten(0, 2)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """As `torch.einsum`."""
    with releasing(*operands):
        return torch.einsum(equation, *operands)


# Attention


def attention_by_head(query: Tensor, key: Tensor, value: Tensor, scaling: float = 1.0) -> Tensor:
    """
    Attention as matrix products of oneDNN, one head after the other; without gradients.

    Rounded like eager attention: scores and probabilities have the dtype of the arguments.

    Args:
        query: `(batch, heads, rows, head_dim)`.
        key: `(batch, heads, num_tokens, head_dim)`.
        value: `(batch, heads, num_tokens, head_dim)`.
        scaling: factor on the scores.

    Returns:
        `(batch, rows, heads, head_dim)`.
    """
    batch_size, num_heads, num_rows, head_dim = query.shape
    output = query.new_empty(batch_size, num_rows, num_heads, head_dim)
    query, key, value = (query * scaling).contiguous(), key.contiguous(), value.transpose(2, 3).contiguous()
    rows_at_once = max(1, BYTES_AT_ONCE // (key.shape[2] * key.element_size()))
    for image in range(batch_size):
        for head in range(num_heads):
            keys, values = key[image, head].to_mkldnn(), value[image, head].to_mkldnn()
            for start in range(0, num_rows, rows_at_once):
                rows = slice(start, start + rows_at_once)
                probabilities = F.linear(query[image, head, rows].to_mkldnn(), keys).softmax(dim=-1)
                output[image, rows, head] = F.linear(probabilities, values).to_dense()
    return output


def multiplies_by_head(dtype: torch.dtype) -> bool:
    """Whether [`attention_by_head`] computes with `dtype` on this machine."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def is_faster_by_head(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether [`attention_by_head`] is faster than PyTorch's fused attention."""
    batch_size, num_heads, num_rows, head_dim = query.shape
    if needs_gradient(query, key, value) or not may_choose(query, key, value):
        return False
    if query.numel() * key.shape[2] < WORTH_MEASURING or not multiplies_by_head(query.dtype):
        return False
    heads = min(batch_size * num_heads, torch.get_num_threads())
    tokens = (1, heads, round_up(key.shape[2], 2048), head_dim)
    shapes = (1, heads, round_up(num_rows, 512), head_dim), tokens, tokens
    kernels = F.scaled_dot_product_attention, attention_by_head
    return choose(kernels, shapes, query.dtype, train=False) is attention_by_head


# A new attention kernel goes here. Rows that carry a mask always take "sdpa", unless it is "eager".
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
TRANSFORMERS_SDPA = ALL_ATTENTION_FUNCTIONS["sdpa"]  # once: torch 2.6 cannot compile the look-up


def sdpa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Transformers' "sdpa", or [`attention_by_head`] where that is faster."""
    if attention_mask is None and dropout == 0.0 and is_faster_by_head(query, key, value):
        return attention_by_head(query, key, value, scaling), None
    return TRANSFORMERS_SDPA(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)


ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_attention  # for this project's models; other models' stays Transformers'


# Images


def in_bands(upscale: Kernel, read: Kernel, features: Tensor, num_rows: int) -> Tensor:
    """
    Computes `read(upscale(features))`, in inference on a CPU in bands of rows: what is upscaled of a band stays in the
    cache, what is upscaled of a whole image does not fit.

    Args:
        upscale: takes and returns `(batch, channels, rows, columns)`; what comes of a row depends on it and its two
            neighbours.
        read: takes what is upscaled of `num_rows` rows, or of a multiple; returns `(batch, ..., rows, columns)`.
        features: `(batch, channels, rows, columns)`.
        num_rows: divides the rows of the features.
    """
    if torch.is_grad_enabled() or not is_eager_on_cpu(features):
        return read(upscale(features))
    height = features.shape[2]
    num_rows *= max(1, BAND_BYTES // features[:, :, :num_rows].nbytes)
    bands = []
    for start in range(0, height, num_rows):
        end = min(start + num_rows, height)
        first, last = max(0, start - 1), min(end + 1, height)  # with a row more on either side
        upscaled = upscale(features[:, :, first:last])
        factor = upscaled.shape[2] // (last - first)
        bands.append(read(upscaled[:, :, factor * (start - first) : factor * (end - first)]))
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)


# Low precision in inference

QUANTIZATIONS = {  # of the linear layers of the blocks, name here to name in torchao
    "int8": "Int8DynamicActivationInt8WeightConfig",
    "float8": "Float8DynamicActivationFloat8WeightConfig",
}


def find_quantizer(quantization: str) -> Callable[[nn.Module], None]:
    """
    Returns a function that quantises the linear layers of a module in place: weights once, activations as they come.

    Raises:
        ValueError: no such quantisation.
        ImportError: torchao is not installed.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization={quantization!r}: expected None or one of {', '.join(QUANTIZATIONS)}.")
    try:
        from torchao import quantization as torchao_quantization
    except ImportError as error:
        raise ImportError("Quantisation is torchao's: pip install torchao") from error
    config = getattr(torchao_quantization, QUANTIZATIONS[quantization])()

    def quantize(module: nn.Module) -> None:
        torchao_quantization.quantize_(module, config, filter_fn=lambda part, _: isinstance(part, nn.Linear))

    return quantize


def multiplies_exactly(quantize: Callable[[nn.Module], None]) -> bool:
    """
    Whether a quantised layer computes what it should on this CPU: without instructions for it, the library adds
    products of 8 bits in 16 bits, where large ones do not fit.

    Args:
        quantize: see [`find_quantizer`].
    """
    layer = nn.Linear(32, 32, bias=False).requires_grad_(False)
    layer.weight.fill_(1.0)
    layers = nn.Sequential(layer)
    quantize(layers)
    return bool((layers(torch.ones(16, 32)) - 32.0).abs().max() < 1.0)


def measure_slowdown(layer: nn.Linear, dtype: torch.dtype) -> float:
    """Returns how many times as long a linear layer takes on this CPU in `dtype` as in float32."""
    shapes = (256, min(layer.in_features, 1024)), (min(layer.out_features, 1024), min(layer.in_features, 1024))
    num_threads = torch.get_num_threads()
    (low,) = measure_seconds((F.linear,), shapes, dtype, False, num_threads)
    return low / min(measure_seconds((F.linear, linear_as_convolution), shapes, torch.float32, False, num_threads))

"""Bilinear interpolation of a few rows of a picture at a time, so that memory does not grow with the picture."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .sizes_eomt import View


# Numbers in a band: few enough for a CPU's cache, enough to keep a GPU busy.
BAND_NUMEL = {"cpu": 1 << 22, "other": 1 << 26}


def bands(num_rows: int, numel_per_row: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """The rows 0 to `num_rows - 1` in groups that stay in the cache: as a slice, and `(rows,)` int64 on the CPU."""
    numel = BAND_NUMEL["cpu" if device.type == "cpu" else "other"]
    for rows in torch.arange(num_rows).split(max(1, numel // max(1, numel_per_row))):
        yield slice(int(rows[0]), int(rows[-1]) + 1), rows


def rows_of(source: Tensor) -> Callable[[Tensor], Tensor]:
    """What `interpolate_rows` takes as the rows of a source in memory, `(channels, height, width)`: float32."""
    return lambda indices: source.index_select(1, indices.to(source.device)).float()


def interpolate_rows(
    source_rows: Callable[[Tensor], Tensor], source_height: int, rows: Tensor, size: tuple[int, int]
) -> Tensor:
    """
    Some rows of what `F.interpolate(source, size, mode="bilinear")` would give.

    Args:
        source_rows: takes `(n,)` int64 indices on the CPU, ascending, and returns these rows of the source:
            `(channels, n, source_width)`.
        source_height: number of rows of the source.
        rows: `(num_rows,)` int64 indices on the CPU of the wanted rows.
        size: `(height, width)` of the whole result.

    Returns:
        `(channels, num_rows, width)`.
    """
    height, width = size
    if height == source_height:
        values = source_rows(rows)
    else:
        position = ((rows + 0.5).double() * (source_height / height) - 0.5).clamp(min=0)
        above = position.long()
        needed, index = torch.stack([above, (above + 1).clamp(max=source_height - 1)]).unique(return_inverse=True)
        values = source_rows(needed)
        index = index.to(values.device)
        weight = (position - above).to(values.device, values.dtype)[:, None]
        values = torch.lerp(values.index_select(1, index[0]), values.index_select(1, index[1]), weight)
    return values if values.shape[-1] == width else F.interpolate(values, size=width, mode="linear")


def upsampled_masks(mask_logits: Tensor, view: View, output_size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """
    Mask logits at the size of the image: up to what the model saw, padding cut off, then to the output.

    Args:
        mask_logits: `(num_masks, height, width)`, at any scale.
        view: what the model saw of the image, not split.
        output_size: `(height, width)` in pixels of the image.

    Yields:
        The rows of a band and the logits in it, `(num_masks, num_rows, output_width)` float32, from top to bottom.
    """
    (content_height, content_width), input_size = view.content_size, view.input_size

    def content_rows(rows: Tensor) -> Tensor:
        return interpolate_rows(rows_of(mask_logits), mask_logits.shape[1], rows, input_size)[..., :content_width]

    numel_per_row = len(mask_logits) * max(output_size[1], input_size[1])
    for band, rows in bands(output_size[0], numel_per_row, mask_logits.device):
        yield band, interpolate_rows(content_rows, content_height, rows, output_size)

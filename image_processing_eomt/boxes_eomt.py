"""Areas and bounding boxes of many regions of a picture at once."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Occupancy:
    """
    How many pixels of each row and of each column belong to each of several regions.

    Args:
        num_regions: how many regions there are.
        size: `(height, width)` of the picture in pixels.
    """

    def __init__(self, num_regions: int, size: tuple[int, int], device: torch.device):
        self.rows, self.columns = (
            torch.zeros(num_regions, length, dtype=torch.int64, device=device) for length in size
        )

    def add(self, rows: slice, regions: Tensor) -> None:
        """Counts a band of rows of a map of regions: `(num_rows, width)` int64, the region of each pixel."""
        num_regions = len(self.rows)
        height, width = regions.shape
        y, x = torch.arange(height, device=regions.device), torch.arange(width, device=regions.device)
        for counts, cells in (
            (self.rows[:, rows], regions * height + y[:, None]),
            (self.columns, regions * width + x),
        ):
            counts += torch.bincount(cells.flatten(), minlength=num_regions * counts.shape[1]).view(num_regions, -1)

    def add_masks(self, rows: slice, masks: Tensor) -> None:
        """Counts a band of rows of masks that may overlap: `(num_regions, num_rows, width)` bool."""
        self.rows[:, rows] += masks.sum(dim=2)
        self.columns += masks.sum(dim=1)

    def areas_and_edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`(num_regions,)` int64 each: the area, the first column and row, the last column and row, in pixels."""
        (left, right), (top, bottom) = (_ends(counts > 0) for counts in (self.columns, self.rows))
        return self.rows.sum(dim=1), left, top, right, bottom


def bounding_box(edges: Iterable[list[int]]) -> list[int]:
    """`[x, y, width, height]` around regions whose first column and row and last column and row are given."""
    left, top, right, bottom = zip(*edges)
    x, y = min(left), min(top)
    return [x, y, max(right) - x + 1, max(bottom) - y + 1]


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and last position of True in each row of `(n, length)`; 0 and -1 where there is none."""
    last = occupied.shape[1] - 1 - occupied.int().flip(1).argmax(dim=1)
    return occupied.int().argmax(dim=1), torch.where(occupied.any(dim=1), last, -1)

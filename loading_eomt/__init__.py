"""Any EoMT checkpoint as a model and its image processor, whoever wrote it.

- `checkpoint`: what is in a folder or on the Hub, and loading it.
- `published`: the checkpoints of EoMT's authors, which `published_checkpoints.json` describes.
- `published_datasets`: the classes of their datasets.
- `lazy`: packages whose names are imported on first use.
"""

from typing import TYPE_CHECKING

from .lazy import lazy_attributes


if TYPE_CHECKING:
    from .checkpoint import Checkpoint, find_checkpoint, find_original
    from .published import PublishedCheckpoint, published_checkpoints

__all__ = ["Checkpoint", "PublishedCheckpoint", "find_checkpoint", "find_original", "published_checkpoints"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Checkpoint": ".checkpoint",
        "PublishedCheckpoint": ".published",
        "find_checkpoint": ".checkpoint",
        "find_original": ".checkpoint",
        "published_checkpoints": ".published",
    },
)

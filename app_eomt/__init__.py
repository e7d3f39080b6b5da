"""A page in the browser on which one tries checkpoints on photographs: `eomt app`, or `python -m app_eomt`."""

from .command import main


__all__ = ["main"]

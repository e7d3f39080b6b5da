"""Stands in for the real `configuration_eomt.py`, which takes this file's place in every saved folder.

On the Hub all files of a checkpoint lie in one folder and may import only each other (`from .name import`), so the
model imports its configuration as a sibling. `save_pretrained` writes the real file over this one.
"""

from configuration_eomt.configuration_eomt import *  # noqa: F403

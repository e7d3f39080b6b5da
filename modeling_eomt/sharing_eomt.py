"""Stands in for the real `sharing_eomt.py`, which takes this file's place in every saved folder."""

from configuration_eomt.sharing_eomt import push_saved, save_and_push, save_into


__all__ = ["push_saved", "save_and_push", "save_into"]

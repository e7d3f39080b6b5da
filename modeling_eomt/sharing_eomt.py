"""Stands in for the real `sharing_eomt.py`, which takes this file's place in every saved folder."""

from configuration_eomt.sharing_eomt import finish_saved_folder, push_saved, save_and_push


__all__ = ["finish_saved_folder", "push_saved", "save_and_push"]

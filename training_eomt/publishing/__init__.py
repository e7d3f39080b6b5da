"""Folders and model cards for the Hub."""

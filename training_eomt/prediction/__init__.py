"""Segmenting any number of images with a finished model, shared between processes and resumed."""

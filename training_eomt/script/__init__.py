"""What `run_segmentation.py` is made of."""

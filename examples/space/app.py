"""A Hugging Face Space: the page of `eomt app` with the checkpoints that the variable EOMT_MODEL names."""

import os

from app_eomt import main


MODELS = os.environ.get("EOMT_MODEL", "tue-mps/coco_panoptic_eomt_small_640_2x")

if __name__ == "__main__":
    main(["--model", *MODELS.split()])

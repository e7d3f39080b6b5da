"""The README's picture: a generated scene, and its segments as a model finds them that has never seen it.

The model is the demo's, trained a little longer on larger images; the scene is of other random numbers than theirs:

    make demo
    python -m training_eomt.shapes outputs/scenes --image-size 320 --num-train 500 --num-validation 0 --seed 1
    python run_segmentation.py --task panoptic --model_name_or_path outputs/shapes_demo --image_size 320 \\
        --train_data outputs/scenes/train --output_dir outputs/scenes_320 --do_train --scale_range 0.9 1.1 \\
        --max_steps 120 --per_device_train_batch_size 8 --learning_rate 1e-3 --layer_decay 1.0 --max_grad_norm 0.1 \\
        --new_parameters_warmup_steps 0 --backbone_warmup_steps 10 \\
        --mask_annealing_starts 0 0 --mask_annealing_ends 0 0
    python benchmarks/photograph.py --model outputs/scenes_320 --seed 107 --output docs/photograph.png

The scene is one of 306 that were scored against their true masks, and one on which the model does well; on most it
misses or confuses something.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from eomt_transformers import draw_segmentation, pipeline
from training_eomt.scenes import draw_scene


SIZE = 480  # pixels of a side
MARGIN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the scene")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    pixels, _, _ = draw_scene(np.random.default_rng([2**31, arguments.seed]), SIZE, SIZE)
    image = Image.fromarray(pixels)
    segmenter = pipeline(arguments.model)
    id2label = segmenter.model.config.id2label
    drawing = draw_segmentation(image, segmenter(image), id2label=id2label)
    both = Image.new("RGB", (2 * SIZE + MARGIN, SIZE), "white")
    both.paste(image, (0, 0))
    both.paste(drawing, (SIZE + MARGIN, 0))
    both.quantize(256, dither=Image.Dither.NONE).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()

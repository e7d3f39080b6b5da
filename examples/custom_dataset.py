"""
Trains on data in memory, drawn here, of whatever origin: `python examples/custom_dataset.py outputs/discs`
"""

import argparse

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

import eomt_transformers as eomt
from training_eomt.data import Sample, Target
from training_eomt.inputs import EvaluationInputs, TrainingInputs


def draw_sample(number: int) -> Sample:
    """Draws a red or a blue disc on grey. A sample is an image, and a mask and a class for each thing in it."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:64, :64] - rng.uniform(16, 48, (2, 1, 1))
    mask = np.hypot(y, x) < rng.uniform(8, 16)
    label = int(rng.integers(2))
    pixels = np.where(mask[..., None], [[200, 40, 40], [40, 40, 200]][label], 128).astype(np.uint8)
    return Sample(number, Image.fromarray(pixels), [Target(coco_mask.encode(np.asfortranarray(mask)), label)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains on data in memory.")
    parser.add_argument("output", help="folder of the model")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    size: dict = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "num_blocks": 2}
    config = eomt.EomtConfig(**size, num_queries=5, image_size=64, id2label={0: "red disc", 1: "blue disc"})
    model = eomt.EomtForUniversalSegmentation(config)
    processor = eomt.EomtImageProcessor(task="instance", size=64)
    train = TrainingInputs([draw_sample(number) for number in range(200)], processor, augmentation=None)
    held_out = EvaluationInputs([draw_sample(number) for number in range(200, 220)], processor)
    arguments = eomt.EomtTrainingArguments(options.output, max_steps=options.steps, learning_rate=1e-3)
    trainer = eomt.EomtTrainer(model, arguments, processor, train_dataset=train, eval_dataset=held_out)
    trainer.train()
    print("average precision", trainer.evaluate()["eval_ap"])

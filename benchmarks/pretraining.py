"""Pre-training for `benchmarks.stepwise_training`: a ViT learns to tell which kinds of shapes are in an image.

That is to segmenting shapes what classification on ImageNet is to segmenting photographs: labels of whole images, and
no word about where anything is. The images are others than those of the segmentation.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image_processing_eomt import EomtImageProcessor
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.shapes import THINGS, generate_shapes_dataset


NUM_TRAIN, NUM_VALIDATION, DATA_SEED = 4000, 500, 1000
MAX_STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 500, 32, 1e-3, 0.05, 0.1
VIT_PARTS = ("embeddings", "layers", "layernorm")


class ShapeClassifier(nn.Module):
    """A linear layer for each kind of shape on the mean of a ViT's patches.

    Args:
        vit: a model with a ViT's parts; they are trained, nothing else of it is.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.embeddings, self.layers, self.layernorm = (getattr(vit, name) for name in VIT_PARTS)
        self.classifier = nn.Linear(vit.config.hidden_size, len(THINGS))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(batch, 3, height, width)` to logits `(batch, num_kinds)`."""
        tokens, _ = self.embeddings(pixel_values)
        for layer in self.layers:
            tokens, _ = layer(tokens)
        return self.classifier(self.layernorm(tokens)[:, self.embeddings.num_prefix_tokens :].mean(1))


def copy_vit(source: nn.Module, target: nn.Module) -> None:
    """Copies the weights of the ViT from one model into another one's."""
    for name in VIT_PARTS:
        target.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())


def load_images(folder: Path, image_size: int) -> tuple[Tensor, Tensor]:
    """All images, normalised, `(num_images, 3, image_size, image_size)`, and which kinds of shapes are in them,
    `(num_images, num_kinds)`, 0 or 1."""
    dataset = CocoPanopticDataset(folder)
    processor = EomtImageProcessor(size=image_size, task="panoptic")
    pixels, kinds = [], torch.zeros(len(dataset), len(THINGS))
    for index in range(len(dataset)):
        sample = dataset[index]
        pixels.append(processor(images=[sample.image], return_tensors="pt")["pixel_values"])
        for target in sample.targets:
            name = dataset.label_space.id2label[target.label_id]
            if name in THINGS:
                kinds[index, THINGS.index(name)] = 1
    return torch.cat(pixels), kinds


def pretrain(vit: Any, work: Path, image_size: int, seed: int) -> dict[str, float]:
    """
    Trains the ViT of a model in place.

    Args:
        vit: a model with a ViT's parts.
        work: folder for the images.
        image_size: side of the images, in pixels.
        seed: of the order of the images; their own is always the same.

    Returns:
        On other images than it was trained on, the share of answers that are right (is there a circle? a star?) and,
        as `always_yes`, what that share is for who always says yes.
    """
    folder = generate_shapes_dataset(work / "pretraining", NUM_TRAIN, NUM_VALIDATION, 0, image_size, DATA_SEED)
    pixels, kinds = load_images(folder / "train", image_size)
    torch.manual_seed(seed)
    model = ShapeClassifier(vit).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, MAX_STEPS, pct_start=WARM_UP)
    rng = np.random.default_rng(seed)
    for _ in range(MAX_STEPS):
        chosen = torch.from_numpy(rng.choice(len(pixels), BATCH_SIZE, replace=False))
        batch = pixels[chosen]
        if rng.random() < 0.5:
            batch = batch.flip(3)
        loss = F.binary_cross_entropy_with_logits(model(batch), kinds[chosen])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    pixels, kinds = load_images(folder / "validation", image_size)
    with torch.no_grad():
        found = torch.cat([model.eval()(each) > 0 for each in pixels.split(BATCH_SIZE)])
    right = (found == kinds.bool()).float().mean()
    return {"steps": MAX_STEPS, "accuracy": round(float(right), 4), "always_yes": round(float(kinds.mean()), 4)}

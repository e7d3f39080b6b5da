"""Training augmentation after the paper (section 4 and its appendix).

Colour jitter on request, then flip, scale jitter, pad and random crop of image and masks together.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from .data.samples import Sample


class SegmentationAugmentation:
    """Turns a sample into a randomly scaled and cropped training example of one size.

    Random numbers come from torch's generator, so `torch.manual_seed` makes it repeatable. Crowd targets are left out:
    they are not trained on.

    Args:
        target_size: `(height, width)` of the result in pixels.
        scale_range: smallest and largest size of the image, as a fraction of the size at which it just fits into
            `target_size`.
        horizontal_flip: mirror half of the images.
        color_jitter: change brightness, contrast, saturation and hue at random, each for half of the images.
        max_tries: crops to try when a crop holds no target although the image has some; after the last one the
            example has no targets, which is legal.
    """

    def __init__(
        self,
        target_size: tuple[int, int],
        scale_range: tuple[float, float] = (0.1, 2.0),
        horizontal_flip: bool = True,
        color_jitter: bool = False,
        max_tries: int = 10,
    ) -> None:
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range must be (smallest, largest) and positive, got {scale_range}.")
        self.target_size = target_size
        self.scale_range = scale_range
        self.horizontal_flip = horizontal_flip
        self.max_tries = max_tries
        self.color_jitter = (
            v2.RandomPhotometricDistort(
                brightness=(1 - 32 / 255, 1 + 32 / 255), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05)
            )
            if color_jitter
            else None
        )
        self.crop = v2.RandomCrop(target_size, pad_if_needed=False)

    def __call__(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Returns:
            The image `(3, height, width)` uint8, the masks `(num_targets, height, width)` bool and their label ids
            `(num_targets,)` int64. Targets without a pixel in the crop are left out.
        """
        image = tv_tensors.Image(F.pil_to_tensor(sample.image))
        if self.color_jitter is not None:
            image = self.color_jitter(image)
        keep = [index for index, target in enumerate(sample.targets) if not target.iscrowd]
        label_ids = torch.tensor([sample.targets[index].label_id for index in keep], dtype=torch.int64)
        masks = (sample.targets[index].mask() for index in keep)
        layers, layer_of_target = _stack_into_layers(masks, sample.size)

        for _ in range(self.max_tries):
            crop, cropped_layers = self._scale_and_crop(image, tv_tensors.Mask(layers))
            # (num_targets, height, width): target i is number i + 1 in its layer.
            numbers = torch.arange(1, len(keep) + 1)[:, None, None]
            cropped_masks = cropped_layers[layer_of_target] == numbers
            visible = cropped_masks.flatten(1).any(1)
            if visible.any() or not keep:
                break
        return crop.as_subclass(torch.Tensor), cropped_masks[visible], label_ids[visible]

    def _scale_and_crop(
        self, image: tv_tensors.Image, layers: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, torch.Tensor]:
        if self.horizontal_flip and torch.rand(()) < 0.5:
            image, layers = F.horizontal_flip(image), F.horizontal_flip(layers)

        # v2.ScaleJitter swaps height and width of a target size that is not square, and can round a side to nothing.
        height, width = image.shape[-2:]
        smallest, largest = self.scale_range
        jitter = smallest + float(torch.rand(())) * (largest - smallest)
        scale = min(self.target_size[0] / height, self.target_size[1] / width) * jitter
        size = [max(1, int(height * scale)), max(1, int(width * scale))]
        image = F.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
        layers = F.resize(layers, size, interpolation=InterpolationMode.NEAREST)

        missing_rows, missing_columns = (max(0, target - side) for target, side in zip(self.target_size, size))
        padding = [0, 0, missing_columns, missing_rows]  # left, top, right, bottom
        image, layers = F.pad(image, padding, fill=0), F.pad(layers, padding, fill=0)
        image, layers = self.crop(image, layers)
        return image, layers.as_subclass(torch.Tensor)


def _stack_into_layers(masks: Iterable[np.ndarray], size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Packs masks, each `(height, width)`, into few maps of target numbers, 0 where there is no target.

    Panoptic segments never overlap, so they fit into one map and are resized and cropped as one; each mask that
    overlaps gets the first map in which it finds room.

    Returns:
        The maps `(num_layers, height, width)` int32, at least one, and the layer of each target `(num_targets,)`.
    """
    layers = [np.zeros(size, dtype=np.int32)]
    layer_of_target = []
    for number, mask in enumerate(masks, start=1):
        layer = next((i for i, taken in enumerate(layers) if not taken[mask].any()), len(layers))
        if layer == len(layers):
            layers.append(np.zeros_like(layers[0]))
        layers[layer][mask] = number
        layer_of_target.append(layer)
    stacked = layers[0][None] if len(layers) == 1 else np.stack(layers)
    return torch.from_numpy(stacked), torch.tensor(layer_of_target, dtype=torch.int64)

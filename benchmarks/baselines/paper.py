"""The paper's figures: ViT with DINOv2 weights, COCO panoptic, 200 queries, on an H100 with batch 1, compiled, AMP.

Reference: "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, https://arxiv.org/abs/2503.19108, tables 1, 2
and 4.
"""

from typing import NamedTuple


class Figures(NamedTuple):
    """A row of the paper's tables: millions of parameters, billions of multiply-adds, images per second, PQ."""

    parameters: int
    multiply_adds: int
    images_per_second: int
    pq: float


# (size, image size) -> step -> figures
PAPER = {
    ("small", 640): {0: Figures(47, 165, 33, 50.5), 4: Figures(24, 89, 108, 46.1), 5: Figures(24, 68, 330, 44.7)},
    ("base", 640): {0: Figures(121, 347, 32, 54.4), 4: Figures(93, 286, 104, 51.5), 5: Figures(93, 216, 261, 50.6)},
    ("large", 640): {
        0: Figures(349, 830, 29, 57.1),
        1: Figures(342, 700, 36, 56.7),
        2: Figures(337, 685, 61, 56.9),
        3: Figures(328, 673, 64, 56.7),
        4: Figures(316, 828, 61, 56.2),
        5: Figures(316, 669, 128, 56.0),
    },
    ("giant", 640): {
        0: Figures(1209, 2510, 20, 57.7),
        4: Figures(1164, 2689, 35, 57.2),
        5: Figures(1164, 2261, 55, 57.0),
    },
    ("large", 1280): {0: Figures(354, 4817, 10, 59.7), 5: Figures(322, 4146, 30, 58.3)},
    ("giant", 1280): {0: Figures(1216, 13790, 6, 59.9), 5: Figures(1171, 12712, 12, 59.2)},
}

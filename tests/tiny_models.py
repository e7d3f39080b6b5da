"""A model small enough to run anywhere."""

from typing import Any


# 3 blocks, 2 of them with queries, 64x64 pixels.
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_blocks": 2,
    "num_queries": 7,
    "image_size": 64,
    "num_register_tokens": 2,
    "train_num_points": 256,
    "id2label": {0: "cat", 1: "dog", 2: "sky"},
}

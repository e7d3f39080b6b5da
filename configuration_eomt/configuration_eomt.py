"""Configuration of EoMT, the Encoder-only Mask Transformer.

Reference: "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, https://arxiv.org/abs/2503.19108.
"""

from typing import Any

from transformers import PreTrainedConfig


# Which class of the files that travel with a checkpoint answers to which Auto class. `pipeline("image-segmentation")`
# asks for AutoModelForImageSegmentation first: without that entry it would silently use Transformers' own class.
_AUTO_MAP = {
    "AutoConfig": "configuration_eomt.EomtConfig",
    "AutoModel": "modeling_eomt.EomtForUniversalSegmentation",
    "AutoModelForUniversalSegmentation": "modeling_eomt.EomtForUniversalSegmentation",
    "AutoModelForImageSegmentation": "modeling_eomt.EomtForUniversalSegmentation",
}
_CUSTOM_PIPELINES = {
    "image-segmentation": {
        "impl": "pipeline_eomt.EomtImageSegmentationPipeline",
        "pt": ["AutoModelForUniversalSegmentation"],
    }
}


def as_pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` of a size given as one int (square) or as a pair."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def patch_grid(
    image_size: int | list[int] | tuple[int, int], patch_size: int | list[int] | tuple[int, int]
) -> tuple[int, int]:
    """
    `(rows, columns)` of patches in an image; sizes in pixels, one int for a square or `(height, width)`.

    Raises:
        ValueError: the patch size does not divide the image size.
    """
    (height, width), (patch_height, patch_width) = as_pair(image_size), as_pair(patch_size)
    if height % patch_height or width % patch_width:
        raise ValueError(f"image_size={image_size} is not divisible by patch_size={patch_size}.")
    return height // patch_height, width // patch_width


class EomtConfig(PreTrainedConfig):
    r"""
    Configuration of an [`EomtForUniversalSegmentation`]. Field names, meanings and defaults are those of Transformers'
    own `EomtConfig`, so that checkpoints move both ways; the defaults describe the published ViT-L model.

    Args:
        hidden_size (`int`, *optional*, defaults to 1024):
            Width of the tokens.
        num_hidden_layers (`int`, *optional*, defaults to 24):
            Number of transformer blocks, the query blocks included.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Number of attention heads. Must divide `hidden_size`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the blocks' MLPs. The mask module always uses GELU, as the original does.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout after the embeddings.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial class token, register tokens and position embeddings.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the blocks' and the final layer norm.
        image_size (`int` or `tuple[int, int]`, *optional*, defaults to 640):
            Size of the training images in pixels, `(height, width)` or one int for a square. It fixes the number of
            position embeddings; other sizes are possible at any time.
        patch_size (`int` or `tuple[int, int]`, *optional*, defaults to 16):
            Size of a patch in pixels. Must divide `image_size`.
        num_channels (`int`, *optional*, defaults to 3):
            Number of image channels.
        mlp_ratio (`int`, *optional*, defaults to 4):
            Width of an MLP's hidden layer over `hidden_size`.
        layerscale_value (`float`, *optional*, defaults to 1.0):
            Initial value of LayerScale.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Probability of skipping a residual branch in training, per sample.
        num_upscale_blocks (`int`, *optional*, defaults to 2):
            Number of 2x upscalings of the patch tokens before the mask logits are computed. With patches of 16 pixels
            and 2 blocks the masks have a quarter of the input's resolution.
        attention_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the attention probabilities.
        use_swiglu_ffn (`bool`, *optional*, defaults to `False`):
            Whether the blocks' MLPs are SwiGLU (DINOv2 giant). Not supported yet.
        num_blocks (`int`, *optional*, defaults to 4):
            Number of final blocks that process the queries together with the patches (L2 in the paper).
        no_object_weight (`float`, *optional*, defaults to 0.1):
            Weight of the "no object" class in the cross entropy.
        class_weight (`float`, *optional*, defaults to 2.0):
            Weight of the cross entropy, in the matching and in the loss.
        mask_weight (`float`, *optional*, defaults to 5.0):
            Weight of the masks' binary cross entropy, in the matching and in the loss.
        dice_weight (`float`, *optional*, defaults to 5.0):
            Weight of the masks' dice loss, in the matching and in the loss.
        train_num_points (`int`, *optional*, defaults to 12544):
            Number of points at which a mask's loss is computed.
        oversample_ratio (`float`, *optional*, defaults to 3.0):
            How many times more points are drawn before the most uncertain ones are chosen.
        importance_sample_ratio (`float`, *optional*, defaults to 0.75):
            Fraction of the points that are the most uncertain ones; the rest is uniform.
        num_queries (`int`, *optional*, defaults to 200):
            Number of learnable queries, the most segments a model can find in one image.
        num_register_tokens (`int`, *optional*, defaults to 4):
            Number of register tokens of the ViT.

    Raises:
        `ValueError`: sizes that do not divide, more query blocks than blocks.

    Example:

    ```python
    >>> from configuration_eomt import EomtConfig
    >>> from modeling_eomt import EomtForUniversalSegmentation

    >>> config = EomtConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, num_blocks=3)
    >>> model = EomtForUniversalSegmentation(config)
    ```
    """

    model_type = "eomt"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int | list[int] | tuple[int, int] = 640
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    mlp_ratio: int = 4
    layerscale_value: float = 1.0
    drop_path_rate: float | int = 0.0
    num_upscale_blocks: int = 2
    attention_dropout: float | int = 0.0
    use_swiglu_ffn: bool = False
    num_blocks: int = 4
    no_object_weight: float = 0.1
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    num_queries: int = 200
    num_register_tokens: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        comes_with_code = "auto_map" in kwargs
        super().__post_init__(**kwargs)
        self.auto_map: dict[str, str] = {**_AUTO_MAP, **getattr(self, "auto_map", {})}
        if comes_with_code:
            # Read from a folder that also holds the code, so `pipeline` finds the class named here in it.
            self.custom_pipelines = _CUSTOM_PIPELINES
        self._check_sizes()

    def _check_sizes(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}."
            )
        if not 1 <= self.num_blocks <= self.num_hidden_layers:
            raise ValueError(
                f"num_blocks={self.num_blocks} query blocks: there must be at least one, and at most "
                f"num_hidden_layers={self.num_hidden_layers}."
            )
        patch_grid(self.image_size, self.patch_size)

    def to_dict(self) -> dict[str, Any]:
        """
        The configuration as stored in `config.json`: without `custom_pipelines`. Stored there, it would make
        `pipeline("image-segmentation", model=folder)` without `trust_remote_code` fail, where it should fall back to
        Transformers' own classes.
        """
        output = super().to_dict()
        output.pop("custom_pipelines", None)
        return output


EomtConfig.register_for_auto_class()

__all__ = ["EomtConfig", "as_pair", "patch_grid"]

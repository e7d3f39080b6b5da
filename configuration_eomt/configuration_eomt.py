"""Configuration of EoMT, the Encoder-only Mask Transformer.

Reference: "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, https://arxiv.org/abs/2503.19108.
"""

import os
import re
import shutil
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from .fields_eomt import (
    EOMT_SIZES,
    as_pair,
    check_field,
    default_num_blocks,
    default_num_upscale_blocks,
    number_labels,
    patch_grid,
    shorten,
)


# Which class of the files that travel with a checkpoint answers to which Auto class. `pipeline("image-segmentation")`
# asks for AutoModelForImageSegmentation first: without that entry it would silently use Transformers' own class.
_AUTO_MODELS = ("AutoModel", "AutoModelForUniversalSegmentation", "AutoModelForImageSegmentation")


class _CustomPipelines(dict):
    """Returns copies: `pipeline` writes classes into what it gets, and the next one could not start from these."""

    def __getitem__(self, task: str) -> dict[str, Any]:
        return dict(super().__getitem__(task))


PIPELINE_CLASS = "pipeline_eomt.EomtImageSegmentationPipeline"
_CUSTOM_PIPELINES = _CustomPipelines(
    {
        "image-segmentation": {
            "impl": PIPELINE_CLASS,
            "pt": ["AutoModelForUniversalSegmentation"],
        }
    }
)


def _invert(id2label: dict[Any, Any]) -> dict[str, int]:
    return {label: number for number, label in id2label.items()}


# OWNER/NAME, or NAME alone.
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class EomtConfig(PreTrainedConfig):
    r"""
    Configuration of an [`EomtForUniversalSegmentation`]. Field names, meanings and defaults are as in Transformers'
    own `EomtConfig`, so that checkpoints move both ways; the defaults describe the published ViT-L model.

    Args:
        hidden_size: width of the tokens.
        num_hidden_layers: number of transformer blocks, the query blocks included.
        num_attention_heads: number of attention heads. Must divide `hidden_size`.
        hidden_act: activation of the blocks' MLPs. The mask module always uses GELU, as the original does.
        hidden_dropout_prob: dropout after the embeddings.
        initializer_range: standard deviation of the initial class token, register tokens and position embeddings.
        layer_norm_eps: epsilon of the blocks' and the final layer norm.
        image_size: size of the training images in pixels, `(height, width)` or one int for a square. It fixes the
            number of position embeddings; other sizes are possible at any time.
        patch_size: size of a patch in pixels. Must divide `image_size`.
        num_channels: number of image channels.
        mlp_ratio: width of an MLP's hidden layer over `hidden_size`.
        layerscale_value: initial value of LayerScale.
        drop_path_rate: probability of skipping a residual branch in training, per sample.
        num_upscale_blocks: number of 2x upscalings of the patch tokens before the mask logits are computed. With
            patches of 16 pixels and 2 blocks the masks have a quarter of the input's resolution.
        attention_dropout: dropout of the attention probabilities.
        use_swiglu_ffn: whether the blocks' MLPs are SwiGLU (DINOv2 giant): gated by a SiLU, with two thirds of the
            width.
        num_blocks: number of final blocks that process the queries together with the patches (L2 in the paper).
        no_object_weight: weight of the "no object" class in the cross entropy.
        class_weight: weight of the cross entropy, in the matching and in the loss.
        mask_weight: weight of the masks' binary cross entropy, in the matching and in the loss.
        dice_weight: weight of the masks' dice loss, in the matching and in the loss.
        train_num_points: number of points at which a mask's loss is computed.
        oversample_ratio: how many times more points are drawn before the most uncertain ones are chosen.
        importance_sample_ratio: fraction of the points that are the most uncertain ones; the rest is uniform.
        num_queries: number of learnable queries, the most segments a model can find in one image.
        num_register_tokens: number of register tokens of the ViT.

    Raises:
        ValueError: a field of the wrong type or out of its range, sizes that do not divide, more query blocks than
            blocks.

    Example:

    ```python
    >>> from configuration_eomt import EomtConfig
    >>> from modeling_eomt import EomtForUniversalSegmentation

    >>> config = EomtConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, num_blocks=3)
    >>> model = EomtForUniversalSegmentation(config)
    ```
    """

    model_type = "eomt"
    uses_rope: ClassVar[bool] = False  # rotary position embeddings in the attention
    learns_positions: ClassVar[bool] = True  # position embeddings of the patches
    uses_layer_scale: ClassVar[bool] = True
    _model_class = "EomtForUniversalSegmentation"
    _fields_without_effect: ClassVar[tuple[str, ...]] = ()

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

    def __setattr__(self, name: str, value: Any) -> None:
        """Checks a field; the names of the classes are numbered from 0, and `label2id` is their inverse."""
        check_field(name, value)
        if name == "id2label" and value is not None:
            value = number_labels(value)
        if name == "label2id" and value is not None:
            value = {label: int(number) for label, number in value.items()}
        super().__setattr__(name, value)
        if name == "id2label" and value is not None:
            self.label2id = _invert(value)

    def __post_init__(self, **kwargs: Any) -> None:
        comes_with_code = "auto_map" in kwargs
        kind = kwargs.get("model_type", self.model_type)
        if kind != self.model_type:
            raise ValueError(f"model_type={shorten(kind)}: {type(self).__name__} is for {self.model_type!r} models.")
        for name, value in kwargs.items():
            check_field(name, value)
        try:
            super().__post_init__(**kwargs)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of Transformers' own settings
            raise ValueError(f"The configuration has a setting that cannot be: {error}") from error
        if self.id2label is not None:  # a `label2id` may have been given too
            self.label2id = _invert(self.id2label)
        # A folder may name code that lies elsewhere; what is saved, see `own_auto_map`, names this code.
        self.auto_map: dict[str, str] = {**self.own_auto_map(), **getattr(self, "auto_map", {})}
        if comes_with_code:
            # Read from a folder that also holds the code, so `pipeline` finds the class named here in it.
            self.custom_pipelines = _CUSTOM_PIPELINES
        self._check_sizes()

    def own_auto_map(self) -> dict[str, str]:
        """Returns which class of the files that are saved with a model belongs to which Auto class."""
        return {
            "AutoConfig": f"configuration_eomt.{type(self).__name__}",
            **dict.fromkeys(_AUTO_MODELS, f"modeling_eomt.{self._model_class}"),
        }

    def save_pretrained(self, save_directory: str | PathLike, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        As `PreTrainedConfig.save_pretrained`, and copies the pipeline's code, which `pipeline` will look for there.
        Code in other repositories is not named in what is saved.
        """
        here = {name: place for name, place in self.auto_map.items() if "--" not in place}
        self.auto_map = {**self.own_auto_map(), **here}
        os.makedirs(save_directory, exist_ok=True)
        for file in self._pipeline_files():
            with suppress(shutil.SameFileError):  # saved where it was loaded from
                shutil.copyfile(file, Path(save_directory, Path(file).name))
        return super().save_pretrained(save_directory, **kwargs)

    def _pipeline_files(self) -> list[str | PathLike]:
        """Returns the pipeline's file and those it imports, none if they lie where they cannot be reached."""
        here, name = Path(__file__).parent, f"{PIPELINE_CLASS.split('.')[0]}.py"
        places = [place for place in (here.with_name("image_processing_eomt"), here) if (place / name).is_file()]
        if not places:  # this file was loaded from a saved folder or a repository, without the pipeline's
            source = str(self.name_or_path)
            try:
                if not os.path.isdir(source):
                    source = snapshot_download(
                        source, revision=getattr(self, "_commit_hash", None), allow_patterns="*.py"
                    )
            except (OSError, ValueError):
                return []
            places = [Path(source)]
        file = places[0] / name
        return [file, *get_relative_import_files(file)] if file.is_file() else []

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        As `PreTrainedConfig.from_dict`.

        Raises:
            ValueError: a setting that cannot be; a `label2id` that is not the inverse of `id2label`.
        """
        for name in ("self", "attribute_map"):
            if name in config_dict:  # of Transformers' own code
                raise ValueError(f"{name}={shorten(config_dict[name])} is no setting of a model.")
        given = kwargs.get("label2id")
        loaded = super().from_dict(config_dict, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config._check_sizes()
        if config.id2label is not None:
            config.label2id = _invert(config.id2label)
            if given is not None and {label: int(number) for label, number in given.items()} != config.label2id:
                raise ValueError(
                    f"label2id={shorten(given)} is not the inverse of id2label={shorten(config.id2label)}."
                )
        return loaded

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        As `PreTrainedConfig.from_pretrained`.

        Raises:
            ValueError: a setting that cannot be.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except ValueError as error:
            raise ValueError(f"The configuration of {pretrained_model_name_or_path}: {error}") from error

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:
        """
        As `PreTrainedConfig.get_config_dict`.

        Raises:
            OSError: there is no such folder, no configuration, or an empty one.
        """
        name = str(pretrained_model_name_or_path)
        if not _HUB_NAME.fullmatch(name) and not Path(name).exists():
            raise OSError(f"There is no folder {name!r}, and no model on the Hub can have this name.")
        settings, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not settings.keys() - {"_commit_hash"}:  # which some versions of Transformers add
            raise OSError(f"{pretrained_model_name_or_path} has no config.json with the configuration of a model.")
        return settings, unused

    @classmethod
    def _dict_from_json_file(cls, json_file: str | PathLike) -> dict[str, Any]:
        try:
            settings = super()._dict_from_json_file(json_file)
        except (RecursionError, ValueError) as error:
            raise ValueError(f"{json_file} cannot be read as JSON: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{json_file} holds {shorten(settings)}: expected a configuration, a dictionary.")
        if "configuration_files" in settings:  # which Transformers reads instead
            check_field("configuration_files", settings["configuration_files"])
        return settings

    def _check_sizes(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}."
            )
        self._check_num_blocks()
        patch_grid(self.image_size, self.patch_size)
        if self.mlp_hidden_size < 1:
            raise ValueError(f"mlp_ratio={self.mlp_ratio} leaves no hidden layer at hidden_size={self.hidden_size}.")
        if self.uses_rope:
            self._check_rope()

    def _check_num_blocks(self) -> None:
        if not 1 <= self.num_blocks <= self.num_hidden_layers:
            raise ValueError(
                f"num_blocks={self.num_blocks} query blocks: there must be at least one, and at most "
                f"num_hidden_layers={self.num_hidden_layers}."
            )

    def _check_rope(self) -> None:
        if self.hidden_size // self.num_attention_heads % 4:
            raise ValueError(
                f"hidden_size={self.hidden_size} over num_attention_heads={self.num_attention_heads} must be "
                f"divisible by 4: rotary embeddings turn pairs of channels, half of them by row and half by column."
            )
        rope_type = (getattr(self, "rope_parameters", None) or {}).get("rope_type", "default")
        if rope_type != "default":
            raise ValueError(f'rope_type={rope_type!r} is not supported, only "default" is.')

    @property
    def uses_gated_mlp(self) -> bool:
        """Whether the blocks' MLPs have a gate: three linear layers instead of two."""
        return self.use_swiglu_ffn

    @property
    def mlp_activation(self) -> str:
        """Name of the activation of the blocks' MLPs."""
        return "silu" if self.use_swiglu_ffn else self.hidden_act

    @property
    def mlp_hidden_size(self) -> int:
        """Width of the blocks' MLPs; SwiGLU has two thirds of it, rounded up to a multiple of 8."""
        width = int(self.hidden_size * self.mlp_ratio)
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else width

    def to_dict(self) -> dict[str, Any]:
        """
        Returns the configuration as stored in `config.json`: without fields that mean nothing here, and without
        `custom_pipelines`. Stored there, it would make `pipeline("image-segmentation", model=folder)` without
        `trust_remote_code` fail, where it should fall back to Transformers' own classes.
        """
        output = super().to_dict()
        for name in ("custom_pipelines", *self._fields_without_effect):
            output.pop(name, None)
        return output


class EomtDinov3Config(EomtConfig):
    r"""
    Configuration of an [`EomtDinov3ForUniversalSegmentation`], EoMT on a DINOv3 backbone. Field names, meanings and
    defaults are as in Transformers' own `EomtDinov3Config`. Fields that are not listed are as in [`EomtConfig`];
    `mlp_ratio` and `use_swiglu_ffn` have no effect here.

    Args:
        intermediate_size: width of an MLP's hidden layer.
        rope_parameters: `rope_theta`, the base of the rotary frequencies (100 by default); `rope_type` can only be
            `"default"`.
        query_bias: whether the query projection has a bias.
        key_bias: whether the key projection has a bias.
        value_bias: whether the value projection has a bias.
        proj_bias: whether the attention's output projection has a bias.
        mlp_bias: whether the MLP's layers have biases.
        use_gated_mlp: whether the MLPs are gated (DINOv3 S+, H+ and 7B).
        pos_embed_shift: in training, patch coordinates, which lie in [-1, 1], are shifted by up to this much in each
            direction.
        pos_embed_jitter: in training, each axis is scaled by a random factor between 1 / `pos_embed_jitter` and
            `pos_embed_jitter`.
        pos_embed_rescale: in training, both axes are scaled by one random factor between 1 / `pos_embed_rescale` and
            `pos_embed_rescale`.

    Raises:
        ValueError: as of [`EomtConfig`]; another `rope_type`.

    Example:

    ```python
    >>> from configuration_eomt import EOMT_SIZES, EomtDinov3Config
    >>> from modeling_eomt import EomtDinov3ForUniversalSegmentation

    >>> model = EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**EOMT_SIZES["dinov3_small"]))
    ```
    """

    model_type = "eomt_dinov3"
    uses_rope = True
    learns_positions = False
    default_theta = 100.0
    _model_class = "EomtDinov3ForUniversalSegmentation"
    _fields_without_effect = ("mlp_ratio", "use_swiglu_ffn")

    intermediate_size: int = 4096
    rope_parameters: dict | None = None
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    use_gated_mlp: bool = False
    pos_embed_shift: float | None = None
    pos_embed_jitter: float | None = None
    pos_embed_rescale: float | None = 2.0

    @property
    def uses_gated_mlp(self) -> bool:
        return self.use_gated_mlp

    @property
    def mlp_activation(self) -> str:
        return self.hidden_act

    @property
    def mlp_hidden_size(self) -> int:
        return self.intermediate_size


class EomtEva02Config(EomtConfig):
    r"""
    Configuration of an [`EomtEva02ForUniversalSegmentation`], EoMT on an EVA-02 backbone. Fields that are not listed
    are as in [`EomtConfig`]; `hidden_act`, `mlp_ratio`, `use_swiglu_ffn` and `layerscale_value` have no effect here:
    the MLPs are SwiGLU, and there is no LayerScale. Transformers has no class for this model.

    Args:
        intermediate_size: width of an MLP's hidden layer: in the published models 8 / 3 of `hidden_size`, rounded
            down.
        use_mlp_norm: whether the hidden layer is normalised before the MLP's last projection (EVA-02 B and L).
        rope_parameters: `rope_theta`, the base of the rotary frequencies (10000 by default); `rope_type` can only be
            `"default"`.
        num_register_tokens: number of register tokens of the ViT.

    Raises:
        ValueError: as of [`EomtConfig`]; another `rope_type`.

    Example:

    ```python
    >>> from configuration_eomt import EOMT_SIZES, EomtEva02Config
    >>> from modeling_eomt import EomtEva02ForUniversalSegmentation

    >>> model = EomtEva02ForUniversalSegmentation(EomtEva02Config(**EOMT_SIZES["eva02_small"]))
    ```
    """

    model_type = "eomt_eva02"
    uses_rope = True
    uses_layer_scale = False
    key_bias: ClassVar[bool] = False
    default_theta = 10000.0
    _model_class = "EomtEva02ForUniversalSegmentation"
    _fields_without_effect = ("hidden_act", "mlp_ratio", "use_swiglu_ffn", "layerscale_value")

    intermediate_size: int = 2730
    use_mlp_norm: bool = True
    rope_parameters: dict | None = None
    num_register_tokens: int = 0

    @property
    def uses_gated_mlp(self) -> bool:
        return True

    @property
    def mlp_activation(self) -> str:
        return "silu"

    @property
    def mlp_hidden_size(self) -> int:
        return self.intermediate_size


EomtConfig.register_for_auto_class()
EomtDinov3Config.register_for_auto_class()
EomtEva02Config.register_for_auto_class()

__all__ = [
    "EOMT_SIZES",
    "EomtConfig",
    "EomtDinov3Config",
    "EomtEva02Config",
    "as_pair",
    "default_num_blocks",
    "default_num_upscale_blocks",
    "patch_grid",
]

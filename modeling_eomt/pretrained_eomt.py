"""The base class of EoMT models: initialisation, loading, checks of what was loaded, inference mode, saving."""

import dataclasses
import math
import pickle
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from .attention_eomt import EomtAttention
from .checkpoints_eomt import (
    find_weights,
    fuse_swiglu,
    get_family,
    may_hold_fused_swiglu,
    read_backbone,
    read_weight_file,
    read_weights,
    saves_fused_swiglu,
    split_swiglu,
    split_swiglu_before_loading,
)
from .configuration_eomt import EomtConfig, default_num_blocks, default_num_upscale_blocks
from .kernels_eomt import find_quantizer, measure_slowdown, multiplies_exactly
from .loss_eomt import EomtLoss
from .positions_eomt import EomtPositionEmbeddings
from .vit_eomt import EomtEmbeddings, EomtLayer, EomtLayerScale


logger = logging.get_logger(__name__)

_Model = TypeVar("_Model", bound="EomtPreTrainedModel")

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
# What the readers raise for a file that holds no weights, among other things.
_READING_ERRORS = (SafetensorError, pickle.UnpicklingError, AttributeError, EOFError, TypeError, RuntimeError)
# The weights that depend on the classes, and may be new where other classes are asked for.
_CLASS_WEIGHTS = {"class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"}
_MAX_LISTED = 20  # weights of a kind that an error names


@dataclass
class EomtForUniversalSegmentationOutput(ModelOutput):
    """
    Output of [`EomtForUniversalSegmentation`], to be given to the image processor's `post_process_*` methods.

    Args:
        loss: weighted sum of all terms of `loss_dict`, a scalar; present when labels are given.
        class_queries_logits: `(batch, num_queries, num_labels + 1)`, class logits of each query; the last class is "no
            object".
        masks_queries_logits: `(batch, num_queries, height / 4, width / 4)`, mask logits of each query.
        last_hidden_state: `(batch, num_tokens, hidden_size)`, tokens after the final layer norm: queries, prefix
            tokens, patches.
        hidden_states: with `output_hidden_states=True`: the tokens before the first block and after each block.
        attentions: with `output_attentions=True` and eager attention: `(batch, heads, tokens, tokens)` of each block.
        patch_offsets: as given, for window-split images: `(image, start, end)` of each window.
        loss_dict: unweighted terms: `loss_mask`, `loss_dice` and `loss_cross_entropy` of the last prediction, the same
            with `_0`, `_1`... for the predictions before the query blocks, earliest first.
        auxiliary_logits: with `output_auxiliary_logits=True`: `masks_queries_logits` and `class_queries_logits`
            predicted before the query blocks, in order: in training with labels all, otherwise those before masked
            blocks.
    """

    loss: Tensor | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    patch_offsets: list[Tensor] | None = None
    loss_dict: dict[str, Tensor] | None = None
    auxiliary_logits: list[dict[str, Tensor]] | None = None


class EomtPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the names Transformers needs to load, split and save EoMT models."""

    config: EomtConfig
    attn_mask_probs: Tensor
    layers: nn.ModuleList
    config_class = EomtConfig
    base_model_prefix = "eomt"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    is_optimized_for_inference = False
    _no_split_modules = ["EomtLayer"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["attn_mask_probs"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": EomtLayer, "attentions": EomtAttention}  # noqa: RUF012

    def __init__(self, config: EomtConfig):
        super().__init__(config)
        self.register_load_state_dict_pre_hook(split_swiglu_before_loading)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises the parameters that belong to `module` itself; loaded ones are left alone.

        Linear layers, convolutions and queries start as PyTorch starts them, as in the original.
        """
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1.0 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, EomtEmbeddings):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            init.trunc_normal_(module.register_tokens, std=self.config.initializer_range)
        elif isinstance(module, EomtPositionEmbeddings):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Embedding):  # the queries
            init.normal_(module.weight)
        elif isinstance(module, EomtLayerScale):
            init.constant_(module.lambda1, self.config.layerscale_value)
        elif isinstance(module, EomtLoss):
            init.copy_(module.empty_weight, module.initial_empty_weight())
        elif isinstance(module, EomtPreTrainedModel):
            init.ones_(module.attn_mask_probs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        Loads a model as `PreTrainedModel.from_pretrained` does, whole or not at all.

        For other classes than the checkpoint's give `num_labels` or `id2label` and `ignore_mismatched_sizes=True`: all
        weights but the class head's are kept. For another image size or number of queries, load first and then use
        `set_image_size` or `set_num_queries`.

        With `output_loading_info=True` weights that are missing or unexpected are no error: the loading info, which is
        returned beside the model, names them.

        Raises:
            ValueError: weights that are missing, unexpected, of another shape or not finite, listed; a configuration
                that cannot be.
            OSError: no such model, or a file that cannot be read.
        """
        source = name = pretrained_model_name_or_path
        output_loading_info = kwargs.pop("output_loading_info", False)
        allows_other_classes = kwargs.pop("ignore_mismatched_sizes", False)
        options = {option: kwargs[option] for option in _HUB_OPTIONS if kwargs.get(option) is not None}
        if source is not None and Path(source).is_dir():
            find_weights(source, subfolder=options.get("subfolder", ""))  # Transformers takes an index as it is
        if kwargs.get("state_dict") is not None:
            kwargs["state_dict"] = split_swiglu(kwargs["state_dict"])
        elif source is not None and cls._may_have_fused_swiglu(source, kwargs.get("config"), options):
            files = find_weights(source, **options)
            weights = read_weights(source, **options) if not files or any(map(may_hold_fused_swiglu, files)) else {}
            if (split := split_swiglu(weights)).keys() != weights.keys():
                kwargs |= {"config": kwargs.get("config") or source, "state_dict": split}
                source = None
        try:
            loaded: Any = super().from_pretrained(
                source, *args, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
            )
        except torch.OutOfMemoryError:
            raise
        except _READING_ERRORS as error:
            try:
                for file in find_weights(source, **options) if source is not None else ():
                    read_weight_file(file)
            except ValueError as broken:
                raise OSError(str(broken)) from error
            raise
        model, info = loaded
        if source != name:
            model.config.name_or_path = name
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is None or not quantizer.pre_quantized:  # which has other names and parts
            named = {"missing_keys": (), "unexpected_keys": ()} if output_loading_info else {}
            check_loaded_weights(model, {**info, **named}, name, allows_other_classes)
        return (model, info) if output_loading_info else model

    @classmethod
    def _may_have_fused_swiglu(cls, source: Any, config: Any, options: dict[str, Any]) -> bool:
        """Whether a checkpoint's layers may have the names that `split_swiglu` renames."""
        if not get_family(cls.config_class).has_fused_swiglu:
            return False
        if isinstance(config, PreTrainedConfig):
            return bool(getattr(config, "use_swiglu_ffn", False))
        settings, _ = cls.config_class.get_config_dict(config or source, **options)
        return bool(settings.get("use_swiglu_ffn"))

    @classmethod
    def from_backbone(
        cls: type[_Model],
        name_or_path: str | PathLike,
        *,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int] = 16,
        num_queries: int = 200,
        num_blocks: int | None = None,
        id2label: dict[int, str] | None = None,
        hub_kwargs: dict[str, Any] | None = None,
        **config_overrides: Any,
    ) -> _Model:
        """
        Builds a new model on a pre-trained ViT: the backbone's weights, resampled to the sizes asked for, everything
        else initialised.

        Args:
            name_or_path: a folder or a model on the Hub: DINOv2 with or without registers, ViT (AugReg), DeiT, or a
                timm ViT (DeiT III, AugReg); for [`EomtDinov3ForUniversalSegmentation`] a DINOv3 ViT, for
                [`EomtEva02ForUniversalSegmentation`] timm's EVA-02. Give the image processor the mean and standard
                deviation of its images, which for some of them are not ImageNet's.
            image_size: height and width of the training images in pixels, one int for a square.
            patch_size: size of a patch in pixels; kernels of another size are resampled as in FlexiViT.
            num_queries: number of learnable queries.
            num_blocks: number of final blocks that process the queries; by default that of the published model of the
                same depth.
            id2label: names of the classes.
            hub_kwargs: how to reach the Hub, as for `from_pretrained`: `token`, `revision`, `cache_dir`,
                `local_files_only`, `subfolder`...
            config_overrides: more fields of the configuration. Those that are not overridden, dropout among them, are
                the backbone's own.

        Raises:
            ValueError: a kind of model that is not supported, weights that do not fit, or an override that is no field
                of the configuration.
            OSError: no such folder or model.
        """
        fields = {field.name for field in dataclasses.fields(cls.config_class)} | {"label2id", "num_labels"}
        if unknown := sorted(set(config_overrides) - fields):
            raise ValueError(f"{', '.join(unknown)}: no such field of {cls.config_class.__name__}.")
        backbone = read_backbone(name_or_path, get_family(cls.config_class), **(hub_kwargs or {}))
        settings = {
            **backbone.settings,
            "image_size": image_size,
            "patch_size": patch_size,
            "num_queries": num_queries,
            "num_upscale_blocks": default_num_upscale_blocks(patch_size),
            **({} if id2label is None else {"id2label": id2label}),
            **config_overrides,
        }
        depth = settings["num_hidden_layers"]
        settings["num_blocks"] = default_num_blocks(depth) if num_blocks is None else num_blocks
        model = cls(cls.config_class(**settings))
        model.load_state_dict(backbone.fit(model), strict=False)
        return model

    def optimize_for_inference(
        self,
        dtype: torch.dtype | None = None,
        quantization: str | None = None,
        compile_mode: str | None = None,
    ) -> "EomtPreTrainedModel":
        """
        Makes a finished model faster, in place, for as long as it lives: it can no longer be trained or saved.

        Always: evaluation mode, one projection to queries, keys and values, and LayerScale inside the projections
        before it, which changes outputs by rounding only. Load the model on its device first.

        Args:
            dtype: of weights and computation. `torch.bfloat16` is faster on GPUs and on CPUs that have instructions
                for it; on other CPUs it is much slower, which is measured, and a warning says so.
            quantization: of the linear layers in the blocks, weights and activations, by torchao: "int8" for CPUs,
                "float8" for GPUs from Ada and Hopper on. It pays with `compile_mode` only, and on a CPU that is fast
                in bfloat16 not at all.
            compile_mode: a mode of `torch.compile`, for GPUs: "default"; "reduce-overhead" records CUDA graphs, whose
                outputs the next run overwrites; "max-autotune" does so, too, and searches for minutes. All compile in
                the first run at each size of images.

        Returns:
            The model itself.

        Raises:
            ValueError: it is optimised already, or partly offloaded; no such quantisation, or a CPU that cannot
                compute with it.
            ImportError: torchao is needed, and not installed.
        """
        if self.is_optimized_for_inference:
            raise ValueError("The model has been optimised already: load it again to choose something else.")
        if any(parameter.is_meta for parameter in self.parameters()):
            raise ValueError("A model whose weights are partly offloaded cannot be optimised.")
        on_cpu = self.device.type == "cpu"
        quantize = None if quantization is None else find_quantizer(quantization)
        if quantize is not None and on_cpu and not multiplies_exactly(quantize):
            raise ValueError(
                f"quantization={quantization!r}: this processor has no instructions for exact sums of 8-bit products, "
                "so the model would predict something else."
            )
        self.eval().requires_grad_(False)
        for layer in self.layers:
            layer.fuse()  # type: ignore[operator]
        if dtype is not None:
            block: Any = self.layers[0]
            slowdown = measure_slowdown(block.attention.qkv_proj, dtype) if on_cpu else 0.0
            if slowdown > 1.0:
                logger.warning(
                    f"A linear layer takes {slowdown:.1f} times as long in {dtype} as in float32 on this processor: "
                    "the model gets slower."
                )
            self.to(dtype)  # type: ignore[arg-type]
        if quantize is not None:
            quantize(self.layers)
        if compile_mode is not None:
            self.compile(mode=compile_mode)
        self.is_optimized_for_inference = True
        return self

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, **kwargs: Any
    ) -> None:
        """
        As `PreTrainedModel.save_pretrained`: weights, settings and all code that runs the model, the pipeline's
        included. Code in other repositories is not named, and whoever may read the settings may read the weights.

        SwiGLU layers get the names that the installed Transformers' own class has for them, so that the folder loads
        there too, unless weights are offloaded; here both load.

        Raises:
            ValueError: the model was changed by `optimize_for_inference`.
        """
        if self.is_optimized_for_inference:
            raise ValueError("The model was changed by optimize_for_inference: save it before, or load it again.")
        is_offloaded = any(parameter.is_meta for parameter in self.parameters())
        if saves_fused_swiglu(self.config) and not (is_offloaded and state_dict is None):
            state_dict = fuse_swiglu(self.state_dict() if state_dict is None else state_dict)
        self.config.auto_map = self.config.own_auto_map()
        either = [Path(save_directory, name) for name in ("model.safetensors", "model.safetensors.index.json")]
        former = [path for path in either if path.is_file()]
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if is_main_process:
            if all(path.is_file() for path in either):  # Transformers leaves the one beside the other
                min(former, key=lambda path: path.stat().st_mtime_ns).unlink()
            for weights in Path(save_directory).glob("model*.safetensors"):
                shutil.copymode(weights.with_name("config.json"), weights)  # safetensors does not ask the umask

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("EoMT has no vocabulary. To change the number of queries, use set_num_queries().")

    def resize_position_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("To prepare the model for images of another size, use set_image_size().")


def check_loaded_weights(model: nn.Module, info: dict[str, Any], name: Any, allows_other_classes: bool) -> None:
    """
    Checks what Transformers has just loaded into a model.

    Args:
        info: the loading info of `PreTrainedModel.from_pretrained`.
        name: what was loaded.
        allows_other_classes: whether the class head may have another shape.

    Raises:
        ValueError: weights that are missing, unexpected, of another shape or not finite, all listed.
    """
    mismatched = sorted(info["mismatched_keys"])
    if allows_other_classes:
        mismatched = [entry for entry in mismatched if entry[0] not in _CLASS_WEIGHTS]
    shapes = [f"{name} is {tuple(given)}, expected {tuple(expected)}" for name, given, expected in mismatched]
    problems = [
        *_list_weights("missing", sorted(info["missing_keys"])),
        *_list_weights("unexpected", sorted(info["unexpected_keys"])),
        *_list_weights("wrong shape", shapes),
        *_list_weights("not finite (nan or inf)", find_not_finite(model)),
    ]
    if problems:
        hint = ""
        if len(problems) == len(shapes) and {name for name, _, _ in mismatched} <= _CLASS_WEIGHTS:
            hint = "\nFor other classes than the checkpoint's give id2label and ignore_mismatched_sizes=True."
        raise ValueError(
            f"The weights of {name} do not fit the model that its configuration describes:\n  "
            + "\n  ".join(problems)
            + hint
        )


def find_not_finite(model: nn.Module) -> list[str]:
    """Names the parameters and buffers with nan or inf in them, but for those that are sharded or offloaded."""
    tensors = [
        (name, tensor.detach())
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if type(tensor) in (Tensor, nn.Parameter) and tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1
        if not tensor.is_meta
    ]
    if not tensors:
        return []
    # A sum is not finite if anything in it is not; one transfer for each device, and no copies of the weights.
    sums = [tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)) for _, tensor in tensors]
    devices = {total.device for total in sums}
    finite = all(
        torch.stack([total.double() for total in sums if total.device == device]).isfinite().all()
        for device in devices
    )
    return [] if finite else [name for name, tensor in tensors if not tensor.isfinite().all()]


def _list_weights(problem: str, entries: Iterable[str]) -> list[str]:
    """Returns one line for each, and one for those that are too many."""
    lines = [f"{problem}: {entry}" for entry in entries]
    more = len(lines) - _MAX_LISTED
    return lines[:_MAX_LISTED] + ([f"{problem}: {more} more"] if more > 0 else [])

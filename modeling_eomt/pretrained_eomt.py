"""What every EoMT model is to Transformers: how it is initialised, loaded, split, saved and what it records."""

import dataclasses
import math
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from .attention_eomt import EomtAttention
from .checkpoints_eomt import fuse_swiglu, legacy_swiglu_conversions, saves_fused_swiglu, split_swiglu_before_loading
from .configuration_eomt import EomtConfig
from .kernels_eomt import find_quantizer, measure_slowdown, multiplies_exactly
from .loaded_weights_eomt import check_loaded_weights
from .loss_eomt import EomtLoss
from .positions_eomt import EomtPositionEmbeddings
from .sharing_eomt import push_saved, save_and_push, save_into
from .vit_eomt import EomtEmbeddings, EomtLayer, EomtLayerScale


logger = logging.get_logger(__name__)

# What files that hold something else than weights make the readers raise.
_OF_BROKEN_FILES = (SafetensorError, pickle.UnpicklingError, AttributeError, EOFError, TypeError, RuntimeError)


@dataclass
class EomtForUniversalSegmentationOutput(ModelOutput):
    """
    Output of [`EomtForUniversalSegmentation`], to be given to the image processor's `post_process_*` methods.

    Args:
        loss (`torch.Tensor`, *optional*):
            Weighted sum of all terms of `loss_dict`, a scalar; present when labels are given.
        class_queries_logits (`torch.Tensor` of shape `(batch, num_queries, num_labels + 1)`):
            Class logits of each query; the last class is "no object".
        masks_queries_logits (`torch.Tensor` of shape `(batch, num_queries, height / 4, width / 4)`):
            Mask logits of each query.
        last_hidden_state (`torch.Tensor` of shape `(batch, num_tokens, hidden_size)`):
            Tokens after the final layer norm: queries, prefix tokens, patches.
        hidden_states (`tuple[torch.Tensor]`, *optional*):
            With `output_hidden_states=True`: the tokens before the first block and after each block.
        attentions (`tuple[torch.Tensor]`, *optional*):
            With `output_attentions=True` and eager attention: `(batch, heads, tokens, tokens)` of each block.
        patch_offsets (`list[torch.Tensor]`, *optional*):
            As given, for window-split images: `(image, start, end)` of each window.
        loss_dict (`dict[str, torch.Tensor]`, *optional*):
            Unweighted terms: `loss_mask`, `loss_dice` and `loss_cross_entropy` of the last prediction, the same with
            `_0`, `_1`... for the predictions before the query blocks, earliest first.
        auxiliary_logits (`list[dict[str, torch.Tensor]]`, *optional*):
            With `output_auxiliary_logits=True`: `masks_queries_logits` and `class_queries_logits` predicted before
            each masked block, in order.
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

    @staticmethod
    def _load_pretrained_model(
        model: PreTrainedModel, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any
    ) -> Any:
        """Also reads checkpoints in which SwiGLU layers have the names that Transformers gave them before 5.18.

        Raises:
            ValueError: weights that are missing, unexpected, of another shape or not finite.
        """
        weight_mapping = [*(load_config.weight_mapping or []), *legacy_swiglu_conversions()]
        load_config = dataclasses.replace(load_config, weight_mapping=weight_mapping)
        try:
            loaded = PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args)
        except torch.OutOfMemoryError:
            raise
        except _OF_BROKEN_FILES as error:
            raise OSError(f"{', '.join(map(str, checkpoint_files or []))} cannot be read: {error}") from error
        model._weight_conversions = None  # type: ignore[assignment]  # they are for loading; saving has its own way
        check_loaded_weights(model, loaded[0], load_config)
        return loaded

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
            compile_mode: a mode of `torch.compile`, for GPUs: "default"; "max-autotune" searches longer, and records
                CUDA graphs, whose outputs the next run overwrites. The first run at each size of images takes minutes.

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
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        As `PreTrainedModel.save_pretrained`, with a model card: it says how to use the model, and is written anew with
        every save unless a person has made it their own. A model in the folder is replaced at the end, by moving
        files: what a kill leaves is the old model, the new one, or a folder without a configuration.

        SwiGLU layers get the names that the installed Transformers' own class has for them, so that the folder loads
        there too; here both load.

        Raises:
            ValueError: the model was changed by `optimize_for_inference`.
        """
        if self.is_optimized_for_inference:
            raise ValueError("The model was changed by optimize_for_inference: save it before, or load it anew.")
        if push_to_hub and is_main_process:
            options = {"is_main_process": is_main_process, "state_dict": state_dict, **kwargs}
            return save_and_push(self, save_directory, options)
        if saves_fused_swiglu(self.config):
            state_dict = fuse_swiglu(self.state_dict() if state_dict is None else state_dict)
        self.config.auto_map = self.config.own_auto_map()  # code of others is not saved
        if not is_main_process:
            return super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)

        def save(folder: Any) -> None:
            PreTrainedModel.save_pretrained(self, folder, is_main_process, state_dict, **kwargs)

        is_sharded = not all(type(parameter) is nn.Parameter for parameter in self.parameters())
        return save_into(save_directory, save, self.config.name_or_path, in_place=is_sharded)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:  # type: ignore[override]
        """As `PreTrainedModel.push_to_hub`, with this project's model card; a person's own on the Hub stays."""
        tags = [*(self.model_tags or []), *(kwargs.pop("tags", None) or [])]
        return push_saved(self, repo_id, tags=tags, **kwargs)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("EoMT has no vocabulary. To change the number of queries, use set_num_queries().")

    def resize_position_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("To prepare the model for images of another size, use set_image_size().")

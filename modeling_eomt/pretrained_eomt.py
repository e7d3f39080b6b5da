"""What every EoMT model is to Transformers: how it is initialised, loaded, split, saved and what it records."""

import dataclasses
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .attention_eomt import EomtAttention
from .checkpoints_eomt import fuse_swiglu, legacy_swiglu_conversions, saves_fused_swiglu, split_swiglu_before_loading
from .configuration_eomt import EomtConfig
from .inference_eomt import optimize_for_inference
from .loaded_weights_eomt import check_loaded_weights
from .loss_eomt import EomtLoss
from .positions_eomt import EomtPositionEmbeddings
from .vit_eomt import EomtEmbeddings, EomtLayer, EomtLayerScale


# What files that hold something else than weights make the readers raise.
_OF_BROKEN_FILES = (SafetensorError, pickle.UnpicklingError, AttributeError, EOFError, TypeError, RuntimeError)


class EomtPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the names Transformers needs to load, split and save EoMT models."""

    config: EomtConfig
    attn_mask_probs: Tensor
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
            dtype: of weights and computation. `torch.bfloat16` pays on GPUs and on CPUs that have instructions for it.
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
        optimize_for_inference(self, dtype, quantization, compile_mode)
        return self

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, **kwargs: Any
    ) -> None:
        """
        As `PreTrainedModel.save_pretrained`: weights, settings and all code that runs the model, the pipeline's
        included. Code in other repositories is not named, and whoever may read the settings may read the weights.

        SwiGLU layers get the names that the installed Transformers' own class has for them, so that the folder loads
        there too; here both load.

        Raises:
            ValueError: the model was changed by `optimize_for_inference`.
        """
        if self.is_optimized_for_inference:
            raise ValueError("The model was changed by optimize_for_inference: save it before, or load it again.")
        if saves_fused_swiglu(self.config):
            state_dict = fuse_swiglu(self.state_dict() if state_dict is None else state_dict)
        self.config.auto_map = self.config.own_auto_map()
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if is_main_process:
            for weights in Path(save_directory).glob("model*.safetensors"):
                shutil.copymode(weights.with_name("config.json"), weights)  # safetensors does not ask the umask

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("EoMT has no vocabulary. To change the number of queries, use set_num_queries().")

    def resize_position_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("To prepare the model for images of another size, use set_image_size().")

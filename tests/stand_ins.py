"""Small files in place of those on the Hub, for tests that follow what a page or a card tells to do."""

from pathlib import Path
from shutil import copytree

import torch
import transformers
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from configuration_eomt import EOMT_SIZES, EomtConfig
from loading_eomt import published_checkpoints
from modeling_eomt import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation, official_parameter_name


# Heads of 64 channels, as are read off original weights.
TINY_SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "num_blocks": 1}


def shrink_sizes(monkeypatch) -> None:
    """Makes all named sizes small, so that a small file is what its name says."""
    for name, fields in list(EOMT_SIZES.items()):
        wide = {"intermediate_size": 128} if "intermediate_size" in fields else {}
        monkeypatch.setitem(EOMT_SIZES, name, {**fields, **TINY_SIZE, **wide})


def write_original(name: str, folder: Path) -> torch.nn.Module:
    """Writes `pytorch_model.bin`, a checkpoint with the names of the authors' file; returns the model it is of."""
    checkpoint = published_checkpoints()[name]
    config = EomtConfig(
        **EOMT_SIZES[checkpoint.size],
        image_size=checkpoint.image_size,
        num_queries=checkpoint.num_queries,
        id2label=dict(enumerate(checkpoint.labels)),
    )
    model = EomtForUniversalSegmentation(config)
    model.set_mask_probabilities([0.0])
    weights: dict[str, list[torch.Tensor]] = {}
    for parameter, weight in model.state_dict().items():
        weights.setdefault(official_parameter_name(parameter), []).append(weight)
    fused = {parameter: torch.cat(parts) for parameter, parts in weights.items()}
    positions = "network.encoder.backbone.pos_embed"
    fused[positions] = fused[positions][None]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(fused, folder / "pytorch_model.bin")
    return model


def write_original_dinov3(name: str, folder: Path) -> torch.nn.Module:
    """The same for DINOv3: the backbone goes to `folder / "backbone"`, the file has differences to it."""
    checkpoint = published_checkpoints()[name]
    write_dinov3(folder / "backbone")
    model = EomtDinov3ForUniversalSegmentation.from_backbone(
        folder / "backbone",
        image_size=checkpoint.image_size,
        num_queries=checkpoint.num_queries,
        num_blocks=1,
        id2label=dict(enumerate(checkpoint.labels)),
    )
    model.set_mask_probabilities([0.0])
    weights = {}
    for parameter, weight in model.state_dict().items():
        parameter = official_parameter_name(parameter, "eomt_dinov3")
        weights[parameter] = torch.zeros_like(weight) if ".backbone." in parameter else weight
    torch.save(weights, folder / "pytorch_model.bin")
    return model


def write_dinov3(folder: Path) -> None:
    """Writes a DINOv3 backbone, always the same."""
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1, num_register_tokens=4
    )
    DINOv3ViTModel(config).save_pretrained(folder)


def write_dinov2(folder: Path) -> None:
    """Writes a DINOv2 backbone with registers, of as many blocks as the query blocks of any recipe."""
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=64, num_hidden_layers=5, num_attention_heads=1, image_size=70, num_register_tokens=4
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)


def write_published(name: str, folder: Path) -> None:
    """Writes what the Hub has of a published checkpoint: the authors' file and, but for DINOv3, Transformers' own."""
    checkpoint = published_checkpoints()[name]
    if checkpoint.base_backbone:
        write_original_dinov3(name, folder)
        return
    config = transformers.EomtConfig(
        **EOMT_SIZES[checkpoint.size],
        image_size=checkpoint.image_size,
        num_queries=checkpoint.num_queries,
        id2label=dict(enumerate(checkpoint.labels)),
    )
    transformers.EomtForUniversalSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": checkpoint.image_size, "longest_edge": checkpoint.image_size}
    split = checkpoint.task == "semantic"
    transformers.EomtImageProcessor(
        size={"shortest_edge": checkpoint.image_size} if split else size, do_split_image=split, do_pad=not split
    ).save_pretrained(folder)
    write_original(name, folder)


def put_in_cache(cache: Path, repository: str, folder: Path) -> Path:
    """Copies a folder to where the Hub's client keeps a repository that it has downloaded. Returns the copy."""
    commit = "0" * 40
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    return Path(copytree(folder, place / "snapshots" / commit))

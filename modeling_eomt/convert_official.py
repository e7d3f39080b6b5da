"""The command that converts a checkpoint of the original PyTorch implementation to a folder for `from_pretrained`."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from .checkpoints_eomt import FAMILIES, read_weight_file
from .official_checkpoints import convert_official_checkpoint, infer_config


def _read_fields(config_file: str | None, labels_file: str | None) -> dict[str, Any]:
    """Reads the fields of the configuration that the command line's files give."""
    fields = _read_json(config_file, dict) if config_file else {}
    known = {field.name for family in FAMILIES.values() for field in dataclasses.fields(family.config_class)}
    if unknown := sorted(set(fields) - known - {"num_labels", "label2id"}):
        raise ValueError(f"{config_file}: {', '.join(unknown)} is no field of the configuration.")
    if labels_file:
        labels = _read_json(labels_file, dict, list)
        fields["id2label"] = labels if isinstance(labels, dict) else dict(enumerate(labels))
    return fields


def _read_json(file: str, *kinds: type) -> Any:
    """Reads a JSON file. Raises a `ValueError` that names it unless it holds one of `kinds`."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, kinds):
        expected = " or a ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{file} holds a {type(content).__name__}: expected a {expected}.")
    return content


def main(arguments: list[str] | None = None, prog: str = "python -m modeling_eomt.convert_official") -> None:
    """The command line, see `--help`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Converts an original EoMT checkpoint to a folder for from_pretrained. Sizes are read off the "
        "weights.",
    )
    parser.add_argument("checkpoint", help="the original file: .bin, .safetensors, .ckpt or .pth")
    parser.add_argument("output", help="folder to write; it must not exist or be empty")
    parser.add_argument("--base-backbone", help="for delta weights: folder or Hub name of the backbone")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="size of the training images, one number for a square or height and width (needed for DINOv3 other than "
        "640x640, and for images that are not square)",
    )
    parser.add_argument("--labels", metavar="FILE", help="JSON file with the class names: a list, or id -> name")
    parser.add_argument("--config", metavar="FILE", help="JSON file with fields of the configuration that differ")
    options = parser.parse_args(arguments)

    output = Path(options.output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        parser.error(f"{output} exists and is not an empty folder")
    if options.image_size and len(options.image_size) > 2:
        parser.error("--image-size takes one number or two")
    size = options.image_size and (
        options.image_size[0] if len(options.image_size) == 1 else tuple(options.image_size)
    )
    try:
        fields = _read_fields(options.config, options.labels)
        if "image_size" in fields:
            if size:
                raise ValueError(f"--image-size is given, and {options.config} has image_size: leave one out.")
            size = fields.pop("image_size")
        weights = read_weight_file(options.checkpoint)
        config = infer_config(weights, size, base_backbone=options.base_backbone, **fields)
        model = convert_official_checkpoint(weights, config, options.base_backbone)
        model.save_pretrained(output)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    count = sum(parameter.numel() for parameter in model.parameters())
    kind = "differences to " + options.base_backbone if options.base_backbone else "absolute weights"
    print(
        f"Read {kind}, wrote a {config.model_type} model of {count / 1e6:.1f} million parameters and "
        f"{config.num_labels} classes to {output}."
    )
    if config.uses_rope and not options.base_backbone:
        print("If this is one of the DINOv3 checkpoints that are published as a difference, give --base-backbone.")


if __name__ == "__main__":
    main()

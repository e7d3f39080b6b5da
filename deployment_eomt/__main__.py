"""The command that exports a model.

    python -m deployment_eomt outputs/my_model deployed --format onnx

`--help` says what else there is.
"""

import argparse
import logging
import sys


def main(arguments: list[str] | None = None, prog: str = "python -m deployment_eomt") -> None:
    """The command line, see `--help`."""
    options = build_parser(prog).parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger(__package__).setLevel(logging.INFO)
    # Transformers imports torchao if it is installed, which warns of things that nobody here can change.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    from .export import export_model

    transformers_logging.disable_progress_bar()
    size = options.image_size
    try:
        if size is not None and len(size) > 2:
            raise ValueError(f"--image_size takes one number or two, got {len(size)}.")
        folder = export_model(
            options.model,
            options.output,
            options.format,
            kind=options.kind,
            task=options.task,
            image_size=None if size is None else (size[0], size[-1]),
            dynamic=options.dynamic,
            opset=options.opset,
            compile=options.compile,
            device=options.device,
            precision=options.precision,
            instruction_set=options.instruction_set,
            calibration_data=options.calibration_data,
            report_images=options.report_images,
            dataset=options.dataset,
            allow_inaccurate=options.allow_inaccurate,
        )
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    paths = [path for part in folder.glob("model*") for path in (part, *part.rglob("*"))]
    num_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    print(f"Wrote {folder}, {num_bytes / 2**20:.1f} MiB.")


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; loads neither torch nor Transformers, so that `--help` is there at once."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Writes a model as a graph of another runtime, into a folder that needs no PyTorch.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model, or its name on the Hub")
    parser.add_argument("output", metavar="OUT", help="folder to write: new, empty, or an earlier export")
    formats = "onnx (default), openvino, torch, executorch, coreml or tensorrt"
    parser.add_argument("--format", default="onnx", help=formats)
    parser.add_argument(
        "--kind", default="raw", help="raw (default): pixel values to logits; segmenter: an image to segments"
    )
    parser.add_argument("--task", help="panoptic, instance or semantic, if the model does not say")
    parser.add_argument("--image_size", type=int, nargs="+", metavar="N", help="pixels: a square, or height and width")
    parser.add_argument(
        "--dynamic",
        nargs="*",
        metavar="AXIS",
        help="raw: what changes from run to run: batch (default), height, width; none of them if empty",
    )
    parser.add_argument("--opset", type=int, default=20, metavar="N", help="version of ONNX's operators (default: 20)")
    parser.add_argument("--compile", action="store_true", help="raw, torch: compile for this machine, by AOTInductor")
    parser.add_argument("--device", default="cpu", help="raw, torch: what it runs on, cpu (default) or cuda")
    parser.add_argument(
        "--precision",
        default="float32",
        help="float32 (default), float16, bfloat16, int8 (what suits this machine), int8_dynamic, int8_static, "
        "int8_weights or int4_weights, as far as the format has it",
    )
    parser.add_argument(
        "--instruction_set",
        help="int8: of the processor it is for: avx2, avx512, vnni, amx, neon (default: this one's)",
    )
    parser.add_argument("--calibration_data", metavar="DIR", help="int8_static: folder of images like those to come")
    parser.add_argument(
        "--report_images",
        type=lambda text: int(text) if text.isdigit() else text,
        metavar="DIR|N",
        help="folder of images to compare on with the model, or a number of generated scenes; 0 for none",
    )
    parser.add_argument("--dataset", metavar="PATH", help="dataset whose validation split both are measured on")
    parser.add_argument("--allow_inaccurate", action="store_true", help="write it even if it is below the bar")
    return parser


if __name__ == "__main__":
    main()

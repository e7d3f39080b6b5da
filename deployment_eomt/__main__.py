"""The command that exports a model.

    python -m deployment_eomt outputs/my_model deployed --format onnx

`--help` says what else there is.
"""

import argparse
import logging
import sys


def main(arguments: list[str] | None = None) -> None:
    """The command line, see `--help`."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger(__package__).setLevel(logging.INFO)
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
            precision=options.precision,
            instruction_set=options.instruction_set,
            calibration_data=options.calibration_data,
            report_data=options.report_data,
            num_report_images=options.report,
            dataset=options.dataset,
            allow_inaccurate=options.allow_inaccurate,
        )
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    paths = [path for part in folder.glob("model*") for path in (part, *part.rglob("*"))]
    num_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    print(f"Wrote {folder}, {num_bytes / 2**20:.1f} MiB.")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser; loads neither torch nor Transformers, so that `--help` is there at once."""
    parser = argparse.ArgumentParser(
        prog="python -m deployment_eomt",
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
    parser.add_argument("--compile", action="store_true", help="torch: compile for this machine, by AOTInductor")
    parser.add_argument("--precision", default="float32", help="float32 (default), float16, bfloat16, int8, ...")
    parser.add_argument("--instruction_set", metavar="SET", help="int8: avx2, avx512, vnni, amx or neon")
    parser.add_argument("--calibration_data", metavar="DIR", help="images to quantise with, for int8_static")
    parser.add_argument("--report", type=int, metavar="N", help="images to compare on (100, float32 10), or 0")
    parser.add_argument("--report_data", metavar="DIR", help="these images; default: generated scenes")
    parser.add_argument("--dataset", metavar="DATA", help="dataset on which metrics are compared too")
    parser.add_argument("--allow_inaccurate", action="store_true", help="write it even if it is below the bar")
    return parser


if __name__ == "__main__":
    main()

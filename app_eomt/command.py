"""The command line of the page."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


DEMO_MODEL = Path("outputs/shapes_demo")  # what `make demo` trains


def main(argv: Sequence[str] | None = None, prog: str = "eomt app") -> None:
    """
    Loads checkpoints and serves the page until it is interrupted.

    Args:
        argv: the arguments, those of the process by default.
        prog: the command's name in its help.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve a page on which to try checkpoints on photographs. What is uploaded stays on this machine, "
        "and is deleted after an hour.",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="MODEL",
        help=f"folders or Hub names of checkpoints; several are shown side by side (default: {DEMO_MODEL})",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for other machines too (default: this one only)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="make a public address, through Gradio's servers")
    arguments = parser.parse_args(argv)
    if arguments.model is None and not DEMO_MODEL.is_dir():
        parser.error(
            f"there is no folder {DEMO_MODEL} here: `make demo` trains the model that it holds. Or name a checkpoint: "
            "eomt app --model tue-mps/coco_panoptic_eomt_large_640"
        )
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        parser.error(f"the page needs gradio ({error}): pip install 'eomt-transformers[app]'")

    from .page import serve
    from .segmenter import Segmenter

    names = arguments.model or [str(DEMO_MODEL)]
    try:
        segmenters = [Segmenter(name) for name in dict.fromkeys(names)]
    except (OSError, ValueError) as error:
        sys.exit(f"eomt app: {error}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped by a server, too, it deletes its files
    serve(segmenters, arguments.host, arguments.port, arguments.share)

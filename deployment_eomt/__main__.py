"""The command that exports a model.

    python -m deployment_eomt outputs/my_model deployed --format onnx

`--help` says what else there is.
"""

import argparse


def main(arguments: list[str] | None = None) -> None:
    """The command line, see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m deployment_eomt", description="Exports a model as a graph of another runtime."
    )
    parser.add_argument("model", help="folder, or a model on the Hub")
    parser.add_argument("output", help="folder to write: new, empty or an earlier export")
    parser.add_argument("--format", default="onnx", help="onnx (default)")
    parser.add_argument("--image_size", type=int, nargs="+", metavar="PIXELS")
    parser.add_argument("--dynamic", nargs="*", default=["batch"], metavar="AXIS")
    parser.add_argument("--opset", type=int, default=20)
    options = parser.parse_args(arguments)
    from .export import export_model

    size = options.image_size
    try:
        folder = export_model(
            options.model,
            options.output,
            options.format,
            image_size=None if size is None else (size[0], size[-1]),
            dynamic=options.dynamic,
            opset=options.opset,
        )
    except (OSError, ValueError, ImportError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"Wrote {folder}.")


if __name__ == "__main__":
    main()

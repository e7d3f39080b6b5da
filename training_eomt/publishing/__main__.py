"""The command that publishes a finished model.

    python -m training_eomt.publishing outputs/my_model my_model --license apache-2.0 --dataset my_data

`--help` says what else there is.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from image_processing_eomt import TASKS, EomtImageProcessor
from loading_eomt import published_checkpoints
from modeling_eomt import EomtForUniversalSegmentation

from ..card import CARD
from ..disk import MIN_FREE, check_room
from ..evaluation import read_evaluation
from ..run_files import REPORT
from .publish import load_source, publish_model, read_facts


def main(arguments: list[str] | None = None, prog: str = "python -m training_eomt.publishing") -> None:
    """The command line, see `--help`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Publishes a finished model: a folder with code, weights, image processor and a model card.",
    )
    parser.add_argument(
        "source",
        help="folder that training or save_pretrained wrote, or a model on the Hub; with --published also the "
        "authors' file",
    )
    parser.add_argument("target", help="folder to write: new, empty or an earlier publication of the same model")
    parser.add_argument("--name", help="what the card calls the model; default: the repository or the target")
    parser.add_argument("--license", help="licence as the Hub calls it, such as apache-2.0, or other")
    parser.add_argument("--license-name", help="name of the other licence")
    parser.add_argument("--license-link", help="where the other licence can be read")
    parser.add_argument("--dataset", nargs="+", default=[], metavar="NAME", help="what the model was trained on")
    parser.add_argument("--results", metavar="FILE", help=f"results for the card; default: SOURCE/{REPORT}, if there")
    parser.add_argument("--task", choices=TASKS, help="if the source does not say")
    parser.add_argument("--stuff-classes", nargs="+", type=int, metavar="ID", help="if the source does not say")
    parser.add_argument(
        "--published",
        metavar="NAME",
        choices=published_checkpoints(),
        help="the source is this published checkpoint, such as coco_panoptic_eomt_large_640: labels, task, licence "
        "and the authors' figures are known",
    )
    parser.add_argument("--base-backbone", metavar="FOLDER", help="backbone of DINOv3 checkpoints; default: the Hub's")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY", help="also upload the folder, to OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    options = parser.parse_args(arguments)
    try:
        check_room(Path(options.target), MIN_FREE + _size_of_weights(Path(options.source)))
        facts = collect_facts(options)
        model, image_processor = load(options)
        folder = publish_model(
            model,
            image_processor,
            options.target,
            name=options.name,
            push_to_hub=options.push_to_hub,
            private=options.private or None,
            **facts,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"Wrote {folder}. See {folder / CARD} for how to use it.")


def _size_of_weights(source: Path) -> int:
    """Bytes of the weights in a folder or a file, 0 for a repository on the Hub."""
    files = [source] if source.is_file() else [*source.glob("model*.safetensors")]
    return sum(file.stat().st_size for file in files)


def collect_facts(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what the card says, from the command line."""
    facts: dict[str, Any] = {} if Path(options.source).is_file() else read_facts(options.source, options.task)
    if options.published:
        facts |= published_checkpoints()[options.published].facts
    if options.results:
        facts |= {"results": read_evaluation(options.results), "results_source": None}
    elif (report := Path(options.source) / REPORT).is_file():
        patterns = ("model*.safetensors", "pytorch_model*.bin")
        weights = [file.stat().st_mtime for pattern in patterns for file in report.parent.glob(pattern)]
        if report.stat().st_mtime < max(weights, default=0):
            print(f"warning: {report} is older than the weights and left out; --results takes it.", file=sys.stderr)
        else:
            facts |= {"results": read_evaluation(report), "results_source": None}
    if options.license:
        facts |= {"license": options.license, "license_name": None, "license_link": None}
    for name in ("license_name", "license_link"):
        if getattr(options, name):
            facts[name] = getattr(options, name)
    if options.dataset:
        facts["datasets"] = options.dataset
    return facts


def load(options: argparse.Namespace) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
    """Loads model and image processor, from the command line."""
    published = published_checkpoints()[options.published] if options.published else None
    if Path(options.source).is_file():
        if published is None:
            raise ValueError(
                f"{options.source} is a file: say with --published which checkpoint it is, or convert it with "
                "python -m modeling_eomt.convert_official and publish the folder."
            )
        if options.task or options.stuff_classes:
            raise ValueError(f"Leave out --task and --stuff-classes: they are known of {options.published}.")
        return published.convert(options.source, options.base_backbone)
    settings = published.processor_settings if published else {}
    if options.task:
        settings["task"] = options.task
    if options.stuff_classes:
        settings["stuff_classes"] = options.stuff_classes
    return load_source(options.source, options.base_backbone, **settings)


if __name__ == "__main__":
    main()

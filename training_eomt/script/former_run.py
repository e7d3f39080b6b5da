"""The files of former runs in an output folder, and how a new run removes them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import configuration_eomt
import image_processing_eomt
import modeling_eomt

from ..card import CARD, is_generated, read_card
from ..disk import draft_path
from ..folders import CONFIG, DRAFT, discard
from ..run_files import CONFUSION_CSV, CONFUSION_PNG, CURVES, DATA_REPORT, DRAWINGS, PREDICTIONS, REPORT


FORMER = ".former_run"  # a folder in the output folder, for files that are being deleted
# Everything that a run writes there besides a model's code and card; other files are not touched.
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_SETTINGS = ("preprocessor_config.json", "training_args.bin", "trainer_state.json", "runs")
_RESULTS = (REPORT, CONFUSION_CSV, CONFUSION_PNG, DRAWINGS, DATA_REPORT, CURVES, PREDICTIONS)
_WRITTEN = (*_WEIGHTS, *_SETTINGS, *_RESULTS, DRAFT)
_CHECKPOINT = re.compile(r"checkpoint-[0-9]+")


def find_written(output_dir: Path) -> Iterator[Path]:
    """Yields the files of runs in a folder, `config.json` first. A card that a person changed is not among them."""
    if (config := output_dir / CONFIG).exists():
        yield config
    for pattern in _WRITTEN:
        yield from sorted(output_dir.glob(pattern))
        yield from sorted(output_dir.glob(draft_path(Path(pattern)).name))
    yield from (path for path in sorted(output_dir.glob("*")) if _CHECKPOINT.fullmatch(path.name) and path.is_dir())
    packages = (configuration_eomt, modeling_eomt, image_processing_eomt)
    names = {code.name for package in packages for code in Path(str(package.__file__)).parent.glob("*_eomt.py")}
    yield from sorted(output_dir / name for name in names if (output_dir / name).is_file())
    card = read_card(output_dir)
    if card is not None and is_generated(card):
        yield output_dir / CARD


def check_not_needed(output_dir: Path, inputs: Iterable[str | None]) -> None:
    """Raises a `ValueError` if a run reads from one of the files that it would overwrite."""
    doomed = [path.resolve() for path in find_written(output_dir)]
    for given in inputs:
        if given is None or not Path(given).exists():
            continue
        path = Path(given).resolve()
        if any(path.is_relative_to(former) for former in doomed):
            raise ValueError(
                f"--overwrite_output_dir would delete {given}, which this run needs. Choose another --output_dir."
            )


def remove_former_run(output_dir: Path) -> None:
    """
    Deletes the files of former runs in an output folder, which would be taken for the new one's.

    All of it is out of the way before the first of it is deleted, its configuration first: at whatever moment the
    process is killed, the folder holds no part of a model that loads.
    """
    former = output_dir / FORMER
    discard(former)
    doomed = list(find_written(output_dir))
    if not doomed:
        return
    former.mkdir()
    for path in doomed:
        path.rename(former / path.name)
    discard(former)

"""Writes the cards of the published checkpoints, all from `loading_eomt/published_checkpoints.json`.

python model_cards/write_cards.py
"""

import sys
from pathlib import Path

from image_processing_eomt import EomtImageProcessor
from loading_eomt.published import AUTHORS, PublishedCheckpoint, published_checkpoints
from training_eomt.card import is_generated, model_card, read_text


AUTHOR = "model_cards/write_cards.py"


def list_cards(checkpoints: dict[str, PublishedCheckpoint]) -> str:
    """Returns the text of `README.md`, which lists all cards."""
    rows = [
        f"| [{name}]({name}.md) | {checkpoint.task} | {checkpoint.dataset_title} | {checkpoint.backbone} | "
        f"{checkpoint.image_size} | {checkpoint.metric} {checkpoint.value} |"
        for name, checkpoint in checkpoints.items()
    ]
    table = "\n".join(rows)
    return f"""<!-- Written by {AUTHOR} from loading_eomt/published_checkpoints.json. -->

# Published checkpoints

One card per checkpoint that EoMT's authors publish, with how to run and convert it. The results are the authors',
[published]({AUTHORS[1]}) for the validation data, and were not measured here.

| Checkpoint | Task | Dataset | Backbone | Pixels | Result |
|---|---|---|---|---|---|
{table}
"""


def write_cards(folder: Path) -> None:
    """Writes all cards and their list into a folder. A card that somebody has changed stays."""
    checkpoints = published_checkpoints()
    for name, checkpoint in checkpoints.items():
        processor = EomtImageProcessor(**checkpoint.processor_settings).to_dict()
        path = folder / f"{name}.md"
        if is_generated(read_text(path)):
            model_card(
                checkpoint.config, processor, name, author=AUTHOR, checkpoint=checkpoint, **checkpoint.facts
            ).save(path)
    (folder / "README.md").write_text(list_cards(checkpoints), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    write_cards(Path(__file__).parent)

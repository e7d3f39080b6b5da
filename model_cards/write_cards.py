"""Writes the cards of the published checkpoints, all from `training_eomt/publishing/published_checkpoints.json`.

python model_cards/write_cards.py
"""

import sys
from pathlib import Path

from configuration_eomt import EOMT_SIZES
from configuration_eomt.model_card_eomt import CITATION, card_metadata, render_card, usage_snippet
from training_eomt.publishing.published import AUTHORS, PublishedCheckpoint, published_checkpoints


WRITTEN_BY = "<!-- Written by model_cards/write_cards.py from training_eomt/publishing/published_checkpoints.json. -->"
DATA_SETS = {"coco": "COCO", "ade20k": "ADE20K", "cityscapes": "Cityscapes"}
METRICS = {
    "PQ": "panoptic quality (PQ)",
    "mIoU": "mean intersection over union (mIoU)",
    "mAP": "mask AP (pycocotools)",
}


def published_card(checkpoint: PublishedCheckpoint) -> str:
    """The card of one checkpoint."""
    return render_card(
        card_metadata(checkpoint.name, task=checkpoint.task, **checkpoint.facts),
        WRITTEN_BY,
        f"# {checkpoint.name}",
        _summary(checkpoint),
        _figures(checkpoint),
        _conversion(checkpoint),
        f"## Run it\n\n{usage_snippet(checkpoint.name)}\n\n`picture.jpg` is any picture of yours. The folder holds "
        "its code: it runs where this project is not installed.",
        _licence(checkpoint),
        f"## Citation\n\n{CITATION}",
    )


def _summary(checkpoint: PublishedCheckpoint) -> str:
    config = EOMT_SIZES[checkpoint.size]
    data_set = DATA_SETS[checkpoint.data_set]
    size = f"{checkpoint.image_size}x{checkpoint.image_size} pixels"
    rows = {
        "Task": f"{checkpoint.task} segmentation",
        "Data set": data_set,
        "Classes": f"{len(checkpoint.labels)}"
        + (f", {len(checkpoint.stuff_classes)} of them stuff" if checkpoint.stuff_classes else ""),
        "Images": f"windows of {size}" if checkpoint.task == "semantic" else f"fitted into {size}",
        "Backbone": f"{checkpoint.backbone}, {config['num_hidden_layers']} blocks of width {config['hidden_size']}",
        "Queries": f"{checkpoint.num_queries}, in the last {checkpoint.num_blocks} blocks",
        "Model class": "`EomtDinov3ForUniversalSegmentation`"
        if checkpoint.base_backbone
        else "`EomtForUniversalSegmentation`",
    }
    if checkpoint.pretrained_on_coco:
        rows["Pre-training"] = "COCO panoptic segmentation"
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    return (
        f"EoMT, the Encoder-only Mask Transformer ([paper](https://arxiv.org/abs/2503.19108)), trained by its authors "
        f"for {checkpoint.task} segmentation on {data_set} and published as "
        f"[{checkpoint.repository}](https://huggingface.co/{checkpoint.repository}).\n\n| | |\n|---|---|\n{table}"
    )


def _figures(checkpoint: PublishedCheckpoint) -> str:
    speed = checkpoint.speed
    if "/" in speed:
        speed += " (`torch.compile` with default settings / `max-autotune`)"
    return (
        f"## The authors' figures\n\nPublished by [{AUTHORS[0]}]({AUTHORS[1]}), not measured here.\n\n"
        f"| | |\n|---|---|\n| {METRICS[checkpoint.metric]}, validation data | {checkpoint.value} |\n"
        f"| Speed | {speed} |"
    )


def _conversion(checkpoint: PublishedCheckpoint) -> str:
    delta = (
        f"\n\nThe file holds the difference to [{checkpoint.base_backbone}](https://huggingface.co/"
        f"{checkpoint.base_backbone}), which is downloaded from the Hub: accept its licence there and log in with "
        "`hf auth login` first, or name a folder that holds it with `--base-backbone`."
        if checkpoint.base_backbone
        else ""
    )
    return f"""## Get and convert it

In a checkout of this project, with its packages installed:

```bash
hf download {checkpoint.repository} pytorch_model.bin --local-dir original
python -m training_eomt.publishing original/pytorch_model.bin {checkpoint.name} --published {checkpoint.name}
```

This writes the folder `{checkpoint.name}`: weights, image processor, labels, code and a card of its own.{delta}"""


def _licence(checkpoint: PublishedCheckpoint) -> str:
    licence = checkpoint.licence.get("license_name", checkpoint.licence["license"])
    if checkpoint.base_backbone:
        reason = (
            f"The weights are of use only together with DINOv3's, which are under Meta's [DINOv3 License]"
            f"({checkpoint.licence['license_link']}); the authors' code is under the MIT licence."
        )
    elif licence == "mit":
        reason = "The licence of the authors' repository."
    else:
        reason = "The licence of the backbone's weights; the authors' code is under the MIT licence."
    return (
        f"## Licence\n\n`{licence}`. {reason} What counts is the authors' page: check it before you use the weights."
    )


def index(checkpoints: dict[str, PublishedCheckpoint]) -> str:
    """The table of all cards."""
    rows = [
        f"| [{name}]({name}.md) | {checkpoint.task} | {DATA_SETS[checkpoint.data_set]} | {checkpoint.backbone} | "
        f"{checkpoint.image_size} | {checkpoint.metric} {checkpoint.value} |"
        for name, checkpoint in checkpoints.items()
    ]
    table = "\n".join(rows)
    return f"""{WRITTEN_BY}

# Published checkpoints

One card per checkpoint that EoMT's authors publish, with how to convert and run it. The results are the authors',
[published]({AUTHORS[1]}) for the validation data, and were not measured here.

| Checkpoint | Task | Data set | Backbone | Pixels | Result |
|---|---|---|---|---|---|
{table}
"""


def write_cards(folder: Path) -> None:
    """Writes all cards and their table into a folder."""
    checkpoints = published_checkpoints()
    for name, checkpoint in checkpoints.items():
        (folder / f"{name}.md").write_text(published_card(checkpoint), encoding="utf-8")
    (folder / "README.md").write_text(index(checkpoints), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    write_cards(Path(__file__).parent)

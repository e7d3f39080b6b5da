"""README.md: short, and its table of published checkpoints says what the table of this project and the authors say."""

import itertools
import re
from pathlib import Path

import torch

from loading_eomt import published_checkpoints
from modeling_eomt import MODEL_CLASSES


README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def expand(name: str) -> list[str]:
    """The names that braces stand for, as in a shell."""
    parts = [part.strip("{}").split(",") for part in re.findall(r"\{[^}]*\}|[^{]+", name)]
    return ["".join(one) for one in itertools.product(*parts)]


def test_it_is_read_in_five_minutes():
    assert len(README.splitlines()) <= 120


def test_its_table_has_every_published_checkpoint_with_the_authors_figures():
    published, seen = dict(published_checkpoints()), []
    for names, backbone, parameters, result, speed in re.findall(
        r"^\| `([a-z\d_{},]+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$",
        README,
        re.MULTILINE,
    ):
        rows = [published[name] for name in expand(names)]
        seen += [row.name for row in rows]
        metric, values = result.split(" ", 1)
        assert [float(value) for value in values.split(",")] == [row.value for row in rows]
        assert {row.metric for row in rows} == {metric}
        speeds = [row.speed.replace(" FPS, H100", "").replace(" FPS, B200", " (B200)").split("/")[0] for row in rows]
        assert speed.split(", ") == speeds
        assert all(backbone.startswith(row.backbone) for row in rows)
        counts = []
        for row in rows:
            with torch.device("meta"):
                model = MODEL_CLASSES[row.config.model_type](row.config)
            counts.append(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.0f}M")
        assert parameters.split(", ") == list(dict.fromkeys(counts))
    assert sorted(seen) == sorted(published)

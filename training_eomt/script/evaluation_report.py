"""The results of an evaluation, for people and for programs: a table of the classes, JSON, a confusion matrix."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..disk import write_whole
from ..run_files import CONFUSION_CSV, CONFUSION_PNG, REPORT
from ..tasks import TASKS
from ..text import terminal_text


NO_CLASS = "(no class)"
MAX_ROWS = 40  # of a table on the terminal
MAX_DRAWN = 40  # classes in the drawing of a confusion matrix
MIN_NAME_WIDTH = 12  # characters


def write_evaluation(
    folder: Path,
    metrics: Mapping[str, float],
    per_class: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    confusion_matrix: np.ndarray | None,
) -> None:
    """
    Writes `evaluation.json` and, if there is one, the confusion matrix, which is in the JSON file as well.

    Args:
        folder: where to write; it exists.
        metrics: figures by name. NaN, a mean over nothing, is null in JSON.
        per_class: class name -> figures by name.
        names: of all classes, by label id.
        confusion_matrix: `(num_labels, 1 + num_labels)` pixels, see [`StreamingMetric.confusion_matrix`]. In the files
            the column of no class is the last.
    """
    text = json.dumps(_replace_nan({**metrics, "per_class": per_class}), indent=2)
    if confusion_matrix is not None:
        pixels = np.roll(confusion_matrix, -1, axis=1)
        rows = ",\n".join(f"      {json.dumps(row)}" for row in pixels.tolist())  # a line each
        matrix = f'{{\n    "classes": {json.dumps(list(names))},\n    "pixels": [\n{rows}\n    ]\n  }}'
        text = text[: text.rindex("\n}")] + f',\n  "confusion_matrix": {matrix}\n}}'
    write_whole(folder / REPORT, lambda path: path.write_text(text + "\n", encoding="ascii"))
    if confusion_matrix is None:
        for name in (CONFUSION_CSV, CONFUSION_PNG):  # of an earlier evaluation
            (folder / name).unlink(missing_ok=True)
        return
    write_whole(folder / CONFUSION_CSV, lambda path: _write_csv(path, pixels, names))
    write_whole(folder / CONFUSION_PNG, lambda path: _draw_matrix(path, pixels, names))


def format_evaluation(
    task: str,
    metrics: Mapping[str, float],
    per_class: Mapping[str, Mapping[str, float]],
    num_labels: int,
    width: int = 80,
) -> str:
    """
    Formats the results of an evaluation: the table of the classes and the headline. The first arguments are as for
    [`write_evaluation`]; `width` is the terminal's, in characters.
    """
    kind = TASKS[task]
    lines = [format_class_table(per_class, width)] if per_class else []
    if per_class and len(per_class) < num_labels:
        lines.append(kind.absent_classes.format(num_labels - len(per_class)))
    if per_class:
        lines.append("")
    headline = metrics[f"eval_{kind.headline}"]
    if math.isnan(headline):
        last = f"{kind.headline_title} was not measured: the validation data have no {kind.subject}."
        return "\n".join([*lines, last])
    values = {name: metrics[f"eval_{name}"] for name in kind.details}
    listed = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if not math.isnan(value))
    last = f"{kind.headline_title} on the validation data: {headline:.3f}" + (f" ({listed})" if listed else "")
    return "\n".join([*lines, last])


def format_class_table(per_class: Mapping[str, Mapping[str, float]], width: int = 80) -> str:
    """
    Formats a table of the classes for terminals, sorted by their first figure, the best first: all of them, or the
    best and the worst.
    """
    figures = list(next(iter(per_class.values())))
    ranked = sorted(per_class.items(), key=lambda item: _rank(item[1][figures[0]]))
    cells = [[_format_value(values[figure]) for figure in figures] for _, values in ranked]
    widths = [max(len(cell) for cell in column) for column in zip(figures, *cells, strict=True)]
    names = [terminal_text(name) for name, _ in ranked]
    room = max(MIN_NAME_WIDTH, width - sum(widths) - 2 * len(widths))
    name_width = min(room, max(_count_columns(name) for name in ["class", *names]))
    lines = [
        _fit(name, name_width) + "".join(f"  {cell:>{size}}" for cell, size in zip(row, widths, strict=True))
        for name, row in zip(["class", *names], [figures, *cells], strict=True)
    ]
    if len(ranked) > MAX_ROWS:
        half = MAX_ROWS // 2
        left_out = f"... {len(ranked) - MAX_ROWS} more classes in between: {REPORT} has all of them"
        lines = [*lines[: 1 + half], left_out, *lines[-half:]]
    return "\n".join(lines)


def _rank(value: float) -> tuple[bool, float]:
    return math.isnan(value), -value


def _format_value(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if math.isnan(value) else f"{value:.3f}"


def _count_columns(text: str) -> int:
    """Counts the columns of a terminal that a text takes up."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _fit(text: str, width: int) -> str:
    """Pads or cuts a text to exactly `width` columns of a terminal."""
    if _count_columns(text) > width:
        while _count_columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _count_columns(text))


def _replace_nan(values: Any) -> Any:
    """Replaces NaN, which JSON does not have, by None."""
    if isinstance(values, Mapping):
        return {name: _replace_nan(value) for name, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _write_csv(path: Path, pixels: np.ndarray, names: Sequence[str]) -> None:
    """Writes a confusion matrix: a row for each class, a column for each predicted class."""
    shown = [_escape_csv(name) for name in names]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class / found as", *shown, NO_CLASS])
        writer.writerows([name, *row] for name, row in zip(shown, pixels.tolist(), strict=True))


def _escape_csv(name: str) -> str:
    """Escapes a name that a spreadsheet would take for a formula."""
    text = terminal_text(name)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _draw_matrix(path: Path, pixels: np.ndarray, names: Sequence[str]) -> None:
    """Draws the shares of the pixels of the largest classes."""
    areas = pixels.sum(axis=1)
    chosen = np.sort(np.argsort(-areas, kind="stable")[:MAX_DRAWN])
    chosen = chosen[areas[chosen] > 0]
    shown = [terminal_text(names[label_id])[:30] for label_id in chosen]
    others = np.setdiff1d(np.arange(len(names)), chosen)
    # Other classes, and pixels without a class, are in the last columns if there are any.
    rest = {"(other classes)": pixels[np.ix_(chosen, others)].sum(axis=1), NO_CLASS: pixels[chosen, -1]}
    rest = {name: column for name, column in rest.items() if column.any()}
    counts = np.column_stack([pixels[np.ix_(chosen, chosen)], *rest.values()])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    size = 0.28 * len(chosen) + 3.5
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    # Names are no formulas: a dollar sign in them is one.
    axes.set_xticks(range(counts.shape[1]), [*shown, *rest], rotation=90, parse_math=False)
    axes.set_yticks(range(len(shown)), shown, parse_math=False)
    axes.set(xlabel="found as", ylabel="is")
    if others.size and len(chosen) == MAX_DRAWN:
        axes.set_title(f"the {MAX_DRAWN} classes with most pixels", fontsize="medium")
    figure.colorbar(drawn, label="share of the pixels of the class")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name in another script
        figure.savefig(path, dpi=100, format="png")

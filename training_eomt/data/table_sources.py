"""Tables with pictures in them: `metadata.jsonl` beside files, or what the `datasets` library reads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import datasets

from .files import FileTree, open_file
from .splits import choose_split


METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
BadRow = Callable[..., None]  # leaves out a row of a name for a reason


class Table(Protocol):
    """Rows, some of whose columns are pictures."""

    where: str
    columns: list[str]  # those that are pictures

    def __len__(self) -> int: ...

    def name(self, row: int, column: str) -> str:
        """A picture for messages."""

    def open(self, row: int, column: str) -> BinaryIO:
        """The file of a picture."""


class MetadataTable:
    """The rows of `metadata.jsonl` or `metadata.csv`: `x_file_name` names the file of column `x`, from there on.

    Args:
        tree: the folder that holds the file.
        split: where files lie in folders named like splits, such as `train/`, only those of this one.

    Raises:
        ValueError: the file is not what its name says.
    """

    def __init__(self, tree: FileTree, split: str | None) -> None:
        self.tree = tree
        name = next(name for name in METADATA_FILES if name in tree)
        self.where = tree.path(name)
        rows = _csv_rows(tree, name) if name.endswith(".csv") else _json_rows(tree, name)
        keys = [key for key in (rows[0] if rows else ()) if key == FILE_NAME or key.endswith(f"_{FILE_NAME}")]
        columns = {key: key.removesuffix(FILE_NAME).removesuffix("_") or "image" for key in keys}
        self._rows: list[dict[str, str]] = [
            {column: row.get(key) or "" for key, column in columns.items()} for row in rows
        ]
        self.columns: list[str] = list(self._rows[0]) if rows else []
        if split and self.columns:
            self._keep_split(split)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int, column: str) -> str:
        return self.tree.path(self._rows[row][column])

    def open(self, row: int, column: str) -> BinaryIO:
        return self.tree.open(self._rows[row][column])

    def check(self, image_column: str, annotation_column: str, bad_row: BadRow) -> None:
        """Gives rows to `bad_row` that lack a file, or whose picture was in a row before, and forgets them."""
        kept: list[dict[str, str]] = []
        seen: set[str] = set()
        for row in self._rows:
            lacking = [column for column in (image_column, annotation_column) if not row[column]]
            missing = [
                row[column]
                for column in (image_column, annotation_column)
                if row[column] and row[column] not in self.tree
            ]
            picture = str(row[image_column])
            if lacking:
                bad_row(picture, f"{self.where}: the row of {picture} names no file for {lacking[0]!r}.")
            elif missing:
                path = self.tree.path(missing[0])
                bad_row(
                    path, f"{path}, which {self.where} names, is missing. Add it or drop its row.", FileNotFoundError
                )
            elif picture in seen:
                bad_row(
                    self.tree.path(picture), f"{self.where} lists the picture {picture} twice. Keep one of the rows."
                )
            else:
                seen.add(picture)
                kept.append(row)
        self._rows = kept

    def _keep_split(self, split: str) -> None:
        folders = sorted({row[self.columns[0]].split("/")[0] for row in self._rows})
        if own := choose_split(folders, split, self.where):
            self._rows = [row for row in self._rows if row[self.columns[0]].split("/")[0] == own]


class ArrowTable:
    """The rows of a data set that the `datasets` library has read.

    Args:
        data: the rows.
        where: the data for messages.
    """

    def __init__(self, data: datasets.Dataset, where: str) -> None:
        self.where = where
        self.columns: list[str] = [str(name) for name, feature in data.features.items() if _is_picture(feature)]
        for column in self.columns:
            data = data.cast_column(column, datasets.Image(decode=False))
        self._data = data.select_columns(self.columns)

    def __len__(self) -> int:
        return len(self._data)

    def name(self, row: int, column: str) -> str:
        return f"{self.where}: {column!r} of row {row}"

    def open(self, row: int, column: str) -> BinaryIO:
        stored = self._data.select_columns([column])[row][column]
        if stored is None:
            raise ValueError(f"{self.name(row, column)} is empty.")
        return io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else open_file(Path(stored["path"]))


def table_in(tree: FileTree) -> str | None:
    """Which kind of table a folder holds: "metadata", "saved", "parquet" or None."""
    if any(name in tree for name in METADATA_FILES):
        return "metadata"
    if "dataset_dict.json" in tree or ("state.json" in tree and "dataset_info.json" in tree):
        return "saved"
    return "parquet" if _parquet_files(tree) else None


def open_table(source: FileTree | str, split: str | None) -> Table:
    """
    The table in a folder, or of a name on the Hub.

    Args:
        source: a folder that `table_in` knows, or the name.
        split: which part to take where there are several.

    Raises:
        FileNotFoundError: there is no such table, or no such split.
        ValueError: it cannot be read.
    """
    if isinstance(source, str):
        return ArrowTable(_from_hub(source, split or "train"), source)
    kind = table_in(source)
    if kind == "metadata":
        return MetadataTable(source, split)
    where = str(source.root)
    if kind is None:
        raise FileNotFoundError(
            f"{where} holds no metadata.jsonl, nothing that save_to_disk wrote and no parquet files."
        )
    if not source.root.is_dir():
        raise ValueError(f"{where}: only pictures with a metadata.jsonl are read from a zip. Unpack it.")
    if kind == "saved":
        saved = datasets.load_from_disk(where)
        if isinstance(saved, datasets.DatasetDict):
            saved = saved[_part(list(saved), split or "train", where)]
        return ArrowTable(saved, where)
    files = _parquet_files(source)
    parts = {name: name.split("-")[0].removesuffix(".parquet") for name in files}  # data/train-00000-of-00002.parquet
    own = choose_split(list(parts.values()), split, where)
    paths = [str(source.root / name) for name in files if own in (None, parts[name])]
    return ArrowTable(datasets.Dataset.from_parquet(paths), where)


def _parquet_files(tree: FileTree) -> list[str]:
    return [name for folder in ("", "data") for name in tree.files(folder) if name.endswith(".parquet")]


def _is_picture(feature: Any) -> bool:
    """Whether a column holds pictures; without the library's own note, they are objects of bytes and a path."""
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _part(names: list[str], split: str, where: str) -> str:
    """The name of a split; where there is only one part of any other name, that one."""
    if (own := choose_split(names, split, where)) is not None:
        return own
    if len(names) > 1:
        raise FileNotFoundError(f"{where} has no {split} split, only {', '.join(names)}.")
    return names[0]


def _from_hub(name: str, split: str) -> datasets.Dataset:
    try:
        names = datasets.get_dataset_split_names(name)
        return datasets.load_dataset(name, split=_part(names, split, name))
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"There is no file or folder {name}, and it cannot be read as a data set of the Hub: {error}"
        ) from error


def _json_rows(tree: FileTree, name: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(tree.read_text(name).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{tree.path(name)}: line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{tree.path(name)}: line {number} is no object.")
        rows.append(row)
    return rows


def _csv_rows(tree: FileTree, name: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(tree.read_text(name))))

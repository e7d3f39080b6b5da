"""Tables with images in them: `metadata.jsonl` beside files, or what the `datasets` library reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import msgspec

from ..json_files import read_json
from .files import FileTree, open_file
from .located import Located
from .splits import choose_split


METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"


class MetadataTable:
    """The rows of `metadata.jsonl` or `metadata.csv`: `x_file_name` names the file of column `x`, from there on.

    Args:
        tree: the folder that holds the file.
        split: where files lie in folders named like splits, such as `train/`, only the files of this one count.

    Raises:
        ValueError: the file is not what its name says.
    """

    def __init__(self, tree: FileTree, split: str | None) -> None:
        self.tree = tree
        name = next(name for name in METADATA_FILES if name in tree)
        self.where = tree.path(name)
        self._faults: list[tuple[str, str]] = []  # rows that cannot be read, and why
        self._rows: list[dict[str, str]] = []
        keys: dict[str, str] | None = None
        rows = _read_csv_rows(tree, name) if name.endswith(".csv") else _read_json_rows(tree, name)
        for number, row in rows:
            where = f"{self.where}: line {number}"
            if isinstance(row, ValueError):
                self._faults.append((where, str(row)))
                continue
            if keys is None:
                file_keys = [key for key in row if key == FILE_NAME or key.endswith(f"_{FILE_NAME}")]
                keys = {key: key.removesuffix(FILE_NAME).removesuffix("_") or "image" for key in file_keys}
            try:
                names = {column: _parse_file_name(row.get(key), f"{where}: {key!r}") for key, column in keys.items()}
            except ValueError as error:
                self._faults.append((where, str(error)))
                continue
            files = Located(tree, "")
            self._rows.append({column: files.find(name) or name if name else "" for column, name in names.items()})
        if keys is None and self._faults:
            raise ValueError(f"{self._faults[0][1]} None of its {len(self._faults)} rows can be read.")
        self.columns: list[str] = list((keys or {}).values())
        if split and self.columns:
            self._keep_split(split)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int, column: str) -> str:
        return self.tree.path(self._rows[row][column])

    def open(self, row: int, column: str) -> BinaryIO:
        return self.tree.open(self._rows[row][column])

    def check(self, image_column: str, annotation_column: str, leave_out: Callable[..., None]) -> None:
        """Gives rows to `leave_out` that cannot be read, lack a file, or whose image came before, and forgets them."""
        for where, reason in self._faults:
            leave_out(where, f"{reason} Correct or delete the row.")
        kept: list[dict[str, str]] = []
        seen: set[str] = set()
        columns = (image_column, annotation_column)
        for row in self._rows:
            image = row[image_column]
            if lacking := [column for column in columns if not row[column]]:
                leave_out(image, f"{self.where}: the row of {image} names no file for {lacking[0]!r}.")
            elif missing := [row[column] for column in columns if row[column] not in self.tree]:
                path = self.tree.path(missing[0])
                reason = f"{path}, which {self.where} names, is missing. Add it or drop its row."
                leave_out(path, reason, FileNotFoundError)
            elif image in seen:
                leave_out(self.tree.path(image), f"{self.where} lists the image {image} twice. Keep one of the rows.")
            else:
                seen.add(image)
                kept.append(row)
        self._rows = kept

    def _keep_split(self, split: str) -> None:
        folders = sorted({row[self.columns[0]].split("/")[0] for row in self._rows})
        if own := choose_split(folders, split, self.where):
            self._rows = [row for row in self._rows if row[self.columns[0]].split("/")[0] == own]


class ArrowTable:
    """The rows of a dataset that the `datasets` library has read.

    Args:
        data: the rows.
        where: the data for messages.

    Raises:
        ValueError: the data are damaged.
    """

    def __init__(self, data: datasets.Dataset, where: str) -> None:
        self.where = where
        self.columns: list[str] = [str(name) for name, feature in data.features.items() if _is_image_column(feature)]
        with _translate_errors(where):
            for column in self.columns:
                data = data.cast_column(column, datasets.Image(decode=False))
            self._data = data.select_columns(self.columns)

    def __len__(self) -> int:
        return len(self._data)

    def name(self, row: int, column: str) -> str:
        return f"{self.where}: {column!r} of row {row}"

    def open(self, row: int, column: str) -> BinaryIO:
        with _translate_errors(self.name(row, column)):
            stored = self._data.select_columns([column])[row][column]
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise ValueError(f"{self.name(row, column)} is empty.")
        # The library writes tables that name files of this machine instead of holding them: to_parquet does.
        return io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else open_file(Path(stored["path"]))


def find_table(tree: FileTree) -> str | None:
    """Finds the kind of table that a folder holds: "metadata", "saved", "parquet" or None."""
    if any(name in tree for name in METADATA_FILES):
        return "metadata"
    if "dataset_dict.json" in tree or ("state.json" in tree and "dataset_info.json" in tree):
        return "saved"
    return "parquet" if _list_parquet_files(tree) else None


def open_table(source: FileTree | str, split: str | None) -> MetadataTable | ArrowTable:
    """
    Opens the table in a folder, or of a name on the Hub.

    Args:
        source: a folder that `find_table` knows, or the name.
        split: which part to take where there are several.

    Raises:
        FileNotFoundError: there is no such table, or no such split.
        ValueError: it cannot be read.
    """
    if isinstance(source, str):
        return _load_from_hub(source, split or "train")
    kind = find_table(source)
    if kind == "metadata":
        return MetadataTable(source, split)
    where = str(source.root)
    if kind is None:
        raise FileNotFoundError(
            f"{where} holds no metadata.jsonl, nothing that save_to_disk wrote and no parquet files."
        )
    if not source.root.is_dir():
        raise ValueError(f"{where}: only images with a metadata.jsonl are read from a zip. Unpack it.")
    files = _list_parquet_files(source) if kind == "parquet" else source.below()
    for name in files:  # the library would wait for ever for what a pipe has to say
        source.open(name).close()
    if kind == "saved":
        with _translate_errors(where):
            saved = datasets.load_from_disk(where)
        if isinstance(saved, datasets.DatasetDict):
            part = _choose_part(list(saved), split or "train", where)
            return ArrowTable(saved[part], f"{where} ({part})")
        return ArrowTable(saved, where)
    # data/train-00000-of-00002.parquet
    parts = {name: name.removeprefix("data/").split("-")[0].removesuffix(".parquet") for name in files}
    own = choose_split(list(parts.values()), split, where)
    paths = [str(source.root / name) for name in files if own in (None, parts[name])]
    with _translate_errors(where):
        table = datasets.Dataset.from_parquet(paths)
    return ArrowTable(table, where if own is None else f"{where} ({own})")


@contextmanager
def _translate_errors(where: str) -> Iterator[None]:
    """Turns into a `ValueError` what the `datasets` library and Arrow raise for damaged files: errors of any kind."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{where} cannot be read: {type(error).__name__}: {error}") from error


def _list_parquet_files(tree: FileTree) -> list[str]:
    return [name for folder in ("", "data") for name in tree.files(folder) if name.endswith(".parquet")]


def _is_image_column(feature: Any) -> bool:
    """Whether a column holds images; without the library's own note, they are objects of bytes and a path."""
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _choose_part(names: list[str], split: str, where: str) -> str:
    """Chooses the part for a split; where there is only one part of any other name, that one."""
    if (own := choose_split(names, split, where)) is not None:
        return own
    if len(names) != 1:
        raise FileNotFoundError(f"{where} has no {split} split, only {', '.join(names) or 'none'}.")
    return names[0]


def _load_from_hub(name: str, split: str) -> ArrowTable:
    try:
        part = _choose_part(datasets.get_dataset_split_names(name), split, name)
        data = datasets.load_dataset(name, split=part)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"There is no file or folder {name}, and it cannot be read as a dataset of the Hub: {error}"
        ) from error
    except datasets.exceptions.DatasetsError as error:
        raise ValueError(f"{name}, a dataset of the Hub, cannot be read: {error}") from error
    return ArrowTable(data, f"{name} ({part})")


Row = Mapping[str, Any] | ValueError  # or why it cannot be read


def _read_json_rows(tree: FileTree, name: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(tree.read_text(name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{tree.path(name)}: line {number}"
        try:
            yield number, read_json(line.encode(), dict[str, msgspec.Raw], where, "a row")
        except ValueError as error:
            yield number, error


def _read_csv_rows(tree: FileTree, name: str) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(io.StringIO(tree.read_text(name), newline=""))
    try:
        for row in reader:
            # Cells without a title, and titles without a cell.
            yield reader.line_num, {key: cell for key, cell in row.items() if key is not None and cell is not None}
    except csv.Error as error:
        raise ValueError(f"{tree.path(name)}: line {reader.line_num} is no row of CSV: {error}.") from error


def _parse_file_name(value: str | msgspec.Raw | None, where: str) -> str:
    """Parses the name of a file in a row, "" where there is none. Raises a `ValueError` if it is something else."""
    if value is None or isinstance(value, str):
        return value or ""
    return read_json(bytes(value), str | None, where, "the name of a file") or ""  # type: ignore[arg-type]

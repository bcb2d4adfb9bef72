"""Reads tables: CSV and its kin, JSON lines, Parquet, and the frames of pandas, polars and pyarrow."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petl.data.table_values import plain
from petl.errors import DataError, listing

TEXT, LINES, PARQUET = (".csv", ".tsv", ".tab"), (".jsonl", ".ndjson", ".json"), (".parquet", ".pq")
SUFFIXES = (*TEXT, *LINES, *PARQUET)
DELIMITERS = (",", ";", "\t", "|")
FRAMES = ("pandas", "polars", "pyarrow")
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # as Excel's "Unicode text" has them


@dataclass(frozen=True)
class ImageTable:
    """Columns of equal length by name. Relative paths in them start from ``base``; in a ``typed`` table numbers aren't texts.

    ``names`` has the class names of columns whose numbers have names, such as those of Hugging Face's datasets.
    """

    name: str
    columns: Mapping[str, Sequence[Any]]
    base: Path
    typed: bool
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def is_table_file(source: Any) -> bool:
    """Returns whether a path is that of a table, by its name: ``pets.csv``, ``pets.csv.gz``.

    >>> is_table_file("pets.csv"), is_table_file("pets")
    (True, False)
    """
    if not isinstance(source, (str, Path)) or Path(source).is_dir():
        return False
    return _suffix(Path(source)) in SUFFIXES


def is_frame(source: Any) -> bool:
    """Returns whether this is a frame of pandas, polars or pyarrow."""
    kind = type(source)
    return kind.__module__.partition(".")[0] in FRAMES and kind.__name__ in ("DataFrame", "Table", "LazyFrame")


def read_table(path: Path, encoding: str | None = None) -> ImageTable:
    """Returns the table in a file.

    Raises:
        DataError: there is no such file, it is no table, or it has no rows.
    """
    kind = _suffix(path)
    try:
        if kind in PARQUET:
            columns: Mapping[str, Sequence[Any]] = _parquet(path)
        else:
            data = path.read_bytes()
            text = _text_of(gzip.decompress(data) if path.suffix.lower() == ".gz" else data, path, encoding)
            columns = _csv_columns(text, path, kind) if kind in TEXT else _json_columns(text, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    return clean_table(ImageTable(str(path), columns, path.parent, kind not in TEXT))


def frame_table(frame: Any) -> ImageTable:
    """Returns the table in a frame of pandas, polars or pyarrow; relative paths start from the working directory."""
    kind = f"this {type(frame).__module__.partition('.')[0]} {type(frame).__name__}"
    whole = frame.collect() if hasattr(frame, "collect") else frame
    if hasattr(whole, "to_pydict"):  # pyarrow
        columns = whole.to_pydict()
    elif hasattr(whole, "to_dicts"):  # polars
        columns = whole.to_dict(as_series=False)
    else:
        names = [str(name) for name in whole.columns]
        _refuse_twins(names, kind)
        columns = {name: whole.iloc[:, i].tolist() for i, name in enumerate(names)}
    return clean_table(ImageTable(kind, columns, Path(), True))


def rows_table(rows: Sequence[Mapping[str, Any]], name: str, base: Path) -> ImageTable:
    """Returns the table of rows that are dicts; what a row doesn't have is empty."""
    names = list(dict.fromkeys(str(key) for row in rows for key in row))
    return clean_table(ImageTable(name, {key: [row.get(key) for row in rows] for key in names}, base, True))


def clean_table(table: ImageTable) -> ImageTable:
    """Returns the table with cells as Python's own values; a DataError if there are no rows."""
    columns = {name: [plain(value) for value in values] for name, values in table.columns.items()}
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{table.name} has no rows; expected a header and a row for each image, such as path,label")
    return ImageTable(table.name, columns, table.base, table.typed, table.names)


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _text_of(data: bytes, path: Path, encoding: str | None) -> str:
    """Returns the text in a file: UTF-8 (with or without its mark) or UTF-16 with its mark, unless an encoding is given."""
    known = encoding or BYTE_ORDER_MARKS.get(data[:2], "utf-8-sig")
    try:
        return data.decode(known)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is no text in {known.removesuffix('-sig')}: line {line} has {data[error.start : error.start + 1]!r}; save "
            'it as UTF-8, or name its encoding: encoding="cp1252" (petl train: --data encoding=cp1252)'
        ) from error
    except LookupError as error:
        raise DataError(f"encoding={encoding!r}; expected one that Python knows, such as 'cp1252'") from error


def _csv_columns(text: str, path: Path, kind: str) -> dict[str, list[str]]:
    """Returns the columns of a CSV, whose delimiter is that which takes the header into most columns."""
    text, delimiter = _delimiter_of(text, kind)
    try:
        options: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": delimiter != "\t", "strict": True}
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), **options) if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{path} is no CSV: {error}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    while header and not header[-1] and all(len(row) < len(header) or not row[-1].strip() for row in rows):
        header = header[:-1]  # a delimiter at the end of each line
        rows = [row[: len(header)] for row in rows]
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number} has {len(row)} cells and the header {len(header)} ({listing(header)}); cells with "
                f"{delimiter!r} in them need quotes"
            )
    _refuse_twins([name for name in header if name], str(path))
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header) if name}  # pandas' index has no name


def _delimiter_of(text: str, kind: str) -> tuple[str, str]:
    """Returns the text without Excel's line ``sep=;``, and the delimiter."""
    first, _, rest = text.lstrip("\r\n").partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.rstrip("\r")) == 5:
        return rest, first[4]
    if kind != ".csv":
        return text, "\t"
    line = text.lstrip("\r\n").splitlines()[:1]
    widths = {one: max(map(len, csv.reader(line, delimiter=one)), default=0) for one in DELIMITERS}
    return text, max(DELIMITERS, key=lambda one: widths[one])


def _refuse_twins(names: Sequence[str], where: str) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"{where} has several columns of the name {listing(map(repr, twins))}; rename all but one")


def _json_columns(text: str, path: Path) -> dict[str, list[Any]]:
    """Returns the columns of JSON lines, or of one JSON list of objects."""
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is neither JSON lines nor a JSON list: {error}") from error
    if odd := [i for i, row in enumerate(rows, 1) if not isinstance(row, dict)]:
        raise DataError(f'{path}: row {odd[0]} is no JSON object; expected {{"path": "cat/1.png", "label": "cat"}}')
    names = list(dict.fromkeys(key for row in rows for key in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow import parquet as files
    except ImportError as error:
        raise DataError(f'to read {path}: pip install "petl-vision[tables]"') from error
    try:
        return files.read_table(path).to_pydict()
    except ArrowException as error:
        raise DataError(f"{path} is no Parquet file: {' '.join(str(error).split())}") from error

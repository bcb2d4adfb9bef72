"""Writes answers to a CSV, a file of JSON lines or a Parquet file while they come; the file appears when it is whole."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from petl.errors import PetlError, StateError, near
from petl.format.atomic_files import open_atomically, reason
from petl.prediction.columns import SEPARATOR, Layout
from petl.prediction.passes import Block

CELLS_AT_ONCE = 1 << 20  # of a Parquet file's row group: what is held in memory


class TableWriter(Protocol):
    """Takes blocks of answers, and writes what it still has at the end."""

    def add(self, block: Block) -> None: ...

    def finish(self) -> None: ...


class CsvWriter:
    """Numbers have nine digits, which give each float32 back; several labels of one image are joined with ``;``."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self.text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self.plain = csv.writer(self.text, lineterminator="\n")
        self.quoted = csv.writer(self.text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.layout = layout
        self._write(layout.names)

    def add(self, block: Block) -> None:
        for row in zip(*self.layout.columns(block), strict=True):
            self._write(row)

    def _write(self, row: Iterable[Any]) -> None:
        cells = [_cell(value) for value in row]
        # Python before 3.13 leaves a lone carriage return without quotes, and readers end the row there
        (self.quoted if any("\r" in cell for cell in cells) else self.plain).writerow(cells)

    def finish(self) -> None:
        self.text.detach()


def _cell(value: Any) -> str:
    if isinstance(value, (np.floating, float)):
        return f"{value:.9g}"
    if isinstance(value, (list, np.ndarray)):
        return SEPARATOR.join(map(_cell, value))
    return _without_lone_surrogates(value)


def _without_lone_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class JsonLinesWriter:
    """One JSON object a line, in ASCII: names in another encoding than UTF-8 keep their bytes as Python has them."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self.file, self.layout = file, layout

    def add(self, block: Block) -> None:
        for row in self.layout.rows(block):
            self.file.write(json.dumps(row).encode() + b"\n")

    def finish(self) -> None:
        pass


class ParquetWriter:
    """Texts, lists of texts, and float32; rows are held until a row group is full."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self.pyarrow, self.parquet = _pyarrow()
        self.file, self.layout, self.writer = file, layout, None
        self.held: list[Any] = []

    def add(self, block: Block) -> None:
        arrays = [self._array(column) for column in self.layout.columns(block)]
        self.held.append(self.pyarrow.Table.from_arrays(arrays, names=self.layout.names))
        if sum(table.num_rows for table in self.held) * len(arrays) >= CELLS_AT_ONCE:
            self._flush()

    def _array(self, column: Sequence[Any]) -> Any:
        if isinstance(column, np.ndarray):
            return self.pyarrow.array(np.ascontiguousarray(column))
        of_numbers = column and isinstance(column[0], np.ndarray)
        inner = self.pyarrow.float32() if of_numbers else self.pyarrow.string()
        kind = self.pyarrow.list_(inner) if column and isinstance(column[0], (list, np.ndarray)) else inner
        return self.pyarrow.array(column, type=kind)

    def _flush(self) -> None:
        if self.held:
            table = self.pyarrow.concat_tables(self.held)
            self.writer = self.writer or self.parquet.ParquetWriter(self.file, table.schema)
            self.writer.write_table(table)
            self.held.clear()

    def finish(self) -> None:
        self._flush()
        if self.writer is not None:
            self.writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise StateError(
            'a Parquet file needs pyarrow: pip install "petl-vision[tables]", or name a .csv or .jsonl file'
        ) from error
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[IO[bytes], Layout], TableWriter]] = {
    ".csv": CsvWriter,
    ".jsonl": JsonLinesWriter,
    ".parquet": ParquetWriter,
}


def refuse_output(path: Path) -> None:
    """Raises a StateError for a file that couldn't be written after the work: its ending, its folder, a missing package."""
    ending = path.suffix.lower()
    if ending not in WRITERS:
        raise StateError(f"{path}: predictions go to a file named *{', *'.join(WRITERS)}{near(ending, WRITERS)}")
    if ending == ".parquet":
        _pyarrow()
    if path.is_dir():
        raise StateError(f"{path} is a folder; give a file's name, such as {path / 'predictions.csv'}")
    try:
        with tempfile.TemporaryFile(dir=path.resolve().parent, prefix=".petl-"):
            pass
    except (OSError, ValueError) as error:
        raise StateError(f"can't write {path}: {reason(error)}") from error


class _OfTheWork(Exception):
    """Carries an error of the model or the images past the place where errors of the disk are caught."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error


def write_blocks(path: Path, blocks: Iterable[tuple[Layout, Block]]) -> None:
    """Writes blocks of answers as they come, each with the layout of the table; a file of that name is replaced at the end.

    Raises:
        PetlError: there is no answer, or the disk can't take them; no file is written then.
    """
    try:
        with open_atomically(path) as file, contextlib.ExitStack() as unfinished:
            writer: TableWriter | None = None
            for layout, block in _marked(blocks):
                if writer is None:
                    writer = WRITERS[path.suffix.lower()](file, layout)
                    unfinished.callback(_let_go, writer)
                writer.add(block)
            if writer is None:
                raise StateError(f"there is no prediction to write to {path}")
            unfinished.pop_all()
            writer.finish()
    except _OfTheWork as error:
        raise error.error from error.error.__cause__


def _let_go(writer: TableWriter) -> None:
    """Ends a writer after an error, while its file is open: it would try to write again when it is collected."""
    with contextlib.suppress(Exception):
        writer.finish()


def _marked(blocks: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from blocks
    except PetlError:
        raise
    except Exception as error:
        raise _OfTheWork(error) from error

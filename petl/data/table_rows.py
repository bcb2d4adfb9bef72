"""The rows of a table that are asked for: their split, their files, groups and weights, checked and counted."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petl.data.odd_rows import refuse_rows
from petl.data.split_names import SHORT_WORDS, split_of
from petl.data.table_columns import Roles
from petl.data.table_files import ImageTable
from petl.data.table_values import number, truth
from petl.errors import DataError, listing


def split_kinds(table: ImageTable, roles: Roles) -> list[str] | None:
    """Returns the split of each row: train, val or test, or the cell's own text; None for a table without splits."""
    if roles.split is None:
        return None
    flag = re.sub(r"[\W_]+", "", roles.split).lower()
    cells = table.columns[roles.split]
    if flag in ("isvalid", "isval", "istest") and all(truth(cell) in (0.0, 1.0) for cell in cells):
        yes = "test" if flag == "istest" else "val"
        return [yes if truth(cell) else "train" for cell in cells]
    texts = ["" if cell is None else str(cell) for cell in cells]
    kinds = {text: _split_kind(text) for text in dict.fromkeys(texts)}
    return [kinds[text] for text in texts]


def _split_kind(text: str) -> str:
    return split_of(text) or SHORT_WORDS.get(text.lower()) or text


def choose_rows(table: ImageTable, roles: Roles, split: str | None) -> list[int]:
    """Returns the numbers of the rows in a split; all for None and ".".

    Raises:
        DataError: there is no such split, or a split that petl doesn't know.
    """
    kinds = split_kinds(table, roles)
    everything = list(range(len(table)))
    if split in (None, "."):
        return everything
    wanted = _split_kind(split)
    if kinds is None:
        if wanted == "train":
            return everything
        raise DataError(
            f"{table.name} has no column for the split, so there is no {split!r}; name the column: split_column='...' (petl "
            "train: --data split_column=...), or split the images with petl.data.holdout"
        )
    if wanted not in kinds or wanted in ("train", "val", "test"):
        _refuse_unknown_splits(table, roles, kinds)
    if wanted not in kinds:
        raise DataError(
            f"{table.name} has no rows of split {split!r}; its splits in {roles.split!r} are {listing(sorted({*kinds}))}"
        )
    return [row for row in everything if kinds[row] == wanted]


def _refuse_unknown_splits(table: ImageTable, roles: Roles, kinds: Sequence[str]) -> None:
    odd = [row for row, kind in enumerate(kinds) if kind not in ("train", "val", "test")]
    values = sorted({kinds[row] for row in odd})
    refuse_rows(
        table,
        range(len(table)),
        odd,
        f"have an unknown split in {roles.split!r} ({listing(map(repr, values))})",
        "expected train, val or test in any spelling; or name one by its own text (split='fold1'), or pass "
        "columns={'split': None} if this is no split (petl train: --data split_column=null)",
    )


def row_files(table: ImageTable, roles: Roles, rows: Sequence[int], root: Path | None) -> list[Any]:
    """Returns the images of the rows: absolute paths of files that are there, or images that the table holds.

    Raises:
        DataError: cells are empty or no paths, or files aren't there.
    """
    cells = [table.columns[roles.path][row] for row in rows]
    empty = [i for i, cell in enumerate(cells) if cell is None]
    refuse_rows(table, rows, empty, f"have no path in {roles.path!r}", "fill them in, or leave these rows out")
    images = [image_in_cell(cell) for cell in cells]
    odd = [i for i, image in enumerate(images) if image is None]
    kind = type(cells[odd[0]]).__name__ if odd else ""
    refuse_rows(
        table,
        rows,
        odd,
        f"have a {kind} in {roles.path!r}",
        "expected the path of an image; path='...' names the column",
    )
    base = Path(os.path.abspath(table.base if root is None else root))
    files = [absolute_file(image, base) if isinstance(image, str) else image for image in images]
    absent = [i for i, file in enumerate(files) if isinstance(file, str) and not os.path.lexists(file)]
    first = files[absent[0]] if absent else ""
    advice = f"it would be {first}; paths start from {base}, root= names another folder (petl train: --data root=...)"
    refuse_rows(table, rows, absent, "name a file that isn't there", advice)
    return files


def image_in_cell(cell: Any) -> Any:
    """Returns the path in a cell as text, or the image in it (bytes, an array, a PIL image, what is to read); else None."""
    if isinstance(cell, dict) and {"bytes", "path"} & {*cell}:  # as Hugging Face writes images into Parquet
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, os.PathLike):
        return os.fspath(cell)
    held = (
        isinstance(cell, (str, bytes, np.ndarray)) or type(cell).__module__.startswith("PIL.") or hasattr(cell, "read")
    )
    return cell if held else None


def absolute_file(text: str, base: Path) -> str:
    """Returns the absolute path of a file; backslashes are folders where there is no file of that very name."""
    path = os.path.join(base, os.path.expanduser(text))
    if "\\" in text and os.sep == "/" and not os.path.lexists(path):
        path = os.path.join(base, text.replace("\\", "/"))
    return os.path.normpath(path)


def keep_once(
    table: ImageTable, rows: Sequence[int], files: Sequence[Any], targets: Sequence[Any] | np.ndarray, notes: list[str]
) -> list[int]:
    """Returns the positions of the first row of each file; later ones that say the same are left out, and noted.

    Raises:
        DataError: a file has another target in another row.
    """
    first: dict[str, int] = {}
    again: list[int] = []
    for i, file in enumerate(files):
        if isinstance(file, str) and first.setdefault(file, i) != i:
            again.append(i)
    odd = [i for i in again if not np.array_equal(targets[i], targets[first[files[i]]], equal_nan=_is_float(targets))]
    where = f"({files[odd[0]]}, first in row {rows[first[files[odd[0]]]] + 1})" if odd else ""
    refuse_rows(table, rows, odd, f"give a file another label than a row before {where}", "keep one row for each file")
    if again:
        notes.append(
            f"{table.name}: left out rows that repeat another: {len(again)}, the first is row {rows[again[0]] + 1}"
        )
    left = {*again}
    return [i for i in range(len(files)) if i not in left]


def _is_float(targets: Sequence[Any] | np.ndarray) -> bool:
    return isinstance(targets, np.ndarray) and targets.dtype.kind == "f"


def refuse_shared_files(table: ImageTable, roles: Roles) -> None:
    """Raises a DataError if a file is in two splits: the model would be measured on what it was trained on."""
    kinds = split_kinds(table, roles)
    first: dict[str, int] = {}
    shared = []
    for row, cell in enumerate(table.columns[roles.path] if kinds is not None else ()):
        if isinstance(cell, (str, os.PathLike)):
            file = os.path.normpath(os.fspath(cell)).replace("\\", "/")
            if kinds[first.setdefault(file, row)] != kinds[row]:  # type: ignore[index]  # not None, as the loop runs
                shared.append(row)
    advice = (
        "each belongs to one; columns={'split': None} (petl train: --data split_column=null) reads the table without"
    )
    refuse_rows(table, range(len(table)), shared, "name a file that is in another split too", advice)


def row_groups(table: ImageTable, name: str | None, rows: Sequence[int]) -> list[str] | None:
    """Returns the group of each row as text, or None for a table without groups.

    Raises:
        DataError: some have none: their images may belong to any.
    """
    if name is None:
        return None
    cells = [table.columns[name][row] for row in rows]
    empty = [i for i, cell in enumerate(cells) if cell is None]
    advice = (
        "fill them in (with a name of its own for an image alone), or read the table without: columns={'group': None} "
        "(petl train: --data group=null)"
    )
    refuse_rows(table, rows, empty, f"have no group in {name!r}", advice)
    return [str(cell) for cell in cells]


def row_weights(table: ImageTable, name: str | None, rows: Sequence[int]) -> np.ndarray | None:
    """Returns the weight of each row, or None for a table without weights.

    Raises:
        DataError: some aren't numbers of at least 0.
    """
    if name is None:
        return None
    found = [number(table.columns[name][row]) for row in rows]
    odd = [i for i, one in enumerate(found) if one is None or not one >= 0]
    advice = "expected a number of at least 0; if this is no weight of an image: columns={'weight': None} "
    advice += "(petl train: --data weight=null)"
    refuse_rows(table, rows, odd, f"have no weight in {name!r}", advice)
    return np.array(found, dtype=np.float32)

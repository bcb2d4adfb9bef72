"""Which splits (train, val, test) a folder, tar or table has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petl.data.scanning import scan
from petl.data.split_choice import pick_spelling, skip_lone_folders
from petl.data.table_sources import is_image_table, splits_of_table
from petl.data.tree import Names, Tree
from petl.errors import DataError


def splits(source: str | Path, **options: Any) -> dict[str, Path]:
    """Returns the folders in ``source`` that hold a split, in any spelling: {"train": folder, "val": ..., "test": ...}.

    The folders may lie in an only folder whose name means nothing (``mri/mri/Training``). A tar is treated like a folder. A
    table's splits are in one file; ``options`` say which of its columns is what, as for `petl.data.dataset`.

    Raises:
        DataError: several folders may be the same split, or a folder may be a class or a split.

    Example:
        >>> splits("no/such/folder")
        {}
    """
    if is_image_table(source):
        return {kind: Path(source) for kind in splits_of_table(source, options)}
    base, tree, kinds = _split_folders(source)
    names = {kind: [name for name in kinds if kinds[name] == kind] for kind in ("train", "val", "test")}
    return {
        kind: Path(source).joinpath(*base, pick_spelling(tree, base, spellings, kind))
        for kind, spellings in names.items()
        if spellings
    }


def has_split(source: Any, sort: str, **options: Any) -> bool:
    """Returns whether ``source`` has a folder for the split, or several, or rows of it in a table.

    For tables, ``options`` say which column is what, as for `petl.data.dataset`.

    Example:
        >>> has_split("no/such/folder", "val")
        False
    """
    if is_image_table(source):
        return sort in splits_of_table(source, options)
    return sort in _split_folders(source)[2].values()


def _split_folders(source: str | Path) -> tuple[Names, Tree, dict[str, str]]:
    """Returns the folder in ``source`` that has splits, the tree of ``source``, and {folder of a split: its kind}."""
    path = Path(source)
    tree = scan(path)[0] if path.exists() else Tree(str(path))
    base = skip_lone_folders(tree, (), []) if tree.images else ()
    return base, tree, tree.splits(base) if tree.images else {}


def held_out(source: Any, **options: Any) -> str | None:
    """Returns the split to measure on: ``val`` if ``source`` has it, else ``test``; None if it has no splits.

    For tables, ``options`` say which column is what, as for `petl.data.dataset`.

    Raises:
        DataError: there is only a training split.

    Example:
        >>> held_out("no/such/folder") is None
        True
    """
    if is_image_table(source):
        kinds = splits_of_table(source, options)
        if kinds == ["train"]:
            raise DataError(
                f"{source if isinstance(source, (str, Path)) else 'the table'} has rows of split 'train' alone; to measure on "
                "those: petl.data.dataset(table, petl.data.pipeline(model), split='train')"
            )
        return next((kind for kind in ("val", "test") if kind in kinds), None)
    folders = splits(source)
    if list(folders) == ["train"]:
        raise DataError(
            f"{source} has {folders['train'].name} and no other split; to measure on that, name it: {folders['train']}"
        )
    return next((kind for kind in ("val", "test") if kind in folders), None)

"""Which splits (train, val, test) a folder or tar has."""

from __future__ import annotations

from pathlib import Path

from petl.data.scanning import scan
from petl.data.split_choice import pick_spelling, skip_lone_folders
from petl.data.tree import Names, Tree
from petl.errors import DataError


def splits(source: str | Path) -> dict[str, Path]:
    """Returns the folders in ``source`` that hold a split, in any spelling: {"train": folder, "val": ..., "test": ...}.

    The folders may lie in an only folder whose name means nothing (``mri/mri/Training``). A tar is treated like a folder.

    Raises:
        DataError: several folders may be the same split, or a folder may be a class or a split.

    Example:
        >>> splits("no/such/folder")
        {}
    """
    base, tree, kinds = _split_folders(source)
    names = {kind: [name for name in kinds if kinds[name] == kind] for kind in ("train", "val", "test")}
    return {
        kind: Path(source).joinpath(*base, pick_spelling(tree, base, spellings, kind))
        for kind, spellings in names.items()
        if spellings
    }


def has_split(source: str | Path, sort: str) -> bool:
    """Returns whether ``source`` has a folder for the split, or several.

    Example:
        >>> has_split("no/such/folder", "val")
        False
    """
    return sort in _split_folders(source)[2].values()


def _split_folders(source: str | Path) -> tuple[Names, Tree, dict[str, str]]:
    """Returns the folder in ``source`` that has splits, the tree of ``source``, and {folder of a split: its kind}."""
    path = Path(source)
    tree = scan(path)[0] if path.exists() else Tree(str(path))
    base = skip_lone_folders(tree, (), []) if tree.images else ()
    return base, tree, tree.splits(base) if tree.images else {}


def held_out(source: str | Path) -> str | None:
    """Returns the split to measure on: ``val`` if ``source`` has it, else ``test``; None if it has no splits.

    Raises:
        DataError: there is only a training split.

    Example:
        >>> held_out("no/such/folder") is None
        True
    """
    folders = splits(source)
    if list(folders) == ["train"]:
        raise DataError(
            f"{source} has {folders['train'].name} and no other split; to measure on that, name it: {folders['train']}"
        )
    return next((kind for kind in ("val", "test") if kind in folders), None)

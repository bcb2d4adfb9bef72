"""Answers which splits (train, val, test) a folder or tar has."""

from __future__ import annotations

from pathlib import Path

from petl.data.scanning import scan
from petl.data.split_choice import pick_spelling, skip_lone_folders
from petl.data.tree import Names, Tree
from petl.errors import DataError


def splits(source: str | Path) -> dict[str, Path]:
    """The folders in ``source`` that hold a split: of train, val and test those that are there, in whatever spelling.

    They may lie in a folder that says nothing (``mri/mri/Training``). Folders in a tar are given as if it were a folder.

    Raises:
        DataError: Several folders may be the same split, or one may be a class or a split.

    Example:
        >>> splits("no/such/folder")
        {}
    """
    base, tree, there = _split_folders(source)
    found = {sort: [name for name in there if there[name] == sort] for sort in ("train", "val", "test")}
    return {
        sort: Path(source).joinpath(*base, pick_spelling(tree, base, names, sort))
        for sort, names in found.items()
        if names
    }


def has_split(source: str | Path, sort: str) -> bool:
    """Whether ``source`` has a folder for the split, or several.

    Example:
        >>> has_split("no/such/folder", "val")
        False
    """
    return sort in _split_folders(source)[2].values()


def _split_folders(source: str | Path) -> tuple[Names, Tree, dict[str, str]]:
    """The folder in ``source`` that has splits, what is in ``source``, and which of the names are which splits."""
    path = Path(source)
    tree = scan(path)[0] if path.exists() else Tree(str(path))
    base = skip_lone_folders(tree, (), []) if tree.images else ()
    return base, tree, tree.splits(base) if tree.images else {}


def held_out(source: str | Path) -> str | None:
    """The split to measure on: ``val`` where ``source`` has it, else ``test``; None where it has no splits at all.

    Raises:
        DataError: There is a training split alone, which says nothing about other images.

    Example:
        >>> held_out("no/such/folder") is None
        True
    """
    there = splits(source)
    if list(there) == ["train"]:
        raise DataError(
            f"{source} has {there['train'].name} and no other split; to measure on that, name it: {there['train']}"
        )
    return next((sort for sort in ("val", "test") if sort in there), None)

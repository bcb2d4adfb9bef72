"""Notes for the log: what a folder or tar has that was left out or may surprise."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from petl.data.tree import Names, Tree, count_suffixes, is_hidden, natural_order
from petl.errors import listing


def note_similar_names(names: Sequence[str], notes: list[str]) -> None:
    """Say which classes differ in their case or spaces only."""
    same = collections.defaultdict(list)
    for name in names:
        same["".join(name.casefold().split())].append(name)
    for group in same.values():
        if len(group) > 1:
            notes.append(
                f"these are {len(group)} classes, although their names differ little: {listing(map(repr, group))}"
            )


def note_empty_classes(tree: Tree, bases: Sequence[Names], notes: list[str]) -> None:
    """Say which class folders have no image."""
    for base in bases:
        depth = len(base) + 1
        folders = {f[:depth] for f in tree.folders if len(f) >= depth and f[: depth - 1] == base}
        empty = sorted({folder[-1] for folder in folders - tree.full}, key=natural_order)
        if empty:
            notes.append(f"{tree.shown(base)}: no images in {listing(empty)}, so there is no such class")


def note_other_files(tree: Tree, notes: list[str]) -> None:
    """Count the files that are no images for petl."""
    parts = [f"{len(tree.others)} files of other kinds ({count_suffixes(tree.others)})"] if tree.others else []
    if tree.hidden:
        names = collections.Counter(next(n for n in file if is_hidden((n,))) for file in tree.hidden)
        parts.append(f"{len(tree.hidden)} hidden or system files ({listing(sorted(names), 3)})")
    if parts:
        notes.append(f"{tree.root}: left out {' and '.join(parts)}")

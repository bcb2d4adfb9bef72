"""Notes for the log: what in a folder or tar was left out, or may surprise."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from petl.data.tree import Names, Tree, count_suffixes, is_hidden, natural_order
from petl.errors import listing


def note_similar_names(names: Sequence[str], notes: list[str]) -> None:
    """Notes classes whose names differ only in case or spaces."""
    same = collections.defaultdict(list)
    for name in names:
        same["".join(name.casefold().split())].append(name)
    for group in same.values():
        if len(group) > 1:
            notes.append(
                f"these are {len(group)} classes, although their names differ little: {listing(map(repr, group))}"
            )


def note_empty_classes(tree: Tree, bases: Sequence[Names], notes: list[str]) -> None:
    """Notes class folders without an image."""
    for base in bases:
        depth = len(base) + 1
        folders = {f[:depth] for f in tree.folders if len(f) >= depth and f[: depth - 1] == base}
        empty = sorted({folder[-1] for folder in folders - tree.with_images}, key=natural_order)
        if empty:
            notes.append(f"{tree.path_to(base)}: no images in {listing(empty)}, so there is no such class")


def note_other_files(tree: Tree, notes: list[str]) -> None:
    """Notes the files that petl doesn't read as images, counted by suffix."""
    parts = [f"{len(tree.others)} files of other kinds ({count_suffixes(tree.others)})"] if tree.others else []
    if tree.hidden:
        names = collections.Counter(next(n for n in file if is_hidden((n,))) for file in tree.hidden)
        parts.append(f"{len(tree.hidden)} hidden or system files ({listing(sorted(names), 3)})")
    if parts:
        notes.append(f"{tree.root}: left out {' and '.join(parts)}")

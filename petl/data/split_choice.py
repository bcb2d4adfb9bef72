"""Finds the folders of a tree that hold the split that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petl.data.split_names import SPLIT_WORDS, says_nothing, split_of, splits_among
from petl.data.tree import Names, Tree, refuse_empty
from petl.errors import DataError, listing


def skip_lone_folders(tree: Tree, base: Names, notes: list[str]) -> Names:
    """Returns ``base``, or the only folder in it if its name means nothing, such as ``images`` in ``train/images``."""
    while len(names := tree.subfolders(base)) == 1 and not tree.count_in(base):
        inner = (*base, names[0])
        here = base[-1] if base else Path(tree.root).resolve().stem  # the name of a tar has a suffix
        same = Path(names[0]).stem.lower() == here.lower()
        meaningful = not same and (not says_nothing(names[0]) or split_of(names[0]) not in (None, split_of(here)))
        if not tree.subfolders(inner) or (
            (meaningful or tree.count_in(inner)) and not splits_among(tree.subfolders(inner))
        ):
            break
        if not same:
            notes.append(f"everything is in {tree.path_to(inner)}, so that is taken")
        base = inner
    return base


def choose_split(tree: Tree, split: str | None, notes: list[str]) -> list[Names]:
    """Returns the folders whose sub-folders are classes: that of the split, or those of all splits for None.

    ``split`` is train, val or test in any spelling, or the path of a sub-folder; "." takes the root, even if it has splits.

    Raises:
        DataError: there is no such split, or more than one folder may be meant.
    """
    refuse_empty(tree, [()])
    if split == ".":
        return [skip_lone_folders(tree, (), notes)]
    asked = tuple(part for part in (split or "").replace("\\", "/").split("/") if part not in ("", "."))
    if asked and asked in tree.folders and (tree.subfolders(asked) or not split_of(asked[-1])):
        _note_other_folders(tree, asked, notes)
        return [skip_lone_folders(tree, asked, notes)]
    base = skip_lone_folders(tree, (), notes)
    splits = tree.splits(base)
    if split is None:
        return [skip_lone_folders(tree, (*base, name), notes) for name in splits] or [base]
    if asked and (*base, *asked) in tree.folders and not split_of(asked[-1]):
        return [skip_lone_folders(tree, (*base, *asked), notes)]
    kind = split_of(split)
    names = [name for name in splits if splits[name] == kind] if kind else []
    if not names:
        if kind == "train" and not splits:
            return [base]
        raise DataError(_no_split(tree, base, split, splits))
    name = pick_spelling(tree, base, names, kind or "")
    _note_other_folders(tree, (*base, name), notes)
    return [skip_lone_folders(tree, (*base, name), notes)]


def _no_split(tree: Tree, base: Names, split: str, splits: dict[str, str]) -> str:
    """Returns the message for a split that isn't there."""
    looked = ", ".join(SPLIT_WORDS.get(split_of(split) or "", (split,)))
    present = f"; its splits are {listing(splits)}" if splits else ""
    others = [name for name in tree.subfolders(base) if name not in splits] if splits else []
    other = f"name one (split={'/'.join((*base, others[0]))!r}), " if others else ""
    return (
        f"{tree.path_to(base)} has no folder for split {split!r} (looked for {looked}, in any spelling){present}: "
        f"{tree.contents(base)}; make one, {other}or pass split=None for the whole folder, or split the training images "
        "with petl.data.holdout"
    )


def pick_spelling(tree: Tree, base: Names, names: Sequence[str], kind: str) -> str:
    """Returns which of the folders holds the split ``kind``: timm's names come first, in its order.

    Raises:
        DataError: there are several, none of which has such a name.
    """
    best = [word for word in SPLIT_WORDS[kind] if word in names]
    if best or len(names) == 1:
        return (best or list(names))[0]
    raise DataError(
        f"{tree.path_to(base)} has several folders that may be split {kind!r}: {listing(names)}; say which one: "
        f"{tree.advice(split=names[0])}"
    )


def _note_other_folders(tree: Tree, base: Names, notes: list[str]) -> None:
    """Notes the folders beside a split that are left out: no split, or the same split in another spelling."""
    splits = splits_among(tree.subfolders(base[:-1]))
    kind = splits.get(base[-1])
    for name in tree.subfolders(base[:-1]) if kind else ():
        if name != base[-1] and splits.get(name) in (None, kind):
            beside = (*base[:-1], name)
            notes.append(
                f"{tree.path_to(beside)} ({len(tree.files_under(beside))} images) is left out, {base[-1]!r} is taken"
            )
    if kind and (count := tree.count_in(base[:-1])):
        notes.append(f"{count} images right in {tree.path_to(base[:-1])} are left out, {base[-1]!r} is taken")

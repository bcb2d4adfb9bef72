"""Chooses the folders of a tree that hold the split which is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petl.data.split_names import SPLIT_WORDS, says_nothing, split_of, splits_among
from petl.data.tree import Names, Tree, refuse_empty
from petl.errors import DataError, listing


def skip_lone_folders(tree: Tree, base: Names, notes: list[str]) -> Names:
    """``base``, or the one folder in it that holds everything and says nothing by its name, such as ``train/images``."""
    while len(names := tree.below(base)) == 1 and not tree.direct(base):
        inner = (*base, names[0])
        here = base[-1] if base else Path(tree.root).resolve().stem  # a tar's name has an ending
        same = Path(names[0]).stem.lower() == here.lower()
        telling = not same and (not says_nothing(names[0]) or split_of(names[0]) not in (None, split_of(here)))
        if not tree.below(inner) or ((telling or tree.direct(inner)) and not splits_among(tree.below(inner))):
            break
        if not same:
            notes.append(f"everything is in {tree.shown(inner)}, so that is taken")
        base = inner
    return base


def choose_split(tree: Tree, split: str | None, notes: list[str]) -> list[Names]:
    """The folders whose sub-folders are classes: the split's; for None all splits that there are, as asked.

    ``split`` is train, val or test in any spelling, or the path of a sub-folder; "." takes the root without a look for splits.

    Raises:
        DataError: There is no such split, or more than one folder may be meant.
    """
    refuse_empty(tree, [()])
    if split == ".":
        return [skip_lone_folders(tree, (), notes)]
    asked = tuple(part for part in (split or "").replace("\\", "/").split("/") if part not in ("", "."))
    if asked and asked in tree.folders and (tree.below(asked) or not split_of(asked[-1])):
        _note_other_folders(tree, asked, notes)
        return [skip_lone_folders(tree, asked, notes)]
    base = skip_lone_folders(tree, (), notes)
    there = tree.splits(base)
    if split is None:
        return [skip_lone_folders(tree, (*base, name), notes) for name in there] or [base]
    if asked and (*base, *asked) in tree.folders and not split_of(asked[-1]):
        return [skip_lone_folders(tree, (*base, *asked), notes)]
    sort = split_of(split)
    names = [name for name in there if there[name] == sort] if sort else []
    if not names:
        if sort == "train" and not there:
            return [base]
        raise DataError(_no_split(tree, base, split, there))
    name = pick_spelling(tree, base, names, sort or "")
    _note_other_folders(tree, (*base, name), notes)
    return [skip_lone_folders(tree, (*base, name), notes)]


def _no_split(tree: Tree, base: Names, split: str, there: dict[str, str]) -> str:
    looked = ", ".join(SPLIT_WORDS.get(split_of(split) or "", (split,)))
    found = f"; its splits are {listing(there)}" if there else ""
    others = [name for name in tree.below(base) if name not in there] if there else []
    name = f"name one (split={'/'.join((*base, others[0]))!r}), " if others else ""
    return (
        f"{tree.shown(base)} has no folder for split {split!r} (looked for {looked}, in any spelling){found}: "
        f"{tree.contents(base)}; make one, {name}or pass split=None for the whole folder, or split the training images "
        "with petl.data.holdout"
    )


def pick_spelling(tree: Tree, base: Names, names: Sequence[str], sort: str) -> str:
    """The one that is meant: timm's names first, in its order."""
    best = [word for word in SPLIT_WORDS[sort] if word in names]
    if best or len(names) == 1:
        return (best or list(names))[0]
    raise DataError(
        f"{tree.shown(base)} has several folders that may be split {sort!r}: {listing(names)}; say which one: "
        f"{tree.advice(split=names[0])}"
    )


def _note_other_folders(tree: Tree, base: Names, notes: list[str]) -> None:
    """Note the folders beside a split that belong to no other split: the same split in another spelling, or no split."""
    splits = splits_among(tree.below(base[:-1]))
    mine = splits.get(base[-1])
    for name in tree.below(base[:-1]) if mine else ():
        if name != base[-1] and splits.get(name) in (None, mine):
            beside = (*base[:-1], name)
            notes.append(f"{tree.shown(beside)} ({len(tree.inside(beside))} images) is left out, {base[-1]!r} is taken")
    if mine and (count := tree.direct(base[:-1])):
        notes.append(f"{count} images right in {tree.shown(base[:-1])} are left out, {base[-1]!r} is taken")

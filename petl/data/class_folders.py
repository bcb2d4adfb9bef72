"""Reads the class of each image from the folders above it."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Literal

from petl.data.split_names import split_of
from petl.data.tree import Names, Tree, natural_order
from petl.errors import DataError, listing

ClassFrom = Literal["first", "path", "last"]
CLASS_FROM = ("first", "path", "last")


def classify(
    tree: Tree,
    bases: Sequence[Names],
    notes: list[str],
    *,
    split: str | None,
    reading: ClassFrom | None,
    classes: Sequence[str] | None,
) -> list[tuple[Names, str]]:
    """Returns every image under ``bases`` with the name of its class, in the natural order of the paths.

    Args:
        reading: Which folder names the class: "first", the first one under the base; "path", all under it; "last", the
            innermost. None is "first", unless a folder of the same name lies under several first folders.
        classes: Expected class names, which decide between readings.
        split: What `choose_split` was called with: None and "." allow folders inside that look like splits.

    Raises:
        DataError: the folders can be read in two ways, or look like splits.
    """
    files = sorted((f for base in bases for f in tree.files_under(base)), key=lambda f: natural_order("/".join(f)))
    folders = [_folder_of(file, bases) for file in files]
    if any(not folder for folder in folders):
        outside = next(base for base in bases if tree.count_in(base))
        raise DataError(
            f"{tree.path_to(outside)} has images outside of class folders: {tree.contents(outside)}; one sub-folder per class"
        )
    if split is None:  # all splits were asked for, so those inside are merged too
        folders = [tuple(n for i, n in enumerate(f) if not i or not split_of(n)) for f in folders]
    elif split != ".":
        _refuse_inner_splits(tree, bases[0], folders)
    if reading is None:
        reading = _reading_by_names(folders, classes) or _reading_by_folders(tree, bases[0], folders, notes)
    return [(file, class_of_folder(folder, reading)) for file, folder in zip(files, folders, strict=True)]


def _folder_of(file: Names, bases: Sequence[Names]) -> Names:
    """Returns the folders between the base and the file."""
    depth = max(len(base) for base in bases if file[: len(base)] == base)
    return file[depth:-1]


def class_of_folder(folder: Names, reading: str) -> str:
    """Returns the name of the class that a folder stands for.

    Example:
        >>> [class_of_folder(("church", "outdoor"), reading) for reading in CLASS_FROM]
        ['church', 'church/outdoor', 'outdoor']
    """
    return folder[0] if reading == "first" else folder[-1] if reading == "last" else "/".join(folder)


def _reading_by_names(folders: Sequence[Names], classes: Sequence[str] | None) -> ClassFrom | None:
    """Returns the reading by which all classes are expected ones, or None."""
    expected = {*(classes or ())}
    for reading in CLASS_FROM if expected else ():
        if all(class_of_folder(folder, reading) in expected for folder in set(folders)):
            return reading
    return None


def _reading_by_folders(tree: Tree, base: Names, folders: Sequence[Names], notes: list[str]) -> ClassFrom:
    """Returns "first", unless folders of the same name in several first folders leave it open."""
    firsts: dict[str, set[str]] = collections.defaultdict(set)
    for folder in folders:
        firsts[folder[-1]].add(folder[0])
    twice = sorted((leaf for leaf, above in firsts.items() if len(above) > 1), key=natural_order)
    deep = sum(len(folder) > 1 for folder in set(folders))
    first, path = ({class_of_folder(folder, reading) for folder in folders} for reading in ("first", "path"))
    if twice:
        raise DataError(_ambiguous_classes(tree, base, twice[0], (first, path), folders))
    if deep:
        notes.append(
            f"the classes are the {len(first)} folders in {tree.path_to(base)} ({_few(first)}), not the {deep} folders inside "
            f"them; class_from='path' (petl train: --data class_from=path) takes those"
        )
    return "first"


def _ambiguous_classes(
    tree: Tree, base: Names, leaf: str, readings: tuple[set[str], set[str]], folders: Sequence[Names]
) -> str:
    first, path = readings
    one = "/".join((*base, sorted(first, key=natural_order)[0]))
    examples = sorted({"/".join(f) for f in folders if f[-1] == leaf}, key=natural_order)
    return (
        f"{tree.path_to(base)} has {leaf!r} under several folders ({listing(examples, 2)}), so the classes can be read in two "
        f"ways: class_from='first' gives {len(first)} ({_few(first)}), class_from='path' gives {len(path)} ({_few(path)}); say "
        f"which: {tree.advice(class_from='first')}. If the first folders are splits, name one: split={one!r}"
    )


def _few(names: Iterable[str]) -> str:
    return listing(sorted(names, key=natural_order), 3)


def _refuse_inner_splits(tree: Tree, base: Names, folders: Sequence[Names]) -> None:
    """Raises a DataError if the classes, or folders inside of them, look like different splits."""
    for depth in range(max(map(len, folders), default=0)):
        level = {folder[depth]: folder for folder in sorted(set(folders)) if len(folder) > depth}
        splits = {split_of(name): folder[: depth + 1] for name, folder in level.items() if split_of(name)}
        if len(splits) > 1:
            raise DataError(
                f"{listing(tree.path_to((*base, *folder)) for folder in splits.values())} look like splits, below the folders "
                f"that would be classes; they are not merged unasked. Put the splits above the classes (train/cat, test/cat), "
                f"or take all images together: {tree.advice(split=None)}{_as_classes(tree, base) if not depth else ''}"
            )


def _as_classes(tree: Tree, base: Names) -> str:
    """Returns what to do where classes are called like splits."""
    line = f"petl.data.dataset({tree.path_to(base)!r}, petl.data.pipeline(model), split='.')"
    return f". If they are classes, take this folder as it is: {line}"
